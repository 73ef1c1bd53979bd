"""The golden file: a few inputs, and what each variant gave for them here on the CPU EP.

Rules:
    * A device proves by it that it runs a variant right (`runtime.proving`); `write_golden` and that
      module agree on the arrays' names.
    * The inputs are real pictures where there are some, otherwise synthetic ones from a fixed seed.
    * Few enough pictures that the outputs stay below `MOST_BYTES`: every device downloads them.
    * A variant's tolerance is what an honest execution provider may differ by, as a share of what each output
      ranges over (`runtime.comparison` says how it is applied):
      fp32 - 1e-3: other kernels sum in another order, some at TF32 precision (10 bits of
      mantissa).
      fp16 - 1e-2: the same 10 bits, and every intermediate result rounded to them.
      int8 - `INT8_FACTOR` times what quantization itself changed, and at least `INT8_SHARE`: a CPU without
      VNNI rounds and saturates elsewhere, so a neighbouring grid point is honest, an answer much further
      from fp32 than here is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.manifest import Tensor
from runtime.preprocess import Preprocessor
from runtime.proving import output_key

__all__ = [
    "GOLDEN_FILE",
    "TOLERANCES",
    "golden_input",
    "int8_tolerance",
    "pictures_within_limit",
    "synthetic_pictures",
    "write_golden",
]

GOLDEN_FILE = "golden.npz"
PICTURES = 3
SYNTHETIC_SIZE = 256  # pixels, height and width
MOST_BYTES = 16_000_000  # of the outputs of one variant, uncompressed
INT8_FACTOR = 2.0
INT8_SHARE = 0.02
TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": INT8_SHARE}
"""Of a model as it came, by its precision."""

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Outputs = Mapping[str, Array]  # by output name


def synthetic_pictures(count: int) -> Iterable[Pixels]:
    """Yield *count* pictures, uint8 (256, 256, 3), always the same: smooth waves of colour with a bit of noise."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0:SYNTHETIC_SIZE, 0:SYNTHETIC_SIZE] / SYNTHETIC_SIZE
    for _ in range(count):
        frequency = generator.uniform(1, 8, (2, 3))
        phase = generator.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * (rows[..., None] * frequency[0] + columns[..., None] * frequency[1]) + phase)
        noise = generator.integers(-8, 9, waves.shape)
        yield np.clip(127.5 + 110 * waves + noise, 0, 255).astype(np.uint8)


def golden_input(
    tensor: Tensor, preprocessor: Preprocessor, pictures: Iterable[Pixels], count: int = PICTURES
) -> Array:
    """Return a batch of what the graph's input *tensor* takes: *count* images, or its fixed batch.

    Args:
        tensor: The input.
        preprocessor: Brings a picture to it.
        pictures: The first of these are used; if there are too few, they are used again.
        count: Of images, where the graph takes any number.
    """
    fixed = tensor.shape[0]
    size = fixed if isinstance(fixed, int) else count
    ready = [preprocessor(picture) for picture, _ in zip(pictures, range(size), strict=False)]
    return np.stack([ready[number % len(ready)] for number in range(size)])


def pictures_within_limit(outputs: Outputs, pictures: int) -> int:
    """Return how many of the *pictures* that gave *outputs* the golden file may have, one at least."""
    total = sum(output.nbytes for output in outputs.values())
    return max(1, min(pictures, MOST_BYTES * pictures // max(1, total)))


def int8_tolerance(outputs: Outputs, fp32_outputs: Outputs) -> float:
    """Return the tolerance of an INT8 variant that gave *outputs* where fp32 gave *fp32_outputs*."""
    floats = [name for name, output in outputs.items() if np.issubdtype(output.dtype, np.floating)]
    changed = max((_relative_change(outputs[name], fp32_outputs[name]) for name in floats), default=0.0)
    return max(INT8_FACTOR * changed, INT8_SHARE)


def _relative_change(found: Array, expected: Array) -> float:
    difference = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
    return difference / max(1.0, float(np.max(np.abs(found.astype(np.float64)), initial=0.0)))


def write_golden(directory: Path, batch: Array, outputs: Mapping[str, Outputs]) -> Path:
    """Write the golden file into *directory*: *batch*, and *outputs* by variant id."""
    arrays = {output_key(variant, name): a for variant, named in outputs.items() for name, a in named.items()}
    path = directory / GOLDEN_FILE
    np.savez_compressed(path, allow_pickle=False, **{"input": batch, **arrays})
    return path
