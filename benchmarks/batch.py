"""Rows per second, and memory, of batch inference: `vedette batch run` beside what else is used for it.

python benchmarks/batch.py [--models mobilenet_v2,mobilenet_v2-int8,resnet50-int8] [--rows 1500] [--repeats 5]
                           [--engines vedette-ray,ray-data,...]

All engines (`batch_engines.py`) run the same model over the same photographs in the same Parquet file (row groups of
50) in one go, taking turns, each run in a process of its own:

    vedette-ray     `vedette batch run`: Ray actors, on a cluster that is there already
    vedette-local   the same with --local
    ray-data        `ray.data.read_parquet(...).map_batches(...)` on such a cluster: an actor pool decodes and infers
    ray-data-apart  the same, where decoding has tasks of its own
    daft            a class with `@daft.method.batch`, in processes (left out where daft is not installed)
    torch-loader    torch's DataLoader with a process a core that decodes, one session
    plain           the script that tutorials show: read the table, loop over batches, default session

Memory is the most that a run and all processes that it began hold together, each page counted once (proportional set
size), as a look every other second shows it: looking takes time of the processor, too, and most where there are most
processes.
Rows a second are counted from the moment that an engine begins to read, which has workers to start and models to load
first; `at work` are those from the first shard's begin to the last one's commit, which Vedette's reports tell. A
cluster is begun for each run that needs one, and left alone until its own processes have come to rest.

The ceilings are what the cores could do if there were nothing but reading, decoding or inference, and the roofline if
nothing but decoding, resizing and inference took time. They are measured alone in each turn, inference in batches of
the size that was the fastest in a try before, on one core while the others rest; and again on all cores at once
(`busy`), for cores share caches, memory and, where the machine is a virtual one, more. `In turns` is a loop on each
core that decodes some, infers them, and does nothing else: what decoding and inference cost each other is in it. The
answers of all engines must agree.

Needs Vedette's test data (VEDETTE_TEST_DATA).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from batch_engines import BATCH, ENGINES, ON_RAY, Classifier, Setting, prepared
from ray_head import ray_head
from record import RESULTS, TEST_DATA, environment, keep

from runtime.store import resolve_artifact
from runtime.terminal import table

PACKAGES = ("onnxruntime", "ray", "pyarrow", "numpy", "pillow", "torch")
MODELS = ("mobilenet_v2", "mobilenet_v2-int8", "resnet50-int8")
ROW_GROUP = 50
LOOKED_AT = 2.0  # seconds between two looks at the memory; one takes 60 ms of a core where Ray runs
OBJECT_STORE = 0.3  # of the machine's memory: what Ray takes by itself
AT_REST = 8.0  # seconds after which the processes of a new cluster have loaded what they want
ALONE = 192  # photographs that decoding and inference are measured with alone
TRIED = 48  # of them, that each of `SIZES` is tried with
TURN = 16  # of them, that are decoded before they are inferred
SIZES = (1, 2, 4, 8, 16)  # batches that inference is measured with alone: in the size that is fastest


class Memory(threading.Thread):
    """Watches how much memory some processes and all below them hold."""

    def __init__(self, *pids: int) -> None:
        super().__init__(daemon=True)
        self._roots = [psutil.Process(pid) for pid in pids]
        self._ended = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Look until `end`."""
        while not self._ended.wait(LOOKED_AT):
            self.peak = max(self.peak, sum(map(_held, self._family())))

    def _family(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for root in self._roots:
            with suppress(psutil.Error):  # it has ended
                found += [root, *root.children(recursive=True)]
        return found

    def end(self) -> int:
        """Return the most bytes that were held."""
        self._ended.set()
        self.join()
        return self.peak


def _held(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0  # it has ended


def labels_in(output: Path) -> dict[int, int]:
    """Return label by number of all rows that an engine wrote."""
    folder = output / "data" if (output / "data").exists() else output
    tables = [pq.read_table(file, columns=["number", "label_id"]) for file in sorted(folder.glob("*.parquet"))]
    return {row["number"]: row["label_id"] for one in tables for row in one.to_pylist()}


def at_work(output: Path, rows: int) -> float | None:
    """Return the rows a second from the first shard's begin to the last commit, as Vedette reports it."""
    report = output / "report.json"
    if not report.is_file():
        return None
    timeline = json.loads(report.read_bytes())["timeline"]
    return float(rows / (timeline["width"] * len(timeline["rates"])))


def write_input(images: Path, path: Path, rows: int) -> list[bytes]:
    """Write *rows* JPEGs of the folder *images*, repeated as needed, to *path*; return them, each once."""
    files = [file.read_bytes() for file in sorted(images.glob("*.[jJ]*"))]
    columns = {"image": pa.array([files[n % len(files)] for n in range(rows)], pa.binary()), "number": range(rows)}
    pq.write_table(pa.table(columns), path, row_group_size=ROW_GROUP, compression="none")
    return files


def measure(engine: str, setting: Setting) -> tuple[float, int]:
    """Run *engine* in a process of its own; return the seconds that it reports, and its peak memory in bytes."""
    command = [sys.executable, __file__, "--child", engine, setting.dump()]
    given, pids = dict(os.environ), []
    with ExitStack() as stack:
        if engine in ON_RAY:
            room = int(psutil.virtual_memory().total * OBJECT_STORE)
            head = stack.enter_context(ray_head(setting.cores, room, served=False))
            time.sleep(AT_REST)
            given["RAY_ADDRESS"] = head.address
            pids.append(head.pid)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)
        memory = Memory(child.pid, *pids)
        memory.start()
        found, complaints = child.communicate()
        peak = memory.end()
    if child.returncode != 0:
        raise SystemExit(f"{engine} failed:\n{complaints[-2000:]}")
    return float(found.splitlines()[-1]), peak


def seconds_each(work: Any, items: Sequence[Any]) -> float:
    """Return the seconds that *work* takes for one of *items*, without the first."""
    work(items[0])
    started = time.perf_counter()
    for item in items:
        work(item)
    return (time.perf_counter() - started) / len(items)


def stages(setting: Setting) -> dict[str, float]:
    """Return the seconds that one image takes to read, to decode and resize, to infer, and for the latter two in turns.

    All in this thread.
    """
    batch = next(pq.ParquetFile(setting.input).iter_batches(batch_size=ALONE, columns=["image"]))
    some = batch.column("image").to_pylist()
    classifier = Classifier(setting.model)
    inputs = [prepared(data, normalized=classifier.normalized) for data in some]
    started = time.perf_counter()
    rows = sum(batch.num_rows for batch in pq.ParquetFile(setting.input).iter_batches(batch_size=BATCH))
    reading = (time.perf_counter() - started) / rows

    def batches(images: int, size: int) -> list[npt.NDArray[np.generic]]:
        return [np.stack(inputs[at : at + size]) for at in range(0, images - size + 1, size)]

    def infer(images: int, size: int) -> float:
        return seconds_each(classifier.labels, batches(images, size)) / size

    def decode(data: bytes) -> None:
        prepared(data, normalized=False)

    fastest = min(SIZES, key=lambda size: infer(TRIED, size))
    made = batches(len(inputs), fastest)

    def turn(first: int) -> None:
        for data in some[first : first + TURN]:
            decode(data)
        for batch in made[first // fastest : (first + TURN) // fastest]:
            classifier.labels(batch)

    return {
        "read": reading,
        "decode": seconds_each(decode, some),
        "infer": infer(len(inputs), fastest),  # anew: the least of several noisy figures is less than any takes
        "turns": seconds_each(turn, range(0, len(some), TURN)) / TURN,
    }


def measured_alone(setting: Setting, processes: int) -> dict[str, float]:
    """Return the `stages` of so many *processes* that run at the same time, on average."""
    command = [sys.executable, __file__, "--child", "stages", setting.dump()]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = [json.loads(child.communicate()[0]) for child in children]
    return {stage: statistics.mean(one[stage] for one in found) for stage in found[0]}


def ceilings(of_one: Sequence[dict[str, float]], of_all: Sequence[dict[str, float]], cores: int) -> dict[str, float]:
    """Return rows a second, by what were done alone, from the medians of what one core took, and all at once."""
    one, all_ = (
        {stage: statistics.median(found[stage] for found in runs) for stage in runs[0]} for runs in (of_one, of_all)
    )
    seconds = {
        "read only, one core": one["read"],
        "decode only": one["decode"] / cores,
        "infer only": one["infer"] / cores,
        "roofline": (one["decode"] + one["infer"]) / cores,
        "roofline, all cores busy": (all_["decode"] + all_["infer"]) / cores,
        "decode, infer in turns, all cores busy": all_["turns"] / cores,
    }
    return {what: round(1 / spent, 1) for what, spent in seconds.items()}


def resnet50_file(files: Sequence[bytes], path: Path) -> Path:
    """Write ResNet50 with random weights, which saw some of the photographs *files*, to *path*."""
    import onnx
    import torch
    from networks import resnet50

    from controller.lifecycle.export import EXAMPLE_BATCH, export_by_dynamo

    pixels = torch.from_numpy(np.stack([prepared(data, normalized=True) for data in files[:BATCH]]).astype(np.float32))
    graph, _ = export_by_dynamo(resnet50(pixels), torch.zeros(EXAMPLE_BATCH, *pixels.shape[1:]), ["logits"])
    onnx.save(graph, path)
    return path


def published(name: str, images: Path, files: Sequence[bytes], work: Path) -> tuple[str, Path]:
    """Publish the model called *name*; return its reference, and the file that the other engines are given."""
    network, _, precision = name.partition("-")
    source = TEST_DATA / "models" / f"{network}.onnx"
    if network == "resnet50":
        source = resnet50_file(files, work / "resnet50.onnx")
    model = name.replace("_", "-")
    command = [str(Path(sys.executable).with_name("vedette")), "model", "import", str(source), "--name", model]
    command += ["--task", "classification", "--preprocess", "imagenet", "--precision"]
    pictures = ["--calibration", str(images), "--evaluation", str(images)]  # one of a class: none can be held out
    command += ["fp32,int8", *pictures, "--max-drop", "100"] if precision else ["fp32"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    artifact = resolve_artifact(model)
    wanted = precision or "fp32"
    variant = next((one for one in artifact.manifest.variants if one.precision == wanted), None)
    if variant is None:
        raise SystemExit(f"{name}: no variant in {wanted} earned its place")
    return artifact.manifest.reference, artifact.verified_path(variant) if precision else source


def compare(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all engines on the model called *name* in turns, once to warm up and then *repeats* times."""
    source = work / "images.parquet"
    files = write_input(options.images, source, options.rows)
    reference, model = published(name, options.images, files, work)

    def setting(output: Path) -> Setting:
        return Setting(
            reference=reference, model=str(model), input=str(source), output=str(output), cores=options.cores
        )

    rates: dict[str, list[float]] = {engine: [] for engine in options.engines}
    peaks: dict[str, list[int]] = {engine: [] for engine in options.engines}
    working: dict[str, list[float]] = {engine: [] for engine in options.engines}
    answers: dict[str, dict[int, int]] = {}
    of_one, of_all = [], []
    for turn in range(options.repeats + 1):
        of_one.append(measured_alone(setting(work / "none"), 1))
        of_all.append(measured_alone(setting(work / "none"), options.cores))
        for engine in options.engines:
            output = work / f"{engine}-{turn}"
            seconds, peak = measure(engine, setting(output))
            answers[engine], pace = labels_in(output), at_work(output, options.rows)
            shutil.rmtree(output)
            if turn > 0:  # the first run warms caches: proofs, pages, compiled files
                working[engine] += [pace] if pace else []
                rates[engine].append(options.rows / seconds)
                peaks[engine].append(peak)
            print(
                f"{name}: turn {turn}: {engine:15} {options.rows / seconds:8.1f} rows/s  {peak / 1e6:6.0f} MB",
                flush=True,
            )
    first = answers[options.engines[0]]
    rows = [
        {
            "engine": engine,
            "rows_per_second": round(statistics.median(rates[engine]), 1),
            "at_work": round(statistics.median(working[engine]), 1) if working[engine] else None,
            "peak_mb": round(statistics.median(peaks[engine]) / 1e6),
            "agrees": round(sum(answers[engine].get(n) == label for n, label in first.items()) / options.rows, 4),
        }
        for engine in options.engines
    ]
    alone = {"ceilings": ceilings(of_one, of_all, options.cores), "seconds_alone": {"one": of_one, "all": of_all}}
    return {"rows": rows, **alone, "rates": rates, "at_work": working, "peaks": peaks}


def with_ratios(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the rows of the table: beside each figure its ratio to Ray Data's better way, and to the roofline."""
    ours = [row for row in found["rows"] if row["engine"].startswith("ray-data")]
    base = max(ours, key=lambda row: row["rows_per_second"], default=None)
    roofline, busy = (found["ceilings"][name] for name in ("roofline", "roofline, all cores busy"))
    return [
        (
            row["engine"],
            row["rows_per_second"],
            f"{row['rows_per_second'] / base['rows_per_second']:.2f}" if base else "-",
            f"{row['rows_per_second'] / roofline:.2f}",
            *((f"{row['at_work'] / most:.2f}" if row["at_work"] else "-") for most in (roofline, busy)),
            row["peak_mb"],
            f"{row['peak_mb'] / base['peak_mb']:.2f}" if base else "-",
            f"{row['agrees']:.1%}",
        )
        for row in found["rows"]
    ]


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", type=lambda text: text.split(","))
    parser.add_argument("--results", type=Path, default=RESULTS / "batch.json")
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        engine, text = options.child
        print(json.dumps(stages(Setting.parse(text))) if engine == "stages" else ENGINES[engine](Setting.parse(text)))
        return
    options.images = TEST_DATA / "images" / "imagenet300"
    if not options.images.is_dir():
        raise SystemExit(f"no test data in {TEST_DATA}: set VEDETTE_TEST_DATA")
    has_daft = importlib.util.find_spec("daft") is not None
    options.engines = options.engines or [name for name in ENGINES if has_daft or name != "daft"]
    options.cores = len(os.sched_getaffinity(0))
    path = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # workers import what `batch_engines` defines
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as where it is installed, modules are compiled once
    packages = (*PACKAGES, "daft") if has_daft else PACKAGES
    kept = json.loads(options.results.read_text()) if options.results.is_file() else {}
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="vedette-bench-") as work:
            os.environ["VEDETTE_HOME"] = str(Path(work) / "home")
            found = compare(name, options, Path(work))
        headings = ("engine", "rows/s", "x ray-data", "x roofline", "at work", "x busy", "MB", "x ray-data", "agrees")
        print(f"\n{name}\n{table(headings, with_ratios(found))}\n")
        print(table(("alone", "rows/s"), list(found["ceilings"].items())), flush=True)
        kept[name] = {**environment(packages, cores=options.cores, rows=options.rows, repeats=options.repeats), **found}
        keep(kept, options.results)


if __name__ == "__main__":
    main()
