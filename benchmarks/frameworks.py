"""Accuracy from training to batch, for the four frameworks: train, import, publish, batch, each by its command.

python benchmarks/frameworks.py [--fashion DIRECTORY] [--images 6000] [--epochs 4]

Two datasets: the digits, and Fashion-MNIST's IDX files (Debian's dataset-fashion-mnist, or the directory that
--fashion names), the first so many images of each split; where they are absent, the digits as IDX files.
Three accuracies that must be equal: what the training measured on the held-out images, what the import measured of
the published graph, and what the batch job answered.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from record import RESULTS, environment, keep

from cluster import read_output
from runtime.datasets import open_dataset
from runtime.datasets.idx import read_idx
from runtime.images import load
from runtime.terminal import table

PACKAGES = ("torch", "keras", "flax", "jax", "jax2onnx", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "t10k": "test"}  # prefix of a file -> split
ARCHITECTURES: Mapping[str, str] = {
    "torch": "tiny",
    "keras": "keras-tiny",
    "flax": "flax-tiny",
    "sklearn": "hog-svm",
}
TEST_SHARE = 4  # a test image to so many training images
AGREE = 1e-6  # accuracies are shares of the same images


@dataclass(frozen=True)
class Row:
    """What became of one framework on one dataset."""

    dataset: str
    framework: str
    arch: str
    images: int  # learned from
    held_out: int
    trained: float  # accuracy that the training measured
    published: float  # that the import measured
    batch: float  # of the answers of the batch job
    parity: float  # largest difference of graph and source
    size: int  # of the fp32 variant, bytes
    train_seconds: float
    import_seconds: float

    @property
    def agrees(self) -> bool:
        """Whether the three accuracies are one."""
        return max(abs(self.published - self.trained), abs(self.batch - self.trained)) <= AGREE


def vedette(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run a command; return its result and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-c", "from runtime.cli import main; main()", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"vedette {' '.join(arguments)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result, time.perf_counter() - began


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write *array* as an IDX file of unsigned bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    path.write_bytes(header + np.ascontiguousarray(array).tobytes())


def write_pair(directory: Path, prefix: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
    """Write the two files of a split."""
    write_idx(directory / f"{prefix}-images-idx3-ubyte", images)
    write_idx(directory / f"{prefix}-labels-idx1-ubyte", labels)


def fashion(source: Path, count: int, directory: Path) -> str:
    """Write the first *count* training images of Fashion-MNIST, and a share of its test images; return the name."""
    for prefix, most in (("train", count), ("t10k", count // TEST_SHARE)):
        images, labels = (
            read_idx(next(source.rglob(f"{prefix}-{what}-ubyte*"))) for what in ("images-idx3", "labels-idx1")
        )
        write_pair(directory, prefix, images[:most], labels[:most])
    return "Fashion-MNIST"


def digits(directory: Path) -> str:
    """Write the digits as IDX files; return the name."""
    for prefix, split in SPLITS.items():
        rows = list(open_dataset(f"digits#{split}").rows())
        images = np.stack([load(row.image)[..., 0] for row in rows if row.image is not None])
        write_pair(directory, prefix, images, np.array([row.label for row in rows], np.uint8))
    return "digits as IDX"


def measure(name: str, uri: str, framework: str, epochs: int, scratch: Path) -> Row:
    """Train, import, publish and run in batch."""
    arch, run, answers = ARCHITECTURES[framework], scratch / "run", scratch / "answers"
    what = ("--data", f"{uri}#train", "--framework", framework, "--arch", arch, "--out", str(run))
    much = () if framework == "sklearn" else ("--epochs", str(epochs))
    trained, train_seconds = vedette("train", *what, *much)
    imported, import_seconds = vedette("model", "import", str(run), "--name", framework, "--precision", "fp32")
    where = ("--model", imported["model"], "--input", f"{uri}#test", "--output", str(answers))
    vedette("batch", "run", *where, "--keep", "label=truth", "--local")
    answered = read_output(str(answers))
    right = answered["label_id"].to_numpy() == answered["truth"].to_numpy()
    fp32 = imported["variants"]["fp32"]
    return Row(
        dataset=name,
        framework=trained["framework"],
        arch=arch,
        images=trained["train"]["rows"],
        held_out=trained["held_out"]["rows"],
        trained=trained["best"]["accuracy"],
        published=fp32["metrics"]["top1"],
        batch=float(right.mean()),
        parity=fp32["metrics"]["parity_max_abs"],
        size=fp32["size"],
        train_seconds=round(train_seconds, 1),
        import_seconds=round(import_seconds, 1),
    )


def shown(rows: list[Row]) -> str:
    """Return *rows* as a table."""
    headers = ("dataset", "framework", "arch", "images", "trained", "published", "batch", "parity", "MB", "train s")
    return table(
        headers,
        [
            (
                *(row.dataset, row.framework, row.arch, row.images),
                *(f"{share:.2%}" for share in (row.trained, row.published, row.batch)),
                *(f"{row.parity:.1e}", f"{row.size / 1e6:.2f}", f"{row.train_seconds:.0f}"),
            )
            for row in rows
        ],
    )


def main() -> None:
    """Measure all, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=DEBIAN, help="where Fashion-MNIST's IDX files are")
    parser.add_argument("--images", type=int, default=6000, help="of its training images to learn from")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["VEDETTE_HOME"] = str(Path(scratch) / "home")
        idx = Path(scratch) / "idx"
        idx.mkdir()
        there = arguments.fashion.is_dir()
        name = fashion(arguments.fashion, arguments.images, idx) if there else digits(idx)
        for dataset, uri in (("digits", "digits"), (name, str(idx))):
            for framework in ARCHITECTURES:
                with tempfile.TemporaryDirectory() as directory:
                    rows.append(measure(dataset, uri, framework, arguments.epochs, Path(directory)))
                print(shown(rows[-1:]).splitlines()[-1], file=sys.stderr)
    print(shown(rows))
    facts = environment(PACKAGES, cores=os.cpu_count(), epochs=arguments.epochs)
    keep({"environment": facts, "rows": [asdict(row) for row in rows]}, RESULTS / "frameworks.json")
    if wrong := [f"{row.framework} on {row.dataset}" for row in rows if not row.agrees]:
        sys.exit(f"the accuracies differ: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
