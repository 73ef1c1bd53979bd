"""`vedette batch run` in processes of its own, over rows whose right answers are known, and what it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from color_model import LABELS, picture

from cluster import read_output
from cluster.output.read import read_manifest

DEADLY = Path(__file__).with_name("deadly")


def start(model: Path, rows: Path, out: Path, *arguments: str, env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    """Start the command over *rows* into *out*; further *arguments* count after the usual ones."""
    command = [str(Path(sys.executable).with_name("vedette")), "batch", "run"]
    command += ["--model", str(model), "--input", str(rows), "--output", str(out)]
    keep = [] if "--keep" in arguments else ["--keep", "number"]
    command += ["--json", *keep, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


def finish(process: subprocess.Popen[str], patience: float = 150) -> dict:
    """Return the summary of a run that must succeed, within *patience* seconds."""
    stdout, stderr = process.communicate(timeout=patience)
    assert process.returncode == 0, stderr
    return json.loads(stdout)


def commits(out: Path) -> int:
    """Return how many shards are committed."""
    return len(list(out.glob("_commits/[!.]*.json")))


def actors(out: Path) -> set[int]:
    """Return the processes that committed something."""
    return {int(json.loads(path.read_bytes())["ran_on"]["pid"]) for path in out.glob("_commits/[!.]*.json")}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until *condition* holds; *what* says what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def quarantine(out: Path) -> list[dict]:
    """Return the rows in quarantine, in the order of the input."""
    files = json.loads((out / "_manifest.json").read_bytes())["quarantine"]
    return [row for file in files for row in pq.read_table(out / file["path"]).to_pylist()]


def assert_every_row_once(out: Path, rows: int, without: Collection[int]) -> None:
    """Assert that *out* has the right answer for rows 0 to *rows* once each, but for those *without* one."""
    table = read_output(out)
    numbers = table.column("number").to_pylist()
    assert numbers == [n for n in range(rows) if n not in without]
    assert table.column("label").to_pylist() == [LABELS[n % 3] for n in numbers]


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the processes, of Ray too, whose environment names this test's home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("VEDETTE_HOME") == str(home):
                found.append(process)
    return found


def deadly_picture(color: int, death: str = "SIGKILL") -> bytes:
    """Return a picture that kills the process that loads it, if `DEADLY` is on its PYTHONPATH; a good one else."""
    return picture(color) + f"dies of {death}".encode()


def write_deadly_rows(path: Path, rows: int, deadly: Mapping[int, str], row_group: int = 50) -> Path:
    """Write *rows* pictures of which those *deadly* kill by the signal named."""
    images = [
        deadly_picture(number % 3, deadly[number]) if number in deadly else picture(number % 3)
        for number in range(rows)
    ]
    table = pa.table({"image": pa.array(images, pa.binary()), "number": pa.array(range(rows), pa.int32())})
    pq.write_table(table, path, row_group_size=row_group)
    return path


def assert_nothing_besides(out: Path) -> None:
    """Only the files that the manifest names are left of all that was written."""
    named = {written.path for written in read_manifest(str(out)).data}
    assert {f"data/{path.name}" for path in (out / "data").iterdir()} == named
