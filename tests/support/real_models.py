"""An artifact around any ONNX file, with a manifest made by hand: for models that are no part of the project."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from runtime.artifact import Artifact
from runtime.manifest import (
    MANIFEST_FILE,
    Golden,
    Manifest,
    PinnedFile,
    Postprocess,
    Preprocess,
    Provenance,
    Task,
    Tensor,
    Variant,
)
from runtime.placement import Placement
from runtime.proving import output_key
from runtime.session import Session

GOLDEN_IMAGES = 2


def build_artifact(
    model: Path,
    task: Task,
    preprocess: Preprocess,
    postprocess: Postprocess,
    labels: Sequence[str],
    directory: Path,
    *,
    name: str = "real",
) -> Artifact:
    """Write the ONNX file *model* as an artifact with one variant into the new *directory*.

    The golden input is noise of a fixed seed, the golden output what the CPU gives for it here.
    """
    directory.mkdir(parents=True)
    file = directory / "model.onnx"
    shutil.copyfile(model, file)
    session = Session(file)
    images = _noise(session.image, preprocess)
    outputs = zip(session.outputs, session.run(images), strict=True)
    np.savez(directory / "golden.npz", input=images, **{output_key("model", o.name): value for o, value in outputs})
    proto = onnx.load(file, load_external_data=False)
    manifest = Manifest(
        name=name,
        version=1,
        task=task,
        labels=tuple(labels),
        preprocess=preprocess,
        postprocess=postprocess,
        variants=(
            Variant(
                id="model",
                precision="fp32",
                opset=max(one.version for one in proto.opset_import if one.domain in {"", "ai.onnx"}),
                ir=proto.ir_version,
                inputs=session.inputs,
                outputs=session.outputs,
                **PinnedFile.measure(file),
            ),
        ),
        golden=Golden(**PinnedFile.measure(directory / "golden.npz")),
        provenance=Provenance(
            framework=proto.producer_name or "unknown",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            source_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
        ),
    )
    (directory / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return Artifact.open(directory)


def _noise(tensor: Tensor, preprocess: Preprocess) -> npt.NDArray[Any]:
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
