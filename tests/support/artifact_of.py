"""An artifact made of ONNX files that are there already: a manifest by hand, golden outputs from the CPU.

It needs no package `onnx`: the tests of OpenVINO use it too, whose environment has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifact import Artifact
from runtime.manifest import (
    MANIFEST_FILE,
    Golden,
    Manifest,
    PinnedFile,
    Postprocess,
    Preprocess,
    Provenance,
    Tensor,
    Variant,
)
from runtime.placement import Placement
from runtime.proving import output_key
from runtime.session import Session

__all__ = ["artifact_of"]

GOLDEN_IMAGES = 2


def artifact_of(
    models: Mapping[str, Path],
    root: Path,
    preprocess: Preprocess,
    postprocess: Postprocess,
    *,
    golden_input: np.ndarray | None = None,
    opset: int = 17,
    ir: int = 8,
    tolerance: float = 1e-3,
    **fields: Any,
) -> Artifact:
    """Write an artifact with *models* as its variants into the directory *root*.

    Args:
        models: ONNX file by variant id; copied, unless it lies in *root* already.
        root: Of the artifact; made if it is not there.
        preprocess: Of the manifest.
        postprocess: As above.
        golden_input: What the graphs' image input takes, noise of a fixed seed if ``None``; the CPU EP gives the
            golden outputs for it.
        opset: What the manifest says of every variant.
        ir: As above.
        tolerance: As above.
        fields: More of the manifest.
    """
    root.mkdir(parents=True, exist_ok=True)
    variants, outputs = [], {}
    for variant_id, model in models.items():
        path = model if model.parent == root else Path(shutil.copy(model, root / f"model.{variant_id}.onnx"))
        session = Session(path)
        if golden_input is None:
            golden_input = _noise(session.image, preprocess)
        given = zip(session.outputs, session.run(golden_input), strict=True)
        outputs |= {output_key(variant_id, tensor.name): value for tensor, value in given}
        variants.append(
            Variant(
                **PinnedFile.measure(path),
                id=variant_id,
                precision="fp32",
                opset=opset,
                ir=ir,
                inputs=session.inputs,
                outputs=session.outputs,
                tolerance=tolerance,
            )
        )
    np.savez(root / "golden.npz", input=golden_input, **outputs)
    provenance = Provenance(framework="onnx", created=datetime(2026, 11, 22, tzinfo=UTC))
    manifest = Manifest(
        **({"name": "model", "version": 1, "provenance": provenance} | fields),
        preprocess=preprocess,
        postprocess=postprocess,
        variants=tuple(variants),
        golden=Golden(**PinnedFile.measure(root / "golden.npz")),
    )
    (root / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return Artifact.open(root)


def _noise(tensor: Tensor, preprocess: Preprocess) -> np.ndarray:
    """Return a batch that the image input *tensor* takes."""
    placed = Placement.of(preprocess, 64, 64)
    height, width = placed.input_height, placed.input_width
    sizes = (GOLDEN_IMAGES, 3, height, width) if tensor.shape[1] == 3 else (GOLDEN_IMAGES, height, width, 3)
    shape = [fixed if isinstance(fixed, int) else size for fixed, size in zip(tensor.shape, sizes, strict=True)]
    random = np.random.default_rng(0)
    if np.issubdtype(np.dtype(tensor.dtype), np.integer):
        bounds = np.iinfo(tensor.dtype)
        return random.integers(max(0, bounds.min), min(255, bounds.max), shape, endpoint=True).astype(tensor.dtype)
    return random.standard_normal(shape).astype(tensor.dtype)
