"""Preprocessing by name, or from a file.

Rules:
    * A preset says how pixels are normalized; where it says no size, the graph's own is used.
    * A file is the manifest's ``preprocess`` object alone, as JSON; an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from controller.lifecycle.graph import ImageInput
from runtime.errors import UsageError
from runtime.manifest import Preprocess, Resize, describe_validation

__all__ = ["PRESETS", "complete", "resolve_preprocess"]

PRESETS: Mapping[str, Preprocess] = {
    # torchvision's and timm's classifiers: shortest edge 256, crop 224, statistics of ImageNet
    "imagenet": Preprocess(
        resize=Resize(size=256),
        crop=(224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        scale=1 / 255,
    ),
    # pixels as they are, 0 to 255: Keras models with their own rescaling, MLPerf Tiny
    "raw255": Preprocess(),
    # 0 to 1: torchvision's ToTensor without Normalize
    "unit": Preprocess(scale=1 / 255),
    # -1 to 1: TensorFlow's MobileNets and Inceptions
    "symmetric": Preprocess(scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3),
}


def resolve_preprocess(setting: str) -> Preprocess:
    """Return what *setting* means: a preset's name, or the path of a JSON file.

    Raises:
        UsageError: It is neither, or the file is not valid.
    """
    if setting in PRESETS:
        return PRESETS[setting]
    path = Path(setting)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(PRESETS)
        raise UsageError(f"--preprocess {setting!r} is no preset ({known}) and no file") from None
    try:
        return Preprocess.model_validate_json(data, extra="forbid")
    except ValidationError as error:
        raise UsageError(f"--preprocess {path} is not valid: {describe_validation(error)}") from None


def complete(preprocess: Preprocess, found: ImageInput) -> Preprocess:
    """Return *preprocess* with the size of the graph's input where it says none.

    Raises:
        UsageError: It leads to another size than the graph takes, or to none where the graph takes any.
    """
    height, width = found.height, found.width
    if preprocess.resize is None and preprocess.crop is None:
        if not isinstance(height, int) or not isinstance(width, int):
            raise UsageError(
                f"input {found.name!r} takes pictures of any size ({height} x {width}), and the preprocessing "
                "says none; give --preprocess FILE with resize or crop"
            )
        return preprocess.model_copy(update={"resize": Resize(mode="exact", size=(height, width))})
    leads_to = _size_after(preprocess)
    for what, graph, ours in zip(("height", "width"), (height, width), leads_to, strict=True):
        if isinstance(graph, int) and ours != graph:
            raise UsageError(
                f"the preprocessing leads to a {what} of {ours or 'no fixed size'}, "
                f"input {found.name!r} takes {graph}; give --preprocess FILE with resize and crop to match"
            )
    return preprocess


def _size_after(preprocess: Preprocess) -> tuple[int | None, int | None]:
    """Return the (height, width) that every picture ends with; ``None`` where it depends on the picture."""
    if preprocess.crop is not None:
        return preprocess.crop
    resize = preprocess.resize
    if resize is None or resize.mode != "exact":
        return None, None
    return resize.size if isinstance(resize.size, tuple) else (resize.size, resize.size)
