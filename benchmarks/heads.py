"""Milliseconds to decode a detector's outputs: Vedette's heads beside the loop of the tutorials.

python benchmarks/heads.py [--repeats 30]

Decoding is what happens after the graph: scores, thresholds, suppression, and the way back to the original
picture. The outputs are made up, of the sizes that YOLOs have for 640 by 640, with so many rows above the
threshold as a busy street has; one core.

    loop    row by row in Python, `cv2.minMaxLoc` and `cv2.dnn.NMSBoxes`, as the examples of OpenCV and
            Ultralytics for ONNX Runtime show it, where there is such an example
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from record import RESULTS, environment, keep

from runtime.artifact import Artifact
from runtime.manifest import Manifest, Postprocess, Preprocess, Resize
from runtime.probe import probe_root
from runtime.tasks import head_of

PACKAGES = ("numpy", "opencv-python-headless")
SIDE = 640  # pixels of the model's input
PICTURE = (720, 1280)
CLASSES = 80
OBJECTS = 50  # rows above the threshold
PREPROCESS = Preprocess(resize=Resize(mode="letterbox", size=(SIDE, SIDE)))

Outputs = Mapping[str, npt.NDArray[Any]]


def predictions(rows: int, lead: int, rest: int = 0) -> npt.NDArray[np.float32]:
    """Return (rows, lead + CLASSES + rest): boxes anywhere, scores low but for `OBJECTS` of them."""
    random = np.random.default_rng(0)
    table = random.uniform(0, 0.2, (rows, lead + CLASSES + rest)).astype(np.float32)
    table[:, :2], table[:, 2:4] = random.uniform(50, 590, (rows, 2)), random.uniform(20, 100, (rows, 2))
    chosen = random.permutation(rows)[:OBJECTS]
    table[chosen, 4:lead] = 0.98
    table[chosen, lead + random.integers(0, CLASSES, OBJECTS)] = random.uniform(0.3, 0.99, OBJECTS)
    return table


def prototypes() -> npt.NDArray[np.float32]:
    """Return (1, 32, 160, 160)."""
    return np.random.default_rng(1).normal(size=(1, 32, SIDE // 4, SIDE // 4)).astype(np.float32)


def loop(outputs: Outputs) -> int:
    """Decode a YOLOv8's output as tutorials do; returns how many objects there are."""
    height, width = PICTURE
    scale = SIDE / max(height, width)
    left, top = (SIDE - width * scale) / 2, (SIDE - height * scale) / 2
    rows = outputs["output0"][0].T
    boxes, scores, labels = [], [], []
    for row in rows:
        _, best, _, (_, label) = cv2.minMaxLoc(row[4:])
        if best >= 0.25:
            x, y, w, h = row[:4]
            boxes.append([(x - w / 2 - left) / scale, (y - h / 2 - top) / scale, w / scale, h / scale])
            scores.append(best)
            labels.append(label)
    return len(cv2.dnn.NMSBoxes(boxes, scores, 0.25, 0.45))


@dataclass(frozen=True)
class Case:
    """A head, its outputs, and the tutorials' way where they have one."""

    kind: str
    outputs: Outputs
    plain: Callable[[Outputs], int] | None = None


def cases() -> dict[str, Case]:
    """Return what is measured, by name."""
    v8 = predictions(8400, 4).T[None]
    poses = np.ascontiguousarray(predictions(8400, 4)[:, : 4 + 1 + 17 * 3].T)[None]
    poses[:, 4] = np.where(np.arange(8400) % (8400 // OBJECTS), 0.1, 0.9)
    return {
        "yolov8 1x84x8400": Case("yolov8", {"output0": np.ascontiguousarray(v8)}, loop),
        "yolov8 1x84x8400 float16": Case("yolov8", {"output0": np.ascontiguousarray(v8).astype(np.float16)}),
        "yolov5 1x25200x85": Case("yolov5", {"output0": predictions(25_200, 5)[None]}),
        "yolox 1x8400x85": Case("yolox", {"output": predictions(8400, 5)[None]}),
        "yolov8-seg 1x116x8400": Case(
            "yolov8-seg", {"output0": predictions(8400, 4, 32).T[None], "output1": prototypes()}
        ),
        "yolov8-pose 1x56x8400": Case("yolov8-pose", {"output0": poses}),
        "boxes 1x300x6": Case("boxes", {"output0": np.tile(np.float32([9, 9, 99, 99, 0.9, 3]), (1, 300, 1))}),
    }


def manifest_of(kind: str) -> Manifest:
    """Return a manifest with that head."""
    labels = ("person",) if kind == "yolov8-pose" else tuple(f"class {number}" for number in range(CLASSES))
    return Artifact.open(probe_root()).manifest.model_copy(
        update={
            "labels": labels,
            "preprocess": PREPROCESS,
            "postprocess": Postprocess(kind=kind, activation="none"),
        }
    )


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median of *repeats* calls, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS / "heads.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    figures: dict[str, dict[str, float]] = {}
    print(f"{'outputs':<26} {'vedette ms':>10} {'loop ms':>9} {'ratio':>7}")
    for name, case in cases().items():
        manifest = manifest_of(case.kind)
        decode = head_of(manifest).decode
        ours = milliseconds(lambda: decode(case.outputs, [PICTURE], manifest), arguments.repeats)  # noqa: B023
        figures[name] = {"vedette_ms": round(ours, 3)}
        line = f"{name:<26} {ours:>10.2f}"
        if case.plain is not None:
            theirs = milliseconds(lambda: case.plain(case.outputs), max(3, arguments.repeats // 10))  # noqa: B023
            figures[name] |= {"loop_ms": round(theirs, 3)}
            line += f" {theirs:>9.2f} {theirs / ours:>6.0f}x"
        print(line)
    keep({"environment": environment(PACKAGES), "heads": figures}, arguments.results)


if __name__ == "__main__":
    main()
