"""Images per second of `Predictor.predict`, of its parts, and of the script that a tutorial writes.

python benchmarks/predictor.py [--images 100] [--rounds 7] [--json]

One image at a time, JPEG to label, MobileNetV2, one thread for everything. In every round all take turns, ten images
each, in an order that moves on by one; figures are medians of the rounds. Processor time is measured: for one thread
it is what a clock would show if nobody else used the machine. The four parts are done one after the other, as
`predict` does them: their sum has the same caches to fill.

    decode        `runtime.images.decode`
    resize        `runtime.preprocess.resize_and_crop`
    infer         `onnxruntime.InferenceSession.run` of the published fp32 variant, normalization included
    postprocess   the head: softmax, the five best, labels
    predict fp32  `Predictor.predict`, to be compared with the sum of the four above
    predict int8  the same with the variant that `--provider auto` chooses, if the import's gate let it pass
    plain         the script: `Image.open`, `convert`, `resize`, `crop`, NumPy's normalization, `session.run` of
                  the source model (float NCHW), softmax, the five best
    normalize     of that script, NumPy's normalization alone: what a graph that normalizes itself saves

Every third photograph calibrates int8, the others judge it; the labels come from labels.csv in the folder.

Needs Vedette's test data (VEDETTE_TEST_DATA), or --model (.onnx, float NCHW, ImageNet) and --folder.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from record import RESULTS, TEST_DATA, environment, keep

from runtime.artifact import Artifact
from runtime.images import decode
from runtime.manifest import Manifest
from runtime.predictor import Predictor
from runtime.preprocess import resize_and_crop
from runtime.session_options import SessionOptions
from runtime.store import resolve_artifact
from runtime.tasks import head_of

PACKAGES = ("onnxruntime", "numpy", "pillow", "simplejpeg", "opencv-python-headless")
CHUNK = 10  # images a turn
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PARTS = ("decode", "resize", "infer", "postprocess")
FP32, INT8 = "predict fp32", "predict int8"
MAX_DROP = 2.0  # points of top-1 that int8 may lose: on 200 photographs one more or less is half a point

Array = npt.NDArray[Any]
Engine = Callable[[int], Mapping[str, float]]
"""Takes an image's number, does its work, and returns the seconds by row."""


def one_thread(model: Path) -> Any:
    """Return an ONNX Runtime session on *model* that uses one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def tutorial(model: Path) -> Callable[[bytes], Array]:
    """Return the script: from a JPEG's bytes to the five best classes, best first."""
    session = one_thread(model)
    name = session.get_inputs()[0].name

    def classify(data: bytes) -> Array:
        scores = session.run(None, {name: normalized(cropped(data))})[0][0]
        probabilities = np.exp(scores) / np.exp(scores).sum()
        return np.argsort(probabilities)[::-1][:5]

    return classify


