"""How long a batch job takes to begin, and a small one to end: seconds of 100 images.

    python benchmarks/startup.py [--repeats 5] [--jobs mobilenet_v2,digits] [--out benchmarks/results/startup.json]

Two jobs of 100 images: photographs of ImageNet and MobileNetV2, digits and the model of `--arch tiny`. Each is run

    local        `vedette batch run --local`, a fresh process: seconds in all
    ray          the same without --local, where the job starts Ray itself: seconds from Ray being up to a commit
    ray-running  on a cluster that is there already (`ray start --head`)

once as on a new machine, where nothing is proven yet (cold), then in turns with what the first run left (warm). Beside
the seconds in all stands how long this machine takes to start Python and load what the command needs (imports), and
what it took of the processor: on a busy machine that says more.

Needs Vedette's test data (VEDETTE_TEST_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from ray_head import ray_head
from record import RESULTS, TEST_DATA, environment, keep

from runtime.terminal import table

PACKAGES = ("onnxruntime", "ray", "pyarrow", "numpy", "opencv-python-headless")
ROWS, ROW_GROUP = 100, 50
JOBS = ("mobilenet_v2", "digits")
IMPORTS = "import runtime.cli, cluster.cli, cluster.job, onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took.

    Attributes:
        seconds: In all, as its caller saw it.
        first: From Ray being up, or from the beginning of the work, to the first commit.
        processor: Seconds of the processor, of the command and all that it started and waited for.
    """

    seconds: float
    first: float
    processor: float


def vedette(*arguments: str) -> str:
    """Run the command with *arguments*; return what it printed."""
    command = [str(Path(sys.executable).with_name("vedette")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def publish(name: str, work: Path) -> tuple[str, Path]:
    """Publish the model of the job *name*; return its reference, and its images in Parquet."""
    source = work / f"{name}.parquet"
    if name == "digits":
        vedette("train", "--data", "digits#train", "--arch", "tiny", "--epochs", "1", "--out", str(work / "run"))
        vedette("model", "import", str(work / "run"), "--name", "digits", "--precision", "fp32")
        every = work / "all.parquet"
        vedette("data", "convert", "digits#test", str(every))
        pq.write_table(pq.read_table(every).slice(0, ROWS), source, row_group_size=ROW_GROUP, compression="none")
        return "digits", source
    files = sorted((TEST_DATA / "images" / "imagenet300").glob("*.[jJ]*"))[:ROWS]
    images = pa.array([file.read_bytes() for file in files], pa.binary())
    pq.write_table(pa.table({"image": images}), source, row_group_size=ROW_GROUP, compression="none")
    how = ("--task", "classification", "--preprocess", "imagenet", "--precision", "fp32")
    vedette("model", "import", str(TEST_DATA / "models" / f"{name}.onnx"), "--name", "mobilenet-v2", *how)
    return "mobilenet-v2", source


def run(model: str, source: Path, out: Path, *where: str) -> Run:
    """Run the job once as a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = vedette("batch", "run", "--model", model, "--input", str(source), "--output", str(out), "--json", *where)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(said)
    if summary["rows"]["out"] != ROWS:
        raise SystemExit(f"{ROWS} rows went in, {summary['rows']} came out")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds=seconds, first=summary["first_commit_seconds"], processor=processor)


def imports() -> float:
    """Return the seconds that Python takes to start and load what the command needs."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - begun


def compare(name: str, repeats: int, ways: Mapping[str, Sequence[str]], work: Path) -> dict[str, Any]:
    """Run the job *name* in all *ways* by turns; return what it took."""
    model, source = publish(name, work)
    proofs = Path(os.environ["VEDETTE_HOME"]) / "cache"
    found: dict[str, list[Run]] = {way: [] for way in ways}
    cold: dict[str, Run] = {}
    loading = []
    for way, where in ways.items():
        shutil.rmtree(proofs, ignore_errors=True)
        cold[way] = run(model, source, work / "out", *where)
    for _ in range(repeats):
        loading.append(imports())
        for way, where in ways.items():
            found[way].append(run(model, source, work / "out", *where))
    rows = [
        {
            "way": way,
            "seconds": round(median(one.seconds for one in runs), 2),
            "first_commit": round(median(one.first for one in runs), 2),
            "processor": round(median(one.processor for one in runs), 2),
            "least_seconds": round(min(one.seconds for one in runs), 2),
            "least_first_commit": round(min(one.first for one in runs), 2),
            "cold_seconds": round(cold[way].seconds, 2),
            "cold_first_commit": round(cold[way].first, 2),
        }
        for way, runs in found.items()
    ]
    return {"imports_seconds": round(median(loading), 2), "rows": rows}


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=list(JOBS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    given = parser.parse_args()
    if not (TEST_DATA / "images" / "imagenet300").is_dir():
        raise SystemExit(f"no test data in {TEST_DATA}: set VEDETTE_TEST_DATA")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever else runs here goes before Ray's workers
    kept = json.loads(given.out.read_text()) if given.out.is_file() else {}
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vedette-startup-")))
        os.environ["VEDETTE_HOME"] = str(work / "home")
        os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")  # as what is installed has it
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        running = stack.enter_context(ray_head(cores))
        ways = {"local": ("--local",), "ray": (), "ray-running": ("--address", running.address)}
        for name in given.jobs:
            found = compare(name, given.repeats, ways, work)
            headings = tuple(found["rows"][0])
            print(f"\n{name}: 100 images; Python and imports alone take {found['imports_seconds']} s")
            print(table(headings, [tuple(str(row[name]) for name in headings) for row in found["rows"]]), flush=True)
            kept[name] = {**environment(PACKAGES, cores=cores, repeats=given.repeats), **found}
            keep(kept, given.out)


if __name__ == "__main__":
    main()
