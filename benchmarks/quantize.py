"""INT8 beside fp32: size, time, and what it costs in accuracy; ONNX Runtime's own static quantization beside ours.

python benchmarks/quantize.py [--models mobilenet_v2,resnet50,vit_s16] [--turns 20] [--budget 150]
python benchmarks/quantize.py --calibration-memory [--images N]

    fp32        the graph with its normalization, as it is published
    ort         onnxruntime.quantization.quantize_static, per channel, min-max, after its own pre-processing
    vedette     the search (`controller.lifecycle.quantization.recovery`), as `vedette model quantize` runs it

MobileNetV2 has its real weights; ResNet50 and ViT-S have random ones, on which speed and rounding depend as little as
on the photographs (`networks.py`). Every third photograph calibrates, the others judge: top-1 by labels.csv, the share
of the same answers as fp32, and the signal to quantization noise ratio of the scores. One thread, one picture a run.
The variants take turns of some runs, of which the first finds the caches full of another's weights and is not counted.
Milliseconds are medians of processor time, which for one thread is what a clock would show on a core of its own;
`fastest` is the ratio of the fastest runs, which neighbours that fill the shared caches slow down least.

`--calibration-memory` calibrates with all methods in a process of its own and prints its peak memory: ResNet8 with the
10,000 images of CIFAR-10, and MobileNetV2 with photographs, repeated to 1,000: memory does not grow with them.

Needs Vedette's test data (VEDETTE_TEST_DATA).
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from record import RESULTS, TEST_DATA, environment, keep

from controller.lifecycle.graph import find_image_input
from controller.lifecycle.pixel_input import embed_normalization
from controller.lifecycle.preparation.presets import resolve_preprocess
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.calibration.methods import METHODS
from controller.lifecycle.quantization.quantize import Scheme, prepare
from controller.lifecycle.quantization.recovery.search import Goal, Recovery, recover
from controller.lifecycle.quantization.sqnr import sqnr_db
from controller.lifecycle.quiet import quiet
from runtime.datasets import Dataset, Subset, open_dataset
from runtime.manifest import Preprocess
from runtime.preprocess import Preprocessor
from runtime.terminal import table

PACKAGES = ("numpy", "onnx", "onnxruntime", "torch")
MODELS = ("mobilenet_v2", "resnet50", "vit_s16")
LEAST_SPEEDUP = {"mobilenet_v2": 2.0, "resnet50": 3.0, "vit_s16": 1.5}  # a rung that makes it slower is dropped
LOOKED_AT = 64  # photographs that judge a network of random weights
BATCH = 8
RUNS = 8  # of a turn

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Photographs:
    """The photographs of ImageNet, some to calibrate and the others to judge."""

    calibration: Dataset
    others: Dataset
    labels: Array

    @classmethod
    def open(cls) -> Photographs:
        """Return those of the test data."""
        folder = TEST_DATA / "images" / "imagenet300"
        whole = open_dataset(str(folder))
        with (folder / "labels.csv").open() as file:
            known = {row["file"]: int(row["index"]) for row in csv.DictReader(file)}
        others = Subset(base=whole, numbers=tuple(n for n in range(len(whole)) if n % 3))
        labels = np.array([known[Path(row.source_file).name] for row in others.rows()])
        return cls(Subset(base=whole, numbers=tuple(range(0, len(whole), 3))), others, labels)


def embedded(source: onnx.ModelProto, preprocess: Preprocess) -> tuple[onnx.ModelProto, Preprocessor]:
    """Return *source* with its normalization inside, and what brings a picture to it."""
    graph = embed_normalization(source, preprocess)
    found = find_image_input(graph)
    if found is None:
        raise SystemExit("the graph takes no pictures")
    return graph, Preprocessor(preprocess.model_copy(update={"embedded": True}), found.tensor)


def network(name: str, photographs: Photographs) -> tuple[onnx.ModelProto, Preprocessor]:
    """Return the fp32 graph called *name*, and what brings a picture to it."""
    preprocess = resolve_preprocess("imagenet")
    if name == "mobilenet_v2":
        return embedded(onnx.load(TEST_DATA / "models" / "mobilenet_v2.onnx"), preprocess)
    import torch
    from networks import resnet50, vit_s16

    from controller.lifecycle.export import EXAMPLE_BATCH, export_by_dynamo
    from runtime.images import load
    from runtime.preprocess import normalize, resize_and_crop

    pictures = [resize_and_crop(load(row.image), preprocess) for row in photographs.calibration.rows(0, 16)]
    pixels = torch.from_numpy(normalize(np.stack(pictures), preprocess).transpose(0, 3, 1, 2).astype(np.float32))
    model = resnet50(pixels) if name == "resnet50" else vit_s16()
    graph, _ = export_by_dynamo(model, torch.zeros(EXAMPLE_BATCH, *pixels.shape[1:]), ["logits"])
    return embedded(graph, preprocess)


class Reader(CalibrationDataReader):
    """Hands pictures to ONNX Runtime's calibrator."""

    def __init__(self, name: str, pictures: Array) -> None:
        self._name, self._pictures = name, iter(pictures)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next picture, or nothing."""
        picture = next(self._pictures, None)
        return None if picture is None else {self._name: picture[None]}


def by_onnxruntime(graph: onnx.ModelProto, pictures: Array) -> onnx.ModelProto:
    """Return *graph* as ONNX Runtime's guide quantizes it."""
    with tempfile.TemporaryDirectory() as scratch, quiet():
        source, prepared, target = (Path(scratch) / f"{name}.onnx" for name in ("source", "prepared", "target"))
        onnx.save(graph, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Reader(graph.graph.input[0].name, pictures),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session on *model* of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def milliseconds(models: Mapping[str, onnx.ModelProto], picture: Array, turns: int) -> dict[str, list[float]]:
    """Return the processor time of each run of each."""
    sessions = {name: opened(model) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns):
        for name, session in sessions.items():
            for number in range(RUNS + 1):
                begun = time.process_time()
                session.run(None, {session.get_inputs()[0].name: picture})
                if number:
                    times[name].append(1000 * (time.process_time() - begun))
    return times


def scores(model: onnx.ModelProto, pictures: Array) -> Array:
    """Return (n, classes): what *model* gives."""
    session = opened(model)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: pictures[n : n + BATCH]})[0] for n in range(0, len(pictures), BATCH)]
    return np.concatenate(parts).astype(np.float64)


