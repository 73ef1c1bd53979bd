"""A million small images in one job: is it as fast at its end as at its beginning, and does its driver stay small?

    python benchmarks/scale.py [--rows 1000000] [--local] [--work DIRECTORY] [--out benchmarks/results/scale.json]

The input is CIFAR-10's test pictures, again and again, each time shifted and brightened otherwise, so that no PNG is
like another; files of 100,000 rows, row groups of 1,000. The model is MLPerf Tiny's ResNet8. `vedette batch run` is a
process of its own, and every second this one looks at how much memory it holds, by itself, without Ray's processes.

The figures: seconds of the planner (`plan_job`, before anything is started); rows a second in each tenth of the time
from the first row to the last commit, and the last third of it against the first; the same in processor time (of the
driver and all its processes), which says what a busy machine hides; the driver's resident memory when 10, 50 and 100 %
of the rows were committed; seconds until the first commit, and from the last one to the end of the process: files
joined, classes counted, report written, Ray ended.

Needs Vedette's test data (VEDETTE_TEST_DATA).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from record import RESULTS, TEST_DATA, environment, keep

from cluster.output.commit import OutputDirectory
from cluster.output.records import Commit
from cluster.planning import BatchOptions, plan_job
from runtime.terminal import table

PACKAGES = ("onnxruntime", "ray", "pyarrow", "numpy", "pillow")
FILE_ROWS, ROW_GROUP = 100_000, 1000
EVERY = 1.0  # seconds between two looks at the driver
SHARES = (0.1, 0.5, 1.0)  # of the rows, after which the driver's memory is told
TENTHS = 10
MODEL = "resnet8"
MIB = 1024**2


def pictures(path: Path) -> npt.NDArray[np.uint8]:
    """Return (n, 32, 32, 3) uint8 RGB: the pictures in the Parquet file *path*."""
    cells = pq.read_table(path, columns=["img"]).column("img").to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])


def variations(source: npt.NDArray[np.uint8]) -> Iterator[bytes]:
    """Yield PNGs without end: *source*, (n, H, W, 3) RGB, in each turn shifted and brightened otherwise."""
    for turn in count():
        shifted = np.roll(source, (turn % 8, turn // 8 % 8), axis=(1, 2))
        brightened = np.clip(shifted.astype(np.int16) + turn % 31 - 15, 0, 255).astype(np.uint8)
        for pixels in brightened[..., ::-1]:  # OpenCV writes BGR
            yield cv2.imencode(".png", np.ascontiguousarray(pixels), (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()


def write_input(folder: Path, rows: int) -> None:
    """Write *rows* numbered pictures to Parquet files in the new *folder*, a row group in memory at a time."""
    folder.mkdir(parents=True)
    images = variations(pictures(TEST_DATA / "images" / "cifar10_test.parquet"))
    schema = pa.schema([("image", pa.binary()), ("number", pa.int64())])
    for start in range(0, rows, FILE_ROWS):
        stop = min(start + FILE_ROWS, rows)
        path = folder / f"part-{start // FILE_ROWS:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
            for first in range(start, stop, ROW_GROUP):
                numbers = range(first, min(first + ROW_GROUP, stop))
                group = {"image": [next(images) for _ in numbers], "number": numbers}
                file.write_table(pa.table(group, schema=schema), row_group_size=ROW_GROUP)


def command(*arguments: str) -> list[str]:
    """Return the command line of ``vedette`` with *arguments*."""
    return [str(Path(sys.executable).with_name("vedette")), *arguments]


def publish() -> None:
    """Import ResNet8 under the name `MODEL`."""
    source = TEST_DATA / "models" / "resnet8_cifar10_nhwc.onnx"
    how = ("--task", "classification", "--preprocess", "raw255", "--precision", "fp32")
    subprocess.run(command("model", "import", str(source), "--name", MODEL, *how), check=True, capture_output=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a process held at a time.

    Attributes:
        time: In seconds since 1970.
        rss: Its resident memory, in bytes.
        pss: The same where shared pages count in part.
        cpu: Seconds of the processor that it and all below it have had.
    """

    time: float
    rss: int
    pss: int
    cpu: float


