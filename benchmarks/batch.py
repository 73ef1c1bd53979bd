"""Rows per second of batch inference: `vedette batch run` beside Ray Data's `map_batches` and a plain script.

python benchmarks/batch.py [--rows 1000] [--repeats 3] [--engines vedette-ray,ray-data,...]

All engines run the same MobileNetV2 over the same JPEGs in the same Parquet file (row groups of 50) in
one go, taking turns, each run in a process of its own. What is compared:

    vedette-ray    `vedette batch run`: Ray actors, one a core, normalization in the graph
    vedette-local  the same with --local
    ray-data       `ray.data.read_parquet(...).map_batches(...)`, as its documentation shows it: an actor
                   pool, the model's own float input. Its actors decode and resize with the very
                   functions that Vedette uses, normalize with NumPy, and take the same session options.
    plain          the script that tutorials show: read the table, loop over batches, default session

Seconds count from the moment that the engine begins to read (Ray is up, for both that use it; the
actors are not) to the moment that the output is written. The answers of all must agree.

Needs Vedette's test data (VEDETTE_TEST_DATA), or --model (.onnx, float NCHW, ImageNet) and --images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from record import RESULTS, TEST_DATA, environment, keep

from runtime.images import decode
from runtime.manifest import Preprocess, Resize
from runtime.preprocess import normalize, resize_and_crop

PACKAGES = ("onnxruntime", "ray", "pyarrow", "numpy", "pillow")
BATCH = 16
ROW_GROUP = 50
IMAGENET = Preprocess(
    resize=Resize(mode="shortest-edge", size=256),
    crop=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    scale=1 / 255,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one run is about; it travels to the child process as JSON."""

    model: str  # .onnx file, float NCHW
    input: str  # Parquet file with the columns image and number
    output: str  # directory to make
    cores: int


def prepared(data: bytes) -> npt.NDArray[np.float32]:
    """Return the model input (3, 224, 224) float32 of one encoded image, normalized with NumPy."""
    pixels = resize_and_crop(decode(data), IMAGENET)
    return np.ascontiguousarray(normalize(pixels, IMAGENET).transpose(2, 0, 1))


def session(model: str, threads: int) -> Any:
    """Return an ONNX Runtime session with *threads* (0: ONNX Runtime's default) within an operator."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class RayDataModel:
    """The callable class that `map_batches` wants."""

    def __init__(self, model: str) -> None:
        self._session = session(model, 1)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the label of each image of *batch*."""
        inputs = np.stack([prepared(data) for data in batch["image"]])
        return {
            "number": batch["number"],
            "label_id": self._session.run(None, {self._input: inputs})[0].argmax(axis=1),
        }


def run_ray_data(setting: Setting) -> float:
    """Run Ray Data's way; return the seconds."""
    import ray

    ray.init(num_cpus=setting.cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    rows = ray.data.read_parquet(setting.input, columns=["image", "number"], override_num_blocks=8 * setting.cores)
    # Whole cores for the actors would leave none for the reading tasks (Ray issue 44687).
    answers = rows.map_batches(
        RayDataModel,
        fn_constructor_args=(setting.model,),
        batch_size=BATCH,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=setting.cores),
    )
    answers.write_parquet(setting.output)
    seconds = time.perf_counter() - started
    ray.shutdown()
    return seconds


def run_plain(setting: Setting) -> float:
    """Run a tutorial's way; return the seconds."""
    started = time.perf_counter()
    model = session(setting.model, 0)
    name = model.get_inputs()[0].name
    table = pq.read_table(setting.input)
    images, labels = table.column("image"), []
    for start in range(0, len(images), BATCH):
        inputs = np.stack([prepared(cell.as_py()) for cell in images[start : start + BATCH]])
        labels.append(model.run(None, {name: inputs})[0].argmax(axis=1))
    Path(setting.output).mkdir(parents=True)
    answers = pa.table({"number": table.column("number"), "label_id": np.concatenate(labels)})
    pq.write_table(answers, Path(setting.output) / "answers.parquet")
    return time.perf_counter() - started


def run_vedette(setting: Setting, *arguments: str) -> float:
    """Run `vedette batch run`; return the seconds that shards were running."""
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("vedette")), "batch", "run", "--model", "bench", "--keep", "number"),
            *("--input", setting.input, "--output", setting.output, "--batch-size", str(BATCH), "--json", *arguments),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout)
    return float(summary["processed_rows"] / summary["rows_per_second"])