def compared(name: str, photographs: Photographs, turns: int, budget: float) -> tuple[list[dict[str, Any]], Recovery]:
    """Return a row for each variant of the network called *name*, and our search."""
    graph, preprocessor = network(name, photographs)
    calibration = Calibration(prepare(graph), photographs.calibration, preprocessor)
    goal = Goal(budget=budget, least_speedup=LEAST_SPEEDUP[name])
    found = recover(calibration, Scheme(), goal)
    pictures = np.concatenate(list(calibration.batches(BATCH)))
    models = {"fp32": graph, "ort": by_onnxruntime(graph, pictures), "vedette": found.model}
    others = Calibration(calibration.model, photographs.others, preprocessor, images=len(photographs.others))
    is_real = name == "mobilenet_v2"
    judged = np.concatenate(list(others.batches(BATCH, limit=None if is_real else LOOKED_AT)))
    times = milliseconds(models, judged[:1], turns)
    answers = {kind: scores(model, judged) for kind, model in models.items()}
    rows = []
    for kind, model in models.items():
        noise = float(np.square(answers[kind] - answers["fp32"]).sum())
        same = answers[kind].argmax(1) == answers["fp32"].argmax(1)
        right = answers[kind].argmax(1) == photographs.labels[: len(judged)] if is_real else None
        rows.append(
            {
                "model": name,
                "variant": kind,
                "mb": round(len(model.SerializeToString()) / 1e6, 2),
                "ms": round(statistics.median(times[kind]), 3),
                "speedup": round(statistics.median(times["fp32"]) / statistics.median(times[kind]), 2),
                "fastest": round(min(times["fp32"]) / min(times[kind]), 2),
                "sqnr_db": round(sqnr_db(float(np.square(answers["fp32"]).sum()), noise), 2),
                "top1": None if right is None else round(float(right.mean()), 4),
                "as_fp32": round(float(same.mean()), 4),
                "images": len(judged),
            }
        )
    return rows, found


