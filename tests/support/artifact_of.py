"""An artifact made of an ONNX file that is there already: a manifest by hand, golden outputs from the CPU."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifact import Artifact
from runtime.manifest import MANIFEST_FILE, Golden, Manifest, PinnedFile, Postprocess, Preprocess, Provenance, Variant
from runtime.proving import output_key
from runtime.session import Session

__all__ = ["artifact_of"]


def artifact_of(
    model: Path, root: Path, golden_input: np.ndarray, preprocess: Preprocess, postprocess: Postprocess, **fields: Any
) -> Artifact:
    """Write an artifact with *model* as its one variant into the new directory *root*.

    Args:
        model: The ONNX file; copied.
        root: Of the artifact.
        golden_input: What the graph's image input takes; the CPU EP gives the golden output for it.
        preprocess: Of the manifest.
        postprocess: As above.
        fields: More of the manifest.
    """
    root.mkdir(parents=True)
    path = Path(shutil.copy(model, root / "model.fp32.onnx"))
    session = Session(path)
    outputs = zip(session.outputs, session.run(golden_input), strict=True)
    arrays = {output_key("fp32", tensor.name): value for tensor, value in outputs}
    np.savez(root / "golden.npz", input=golden_input, **arrays)
    variant = Variant(
        **PinnedFile.measure(path),
        id="fp32",
        precision="fp32",
        opset=17,
        ir=8,
        inputs=session.inputs,
        outputs=session.outputs,
    )
    manifest = Manifest(
        name="model",
        version=1,
        preprocess=preprocess,
        postprocess=postprocess,
        variants=(variant,),
        golden=Golden(**PinnedFile.measure(root / "golden.npz")),
        provenance=Provenance(framework="onnx", created=datetime(2026, 11, 22, tzinfo=UTC)),
        **fields,
    )
    (root / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return Artifact.open(root)