ENGINES: Mapping[str, Callable[[Setting], float]] = {
    "vedette-ray": run_vedette,
    "vedette-local": lambda setting: run_vedette(setting, "--local"),
    "ray-data": run_ray_data,
    "plain": run_plain,
}


def labels_in(output: Path) -> dict[int, int]:
    """Return label by number of all rows that an engine wrote."""
    files = sorted((output / "data").glob("*.parquet") if (output / "data").exists() else output.glob("*.parquet"))
    tables = [pq.read_table(file, columns=["number", "label_id"]) for file in files]
    return {row["number"]: row["label_id"] for table in tables for row in table.to_pylist()}


def write_input(images: Path, path: Path, rows: int) -> None:
    """Write *rows* JPEGs of the folder *images*, repeated as needed, to *path*."""
    files = [file.read_bytes() for file in sorted(images.glob("*.[jJ]*"))]
    table = pa.table(
        {"image": pa.array([files[n % len(files)] for n in range(rows)], pa.binary()), "number": range(rows)}
    )
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none")


def measure(engine: str, setting: Setting) -> float:
    """Run *engine* in a process of its own; return the seconds that it reports."""
    task = json.dumps({name: getattr(setting, name) for name in Setting.__slots__})
    command = [sys.executable, __file__, "--child", engine, task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{engine} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all engines in turns, once to warm up and then *repeats* times; return the figures."""
    os.environ["VEDETTE_HOME"] = str(work / "home")
    source = work / "images.parquet"
    write_input(arguments.images, source, arguments.rows)
    importing = ("--name", "bench", "--task", "classification", "--preprocess", "imagenet", "--precision", "fp32")
    vedette = str(Path(sys.executable).with_name("vedette"))
    subprocess.run([vedette, "model", "import", str(arguments.model), *importing], check=True, capture_output=True)
    rates: dict[str, list[float]] = {engine: [] for engine in arguments.engines}
    answers: dict[str, dict[int, int]] = {}
    for turn in range(arguments.repeats + 1):
        for engine in arguments.engines:
            output = work / f"{engine}-{turn}"
            setting = Setting(model=str(arguments.model), input=str(source), output=str(output), cores=arguments.cores)
            seconds = measure(engine, setting)
            answers[engine] = labels_in(output)
            shutil.rmtree(output)
            if turn > 0:  # the first run warms caches: proofs, pages, compiled files
                rates[engine].append(arguments.rows / seconds)
            print(f"turn {turn}: {engine:14} {arguments.rows / seconds:8.1f} rows/s", flush=True)
    first = answers[arguments.engines[0]]
    agreement = {
        engine: sum(found.get(n) == label for n, label in first.items()) / arguments.rows
        for engine, found in answers.items()
    }
    medians = {engine: statistics.median(values) for engine, values in rates.items()}
    return {"rates": rates, "medians": medians, "agreement": agreement}


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=TEST_DATA / "models" / "mobilenet_v2.onnx")
    parser.add_argument("--images", type=Path, default=TEST_DATA / "images" / "imagenet300", help="folder of JPEGs")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES))
    parser.add_argument("--results", type=Path, default=RESULTS / "batch.json")
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "SETTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    arguments.cores = len(os.sched_getaffinity(0))
    return arguments


def main() -> None:
    """Measure, print, and keep the figures."""
    arguments = parse()
    if arguments.child:
        engine, setting = arguments.child
        print(ENGINES[engine](Setting(**json.loads(setting))))
        return
    for path in (arguments.model, arguments.images):
        if not path.exists():
            raise SystemExit(f"{path} does not exist; set VEDETTE_TEST_DATA, or give --model and --images")
    facts = environment(PACKAGES, cores=arguments.cores, rows=arguments.rows, repeats=arguments.repeats)
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as work:
        figures = compare(arguments, Path(work))
    base = figures["medians"].get("ray-data")
    for engine, median in figures["medians"].items():
        ratio = f"{median / base:5.2f} x ray-data" if base else ""
        print(f"{engine:14} {median:8.1f} rows/s  {ratio}  agrees on {figures['agreement'][engine]:.1%}")
    keep({**facts, **figures}, arguments.results)
    print(f"wrote {arguments.results}")


if __name__ == "__main__":
    main()
