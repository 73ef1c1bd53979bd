"""MobileNetV2 of the test data as an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifact_of import artifact_of

from runtime.artifact import Artifact
from runtime.manifest import Postprocess, Preprocess, Resize

__all__ = ["IMAGENET", "mobilenet_artifact"]

IMAGENET = Preprocess(
    resize=Resize(size=256), crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255
)


def mobilenet_artifact(
    variant: str, model: Path, root: Path, test_data: Callable[[str], Path], **options: Any
) -> Artifact:
    """Write an artifact of that *variant* alone, float NCHW of photographs; *options* as `artifact_of` takes them."""
    return artifact_of(
        {variant: model},
        root,
        IMAGENET,
        Postprocess(kind="classification"),
        task="classification",
        labels=tuple(test_data("images/imagenet_labels.txt").read_text().splitlines()),
        **options,
    )