class Watch(threading.Thread):
    """Looks every second at how much memory one process holds, and how much processor time its family had."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._looks: list[Look] = []
        self._seconds: dict[int, float] = {}  # of the processor, by process; those that have ended, too

    def run(self) -> None:
        """Look until `end`."""
        while not self._ended.wait(EVERY):
            try:
                held = self._process.memory_full_info()
                family = [self._process, *self._process.children(recursive=True)]
            except (psutil.Error, OSError):
                return  # it has ended
            if held.rss:
                self._seconds |= {one.pid: seconds for one in family if (seconds := _processor_seconds(one))}
                cpu = sum(self._seconds.values())
                self._looks.append(Look(time=time.time(), rss=held.rss, pss=held.pss, cpu=cpu))

    def end(self) -> list[Look]:
        """Return what was seen."""
        self._ended.set()
        self.join()
        return self._looks


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except (psutil.Error, OSError):
        return 0.0  # it has ended
    return times.user + times.system


def planned(options: BatchOptions) -> tuple[float, int]:
    """Return the seconds that a plan takes, and its shards."""
    begun = time.perf_counter()
    job = plan_job(options)
    return time.perf_counter() - begun, len(job.shards)


def measure(options: BatchOptions) -> tuple[float, float, list[Look]]:
    """Run the job of *options* as a process; return when it began and ended, in seconds since 1970, and its memory."""
    asked = ["--model", *options.models, "--input", options.input, "--output", options.output]
    asked += [*(["--keep", ",".join(options.keep)] if options.keep else []), *(["--local"] if options.local else [])]
    begun = time.time()
    child = subprocess.Popen(command("batch", "run", *asked, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watch = Watch(child.pid)
    watch.start()
    _, complaints = child.communicate()
    ended = time.time()
    if child.returncode != 0:
        raise SystemExit(f"the job failed: {complaints.decode()[-2000:]}")
    return begun, ended, watch.end()


def passed_by(commits: Sequence[Commit], share: float) -> float:
    """Return when *share* of the rows of *commits* were committed, in seconds since 1970."""
    wanted = share * sum(commit.rows for commit in commits)
    done = 0
    for commit in sorted(commits, key=lambda one: one.finished or 0):
        done += commit.rows
        if done >= wanted:
            return commit.finished or 0.0
    raise AssertionError("no share is more than all")


def pace(timeline: dict[str, Any]) -> dict[str, Any]:
    """Return rows a second in each tenth of *timeline*, and its last third against its first."""
    rates = timeline["rates"]
    third = len(rates) // 3
    tenths = [mean(rates[len(rates) * n // TENTHS : len(rates) * (n + 1) // TENTHS]) for n in range(TENTHS)]
    return {
        "rows_per_second": round(timeline["rows"] / (timeline["width"] * len(rates)), 1),
        "tenths": [round(rate, 1) for rate in tenths],
        "last_third_to_first": round(mean(rates[-third:]) / mean(rates[:third]), 3),
    }


def costs(commits: Sequence[Commit], looks: Sequence[Look]) -> dict[str, Any]:
    """Return the processor milliseconds of a row in each tenth of the rows, and of the last third against the first."""
    rows = sum(commit.rows for commit in commits)
    times, seconds = [look.time for look in looks], [look.cpu for look in looks]

    def spent(start: float, stop: float) -> float:
        begun, ended = np.interp([passed_by(commits, start), passed_by(commits, stop)], times, seconds)
        return float(1000 * (ended - begun) / (rows * (stop - start)))

    tenths = [round(spent(n / TENTHS, (n + 1) / TENTHS), 3) for n in range(TENTHS)]
    return {"cpu_ms_a_row": tenths, "cpu_last_third_to_first": round(spent(2 / 3, 1) / spent(0.02, 1 / 3), 3)}


def found_of(options: BatchOptions, rows: int, begun: float, ended: float, looks: Sequence[Look]) -> dict[str, Any]:
    """Return the figures of a job that ended."""
    output = OutputDirectory.open(options.output)
    report = json.loads(output.store.read("report.json") or b"")
    commits = list(output.commits().values())
    if report["rows"] != {"in": rows, "out": rows, "quarantined": 0, "filtered": 0}:
        raise SystemExit(f"{rows} rows went in, {report['rows']} came out")

    def held(share: float) -> Look:
        """Return the last look before *share* of the rows were there; at all of them, the last of all."""
        until = passed_by(commits, share) if share < 1 else ended
        return [look for look in looks if look.time <= until][-1]

    return {
        **pace(report["timeline"]),
        **costs(commits, looks),
        "driver_rss_mb": {f"{share:.0%}": round(held(share).rss / MIB) for share in SHARES},
        "driver_pss_mb": {f"{share:.0%}": round(held(share).pss / MIB) for share in SHARES},
        "first_commit_seconds": round(min(commit.finished or 0.0 for commit in commits) - begun, 2),
        "end_seconds": round(ended - passed_by(commits, 1), 2),
        "total_seconds": round(ended - begun, 1),
        "files": len(list(Path(options.output, "data").iterdir())),
    }


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--local", action="store_true", help="without Ray: the driver is the worker, too")
    parser.add_argument("--work", type=Path, help="where the input is made, once for several runs [default: temporary]")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    given = parser.parse_args()
    if not (TEST_DATA / "images").is_dir():
        raise SystemExit(f"no test data in {TEST_DATA}: set VEDETTE_TEST_DATA")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever else runs here goes before Ray's workers
    with tempfile.TemporaryDirectory(prefix="vedette-scale-") as temporary:
        os.environ["VEDETTE_HOME"] = str(Path(temporary, "home"))
        source = (given.work or Path(temporary)) / f"rows-{given.rows}"
        if not source.exists():
            begun = time.perf_counter()
            write_input(source, given.rows)
            print(f"{given.rows} pictures made in {time.perf_counter() - begun:.0f} s", flush=True)
        publish()
        options = BatchOptions(
            models=(MODEL,), input=str(source), output=f"{temporary}/out", keep=("number",), local=given.local
        )
        planning, shards = planned(options)
        print(f"planned in {planning:.2f} s: {shards} shards", flush=True)
        found = {
            "rows": given.rows,
            "shards": shards,
            "planner_seconds": round(planning, 3),
            **found_of(options, given.rows, *measure(options)),
        }
    name = "local" if given.local else "ray"
    print(table((f"{name}, {given.rows} rows", ""), [(fact, str(value)) for fact, value in found.items()]))
    kept = json.loads(given.out.read_text()) if given.out.is_file() else {}
    cores = len(os.sched_getaffinity(0))
    keep({**kept, name: {**environment(PACKAGES, cores=cores), **found}}, given.out)


if __name__ == "__main__":
    main()
