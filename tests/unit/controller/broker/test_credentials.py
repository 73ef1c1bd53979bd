from __future__ import annotations

import base64
import shutil
import subprocess

import bcrypt
import pytest

from controller.broker.credentials import Credential, Login, mosquitto_hash, new_password


def test_passwords_are_random_and_within_bcrypts_limit():
    made = {new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password.encode()) == 43 for password in made)


def test_a_login_does_not_show_its_password():
    assert "secret" not in repr(Login(username="cam1", password="secret"))


def test_the_hash_for_nats_is_bcrypt_of_the_password():
    login = Login(username="cam1", password=new_password())
    hashed = Credential.of(login).bcrypt
    assert hashed.startswith("$2b$")
    assert bcrypt.checkpw(login.password.encode(), hashed.encode())
    assert not bcrypt.checkpw(b"another", hashed.encode())


def test_the_hash_for_mosquitto_is_the_one_that_mosquitto_passwd_makes(tmp_path):
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("no program mosquitto_passwd here: apt-get install mosquitto")
    file = tmp_path / "passwords"
    subprocess.run([program, "-c", "-b", file, "cam1", "secret"], check=True, capture_output=True)
    theirs = file.read_text().strip().removeprefix("cam1:")
    salt = base64.b64decode(theirs.split("$")[3])
    assert mosquitto_hash("secret", salt) == theirs


def test_the_same_password_hashes_differently_each_time():
    assert mosquitto_hash("secret") != mosquitto_hash("secret")
