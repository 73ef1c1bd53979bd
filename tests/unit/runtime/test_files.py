"""Durable files: whole or not at all, one winner, and no temporary file that could pass for data."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime import files
from runtime.errors import HomeError
from runtime.files import create_bytes, exclusive_lock, hash_file, replace_bytes, replace_symlink, replacing

HOLD_LOCK = """
import sys, time
from pathlib import Path
from runtime.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "the store"):
    print("held", flush=True)
    time.sleep(60)
"""

CREATE = """
import sys
from pathlib import Path
from runtime.files import create_bytes
sys.stdin.readline()
try:
    create_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
except FileExistsError:
    print("lost")
else:
    print("won")
"""

REPLACE_FOREVER = """
import sys
from pathlib import Path
from runtime.files import replace_bytes
number = 0
while True:
    replace_bytes(Path(sys.argv[1]), str(number % 10).encode() * 50_000)
    number += 1
    print(number, flush=True)
"""


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_replace_makes_directories_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "secret"
    replace_bytes(path, b"one", mode=0o600)
    replace_bytes(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(path.parent) == ["secret"]


def test_what_is_written_is_synced_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} {target.name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    replace_bytes(tmp_path / "new" / "file", b"data")
    temporary = events[1].removeprefix("sync ")
    assert temporary.startswith(".tmp-")
    assert events == [f"sync {tmp_path.name}", f"sync {temporary}", f"rename {temporary} file", "sync new"]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_bytes(path, b"old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_readers_see_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 30_000 for letter in b"ab"]
    replace_bytes(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            replace_bytes(path, contents[number % 2])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not done.is_set():
            assert path.read_bytes() in contents
        writing.result(timeout=30)


def test_a_killed_writer_leaves_whole_content_and_only_hidden_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with subprocess.Popen(
        [sys.executable, "-c", REPLACE_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        for line in writer.stdout:
            if int(line) >= 20:
                writer.send_signal(signal.SIGKILL)
                break
        writer.wait(timeout=30)
    assert re.fullmatch(rb"(\d)\1{49999}", path.read_bytes())
    assert all(name == "file" or name.startswith(".tmp-") for name in names_in(tmp_path))


def test_create_leaves_what_is_there(tmp_path: Path) -> None:
    create_bytes(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_bytes(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names_in(tmp_path) == ["file"]


def test_of_many_threads_one_creates(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait(timeout=30)
        try:
            create_bytes(tmp_path / "file", str(number).encode() * 10_000)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert (tmp_path / "file").read_bytes() == str(won.index(True)).encode() * 10_000
    assert names_in(tmp_path) == ["file"]


def test_of_many_processes_one_creates(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path / "file"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert sorted(answers) == ["lost", "lost", "lost", "won"]
    assert (tmp_path / "file").read_bytes() == str(answers.index("won")).encode() * 100_000


def test_a_symlink_always_points_at_one_of_its_targets(tmp_path: Path) -> None:
    link = tmp_path / "active"
    replace_symlink(link, "slot-0")
    barrier = threading.Barrier(4)

    def switch(number: int) -> None:
        barrier.wait(timeout=30)
        for _ in range(10):
            replace_symlink(link, f"slot-{number}")

    with ThreadPoolExecutor(4) as pool:
        switching = [pool.submit(switch, number) for number in range(4)]
        while not all(future.done() for future in switching):
            assert re.fullmatch(r"slot-[0-3]", str(link.readlink()))
        for future in switching:
            future.result(timeout=30)
    assert names_in(tmp_path) == ["active"]


def test_a_symlink_replaces_no_directory(tmp_path: Path) -> None:
    (tmp_path / "active").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_symlink(tmp_path / "active", "slot-0")
    assert names_in(tmp_path) == ["active"]


def test_hash_is_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert hash_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_held_lock_names_what_and_who_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HomeError, match=rf"the store is in use by process {holder.pid} \(lock .*\)"):
            exclusive_lock(path, "the store").__enter__()
        holder.kill()
        holder.wait(timeout=30)
    with exclusive_lock(path, "the store"):
        assert path.read_text() == str(os.getpid())


def test_a_lock_is_exclusive_within_a_process_too_and_given_back(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock", "it"), pytest.raises(HomeError, match=f"process {os.getpid()}"):
        exclusive_lock(tmp_path / "lock", "it").__enter__()
    with exclusive_lock(tmp_path / "lock", "it"):
        pass
    assert (tmp_path / "lock").read_text() == ""


def test_all_that_is_public_is_listed() -> None:
    defined = {name for name, value in vars(files).items() if getattr(value, "__module__", "") == "runtime.files"} - {
        name for name in vars(files) if name.startswith("_")
    }
    assert defined == set(files.__all__)
