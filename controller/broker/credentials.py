"""Passwords for the broker: random, shown once, kept only as the hashes that brokers understand.

Rules:
    * A password has 256 random bits, so nobody guesses it however fast the hash is. The hashes are
      therefore cheap on purpose: a broker checks thousands of devices that all reconnect at once
      after a power cut, and a device's password protects nothing outside this broker.
    * Both brokers' hashes are kept, so that a fleet can move from one to the other.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Self

import bcrypt

__all__ = ["Credential", "Login", "mosquitto_hash", "new_password"]

BCRYPT_ROUNDS = 4  # log2; the least that bcrypt has
PBKDF2_ITERATIONS = 101  # what mosquitto_passwd 2.0 writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user name and its password, in clear."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password=...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a broker must know to let *username* in.

    Attributes:
        username: A device's id.
        bcrypt: Hash for nats-server, ``$2b$...``.
        mosquitto: Hash for Mosquitto, ``$7$...``.
    """

    username: str
    bcrypt: str
    mosquitto: str

    @classmethod
    def of(cls, login: Login) -> Self:
        """Return the hashes of *login*'s password."""
        hashed = bcrypt.hashpw(login.password.encode(), bcrypt.gensalt(BCRYPT_ROUNDS))
        return cls(username=login.username, bcrypt=hashed.decode(), mosquitto=mosquitto_hash(login.password))


def new_password() -> str:
    """Return a new random password: 256 bits in 43 characters, within bcrypt's 72 bytes."""
    return secrets.token_urlsafe(32)


def mosquitto_hash(password: str, salt: bytes | None = None) -> str:
    """Return the line that ``mosquitto_passwd`` writes after the user name: PBKDF2 over SHA-512.

    Args:
        password: In clear.
        salt: 12 bytes; random if ``None``.
    """
    salt = secrets.token_bytes(12) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PBKDF2_ITERATIONS)
    return f"$7${PBKDF2_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