def resnet8() -> tuple[onnx.ModelProto, Preprocessor, Dataset]:
    """Return ResNet8, and CIFAR-10's test images."""
    source = onnx.load(TEST_DATA / "models" / "resnet8_cifar10_nhwc.onnx")
    graph, preprocessor = embedded(source, resolve_preprocess("raw255"))
    return graph, preprocessor, open_dataset(str(TEST_DATA / "images" / "cifar10_test.parquet"))


def mobilenet() -> tuple[onnx.ModelProto, Preprocessor, Dataset]:
    """Return MobileNetV2, and photographs."""
    graph, preprocessor = embedded(
        onnx.load(TEST_DATA / "models" / "mobilenet_v2.onnx"), resolve_preprocess("imagenet")
    )
    return graph, preprocessor, open_dataset(str(TEST_DATA / "images" / "imagenet300"))


CALIBRATED: Mapping[str, tuple[Callable[[], tuple[onnx.ModelProto, Preprocessor, Dataset]], int]] = {
    "resnet8": (resnet8, 10_000),
    "mobilenet_v2": (mobilenet, 1_000),
}
"""What memory is measured with, and images."""


def calibrated(name: str, images: int) -> dict[str, Any]:
    """Calibrate in this process with every method, and return its peak memory."""
    graph, preprocessor, dataset = CALIBRATED[name][0]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calibration = Calibration(prepare(graph), Subset.repeated(dataset, images), preprocessor, images=images)
    begun = time.perf_counter()
    found = [calibration.ranges(method).images for method in METHODS]
    return {
        "model": name,
        "images": min(found),
        "methods": len(METHODS),
        "seconds": round(time.perf_counter() - begun, 1),
        "mb_before": round(before / 1000),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def in_child(name: str, images: int) -> dict[str, Any]:
    """Return what `calibrated` returns in a process of its own, which has no other memory."""
    command = [sys.executable, __file__, "--calibrate", name, "--images", str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def updated(part: Mapping[str, Any]) -> None:
    """Write *part* into the results, beside what they have of other models and of the other mode."""
    path = RESULTS / "quantize.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    keep({**before, **part}, path)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--budget", type=float, default=150.0, help="processor seconds of a search")
    parser.add_argument("--calibration-memory", action="store_true")
    parser.add_argument("--images", type=int, help="to calibrate with, of every model")
    parser.add_argument("--calibrate", choices=sorted(CALIBRATED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.calibrate:
        print(json.dumps(calibrated(options.calibrate, options.images)))
        return
    if not (TEST_DATA / "models").is_dir():
        raise SystemExit(f"no test data in {TEST_DATA}: set VEDETTE_TEST_DATA")
    if options.calibration_memory:
        found = [in_child(name, options.images or images) for name, (_, images) in CALIBRATED.items()]
        print(table(tuple(found[0]), [tuple(row.values()) for row in found]))
        updated({"calibration": {**environment(PACKAGES), "rows": found}})
        return
    photographs = Photographs.open()
    for name in options.models.split(","):
        rows, search = compared(name, photographs, options.turns, options.budget)
        print(f"\n{name}\n{search.table()}\n", flush=True)
        print(table(tuple(rows[0]), [tuple("-" if v is None else v for v in row.values()) for row in rows]))
        updated({name: {**environment(PACKAGES), "rows": rows, "search": [asdict(step) for step in search.steps]}})


if __name__ == "__main__":
    main()