def cropped(data: bytes) -> Image.Image:
    """Return the picture in *data* as the script crops it, 224x224."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return image.crop((left, top, left + 224, top + 224))


def normalized(image: Image.Image) -> Array:
    """Return the model input of the script: (1, 3, 224, 224) float32."""
    pixels = (np.array(image) / 255.0 - MEAN) / STD
    return pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32)


def timed(name: str, step: Callable[[int], object]) -> Engine:
    """Return the engine that does *step*, in a row called *name*."""

    def run(number: int) -> dict[str, float]:
        begun = time.process_time()
        step(number)
        return {name: time.process_time() - begun}

    return run


def in_parts(predictor: Predictor, files: Sequence[bytes]) -> Engine:
    """Return the engine that does what *predictor* does with functions of its parts, one row each."""
    manifest: Manifest = predictor.artifact.manifest
    head, session = head_of(manifest), one_thread(predictor.artifact.verified_path(predictor.variant))
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]

    def run(number: int) -> dict[str, float]:
        marks = [time.process_time()]
        picture = decode(files[number])
        marks.append(time.process_time())
        pixels = resize_and_crop(picture, manifest.preprocess)
        marks.append(time.process_time())
        answer = session.run(None, {name: pixels[np.newaxis]})
        marks.append(time.process_time())
        head.decode(dict(zip(outputs, answer, strict=True)), [picture.shape[:2]], manifest)
        marks.append(time.process_time())
        return {part: marks[place + 1] - marks[place] for place, part in enumerate(PARTS)}

    return run


def measure(engines: Sequence[Engine], images: int, rounds: int) -> dict[str, list[float]]:
    """Return by row the milliseconds an image of every round; one round more comes before, to warm up."""
    figures: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        seconds: Counter[str] = Counter()
        for chunk, start in enumerate(range(0, images, CHUNK)):
            first = (turn + chunk) % len(engines)
            for engine in (*engines[first:], *engines[:first]):
                for number in range(start, min(start + CHUNK, images)):
                    for name, taken in engine(number).items():
                        seconds[name] += taken
        for name, taken in seconds.items() if turn else ():
            figures.setdefault(name, []).append(taken / images * 1e3)
    return figures


def write_labelled(folder: Path, work: Path) -> dict[str, Path]:
    """Write the labelled photographs of *folder* to Parquet; return the files by option, none without labels.csv."""
    if not (folder / "labels.csv").exists():
        return {}
    rows = list(csv.DictReader((folder / "labels.csv").read_text(encoding="utf-8").splitlines()))
    chosen = {
        "--calibration": [row for number, row in enumerate(rows) if number % 3 == 0],
        "--evaluation": [row for number, row in enumerate(rows) if number % 3],
    }
    for option, some in chosen.items():
        images, labels = [(folder / row["file"]).read_bytes() for row in some], [int(row["index"]) for row in some]
        pq.write_table(pa.table({"image": images, "label": labels}), work / f"{option[2:]}.parquet")
    return {option: work / f"{option[2:]}.parquet" for option in chosen}


def import_model(model: Path, folder: Path, work: Path) -> Artifact:
    """Publish *model* in a store of its own, as fp32 and, where photographs have labels, as int8."""
    os.environ["VEDETTE_HOME"] = str(work)
    vedette = str(Path(sys.executable).with_name("vedette"))
    data = [str(part) for pair in write_labelled(folder, work).items() for part in pair]
    how = ("--name", "bench", "--task", "classification", "--preprocess", "imagenet", "--max-drop", str(MAX_DROP))
    subprocess.run([vedette, "model", "import", str(model), *how, *data], check=True, stdout=subprocess.DEVNULL)
    return resolve_artifact("bench")


def agreement(answers: Callable[[bytes], int], others: Callable[[bytes], int], files: Sequence[bytes]) -> float:
    """Return the share of *files* that both give the same label."""
    return sum(int(answers(data) == others(data)) for data in files) / len(files)


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure everything; return the figures."""
    files = [file.read_bytes() for file in sorted(arguments.folder.glob("*.[jJ]*"))[: arguments.images]]
    artifact, classify = import_model(arguments.model, arguments.folder, work), tutorial(arguments.model)
    options = SessionOptions(intra_op_threads=1)
    predictors = {
        f"predict {one.id}": Predictor(artifact, provider="cpu", variant=one.id, options=options)
        for one in artifact.manifest.variants
    }
    pictures = [cropped(data) for data in files]
    engines = [
        in_parts(predictors[FP32], files),
        *(timed(name, _predicting(predictor, files)) for name, predictor in predictors.items()),
        timed("plain", lambda n: classify(files[n])),
        timed("normalize", lambda n: normalized(pictures[n])),
    ]
    found = measure(engines, len(files), arguments.rounds)
    milliseconds = {name: found[name] for name in (*PARTS, *predictors, "plain", "normalize")}
    of_parts = [sum(values) for values in zip(*(milliseconds[name] for name in PARTS), strict=True)]
    return {
        "images": len(files),
        "chosen": Predictor(artifact, options=options).variant.id,
        "milliseconds": {name: statistics.median(values) for name, values in milliseconds.items()},
        "sum_of_parts_ms": statistics.median(of_parts),
        "overhead": ratio(milliseconds[FP32], of_parts) - 1,
        "speedup": {name: ratio(milliseconds["plain"], milliseconds[name]) for name in predictors},
        "agreement": {
            name: agreement(lambda data, p=p: p.predict([data])[0].label_id, lambda data: classify(data)[0], files)
            for name, p in predictors.items()
        },
        "variants": {one.id: one.metrics for one in artifact.manifest.variants},
        "rejected": {one.id: one.reason for one in artifact.manifest.rejected},
        "rounds": milliseconds,
    }


def _predicting(predictor: Predictor, files: Sequence[bytes]) -> Callable[[int], object]:
    return lambda n: predictor.predict([files[n]])


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of the rounds."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def processor() -> str:
    """Return the processor's name, if the machine tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def print_table(figures: Mapping[str, Any]) -> None:
    """Print *figures* for people."""
    print(f"{'':13} {'ms':>8} {'images/s':>10}")
    for name, median in figures["milliseconds"].items():
        print(f"{name:13} {median:8.2f} {1e3 / median:10.0f}")
    print(f"{FP32} takes {figures['overhead']:+.1%} of the sum of its parts, {figures['sum_of_parts_ms']:.2f} ms")
    for name, speedup in figures["speedup"].items():
        print(f"{name} is {speedup:.2f} times as fast as plain; the same label on {figures['agreement'][name]:.1%}")
    for name, reason in figures["rejected"].items():
        print(f"{name} was not published: {reason}")
    print(f"auto chooses {figures['chosen']}")


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=TEST_DATA / "models" / "mobilenet_v2.onnx")
    parser.add_argument("--folder", type=Path, default=TEST_DATA / "images" / "imagenet300", help="of JPEGs")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS / "predictor.json")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(given)


def main() -> None:
    """Measure, print, and keep the figures."""
    arguments = parse()
    for path in (arguments.model, arguments.folder):
        if not path.exists():
            raise SystemExit(f"{path} does not exist; set VEDETTE_TEST_DATA, or give --model and --folder")
    cv2.setNumThreads(1)
    facts = environment(PACKAGES, processor=processor())
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as work:
        figures = compare(arguments, Path(work))
    document = {**facts, **figures}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(figures)
    keep(document, arguments.results)


if __name__ == "__main__":
    main()
