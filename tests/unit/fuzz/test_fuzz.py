"""The fuzzer itself: what it draws, what it calls a failure, and what it does when a process dies."""

from __future__ import annotations

import importlib
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from picture_files import encoded, gradient, png_chunks

from runtime.errors import ImageError
from runtime.images import Decoded, DecodeOptions, decode

FUZZER = Path(__file__).parents[2] / "fuzz"
OPTIONS = DecodeOptions()
NAMES = ("journal", "mutations", "seeds", "supervisor", "trial")


@pytest.fixture
def fuzzer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The fuzzer's modules, which its command finds beside itself."""
    monkeypatch.syspath_prepend(str(FUZZER))
    modules = {name: importlib.import_module(name) for name in NAMES}
    monkeypatch.setattr(modules["trial"], "MAX_RSS", 1 << 40)  # this process has run other tests
    yield modules
    for name in NAMES:
        sys.modules.pop(name, None)


def test_the_same_number_draws_the_same_mutant(fuzzer: dict[str, ModuleType]) -> None:
    files = fuzzer["seeds"].seeds()
    first = [fuzzer["trial"].draw(3, number, files) for number in range(200)]
    assert first == [fuzzer["trial"].draw(3, number, files) for number in range(200)]
    assert first != [fuzzer["trial"].draw(4, number, files) for number in range(200)]
    assert len({data for data, _ in first}) > 190
    assert {options.allow_truncated for _, options in first} == {False, True}


def test_what_is_mutated_is_sound(fuzzer: dict[str, ModuleType]) -> None:
    sound = [*fuzzer["seeds"]._jpegs(), *fuzzer["seeds"]._pngs(), *fuzzer["seeds"]._webps(), *fuzzer["seeds"]._others()]
    assert {decode(data).shape[2] for data in sound} == {3}
    assert len(sound) > 40


def test_every_mutation_takes_every_file(fuzzer: dict[str, ModuleType]) -> None:
    mutations, files = fuzzer["mutations"], fuzzer["seeds"].seeds()
    rng = random.Random(0)
    for signature, own in mutations.STRUCTURED.items():
        theirs = [data for data in files if data.startswith(signature)]
        for mutation in own:
            changed = [mutation(rng, rng.choice(theirs), files) for _ in range(30)]
            assert any(data not in theirs for data in changed), mutation
            mutation(rng, signature, files)  # nothing behind the signature


def test_checksums_are_made_right(fuzzer: dict[str, ModuleType]) -> None:
    data = bytearray(encoded(gradient(), "PNG"))
    data[23] ^= 1  # the height
    with pytest.raises(ImageError, match="checksum"):
        decode(bytes(data))
    mended = fuzzer["mutations"].with_checksums(bytes(data))
    assert len(list(png_chunks(mended))) == len(list(png_chunks(bytes(data))))
    with pytest.raises(ImageError, match="bytes of pixels"):
        decode(mended)


def judged_with(fuzzer: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, read: Any, data: bytes) -> Any:
    monkeypatch.setattr(fuzzer["trial"], "read", read)
    return fuzzer["trial"].judged(data, OPTIONS)


def test_what_fails_is_called_so(fuzzer: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    data = encoded(gradient(), "PNG")
    good = decode(data)

    def raising(*_: object) -> Decoded:
        raise RecursionError("too deep")

    def unknown(*_: object) -> Decoded:
        raise ImageError("whatever", "no reason of ours")  # type: ignore[arg-type]

    def slow(*_: object) -> Decoded:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return Decoded(good, "opencv")

    def noisy(*_: object) -> Decoded:
        os.write(2, b"libpng warning\n")
        return Decoded(good, "opencv")

    monkeypatch.setattr(fuzzer["trial"], "MAX_CPU", 0.04)
    faults = {
        "raised": raising,
        "malformed": lambda *_: Decoded(good.astype(np.float32), "opencv"),  # type: ignore[arg-type]
        "differs": lambda *_: Decoded(255 - good, "opencv"),
        "slow": slow,
        "noise": noisy,
    }
    found = {name: judged_with(fuzzer, monkeypatch, read, data).outcome for name, read in faults.items()}
    assert found == {name: name for name in faults}
    assert judged_with(fuzzer, monkeypatch, unknown, data).outcome == "malformed"
    assert judged_with(fuzzer, monkeypatch, lambda *_: Decoded(good, "opencv"), data).outcome == "opencv"
    monkeypatch.setattr(fuzzer["trial"], "MAX_RSS", 1_000_000)
    assert judged_with(fuzzer, monkeypatch, lambda *_: Decoded(good, "opencv"), data).outcome == "memory"


def test_opencv_reading_what_pillow_refuses_is_a_failure(
    fuzzer: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = encoded(gradient(), "PNG")[:100]
    verdict = judged_with(fuzzer, monkeypatch, lambda *_: Decoded(gradient(), "opencv"), cut)
    assert (verdict.outcome, "Pillow refuses" in verdict.detail) == ("differs", True)


DYING = """
import json, os, signal, sys
task = json.loads(sys.argv[1])
start, stop, step = task["numbers"]
lines = open(task["journal"], "a+")
lines.seek(0)
done = len(lines.read().splitlines())
for number in range(start + done * step, stop, step):
    lines.write(f"{number} "); lines.flush()
    if number == 4: os.kill(os.getpid(), signal.SIGSEGV)
    if number == 6: os.kill(os.getpid(), signal.SIGPROF)
    if number == 8: signal.pause()
    lines.write('["pillow", 0.001, 1000, ""]\\n'); lines.flush()
"""


def test_a_process_that_dies_or_falls_silent_names_its_trial(
    fuzzer: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    supervisor, journal = fuzzer["supervisor"], fuzzer["journal"]
    monkeypatch.setattr(supervisor, "SILENCE", 1.0)
    command = (sys.executable, "-c", DYING)
    worker = supervisor.Worker(seed=0, numbers=(0, 12, 2), journal=tmp_path / "0.journal", command=command)
    supervisor.run([worker], lambda _: None)
    outcomes = {number: verdict.outcome for number, verdict in journal.read_journals(tmp_path).items()}
    assert outcomes == {0: "pillow", 2: "pillow", 4: "crash", 6: "hang", 8: "hang", 10: "pillow"}


def test_a_process_that_fails_between_trials_is_an_error(fuzzer: dict[str, ModuleType], tmp_path: Path) -> None:
    supervisor = fuzzer["supervisor"]
    command = (sys.executable, "-c", "raise SystemExit(3)")
    worker = supervisor.Worker(seed=0, numbers=(0, 12, 2), journal=tmp_path / "0.journal", command=command)
    with pytest.raises(SystemExit, match="ended with 3 between trials"):
        supervisor.run([worker], lambda _: None)
