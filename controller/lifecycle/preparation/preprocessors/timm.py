"""Reads timm's ``config.json`` (with ``pretrained_cfg``), and a ``pretrained_cfg`` or data configuration alone.

Source: timm.data.transforms_factory, `transforms_imagenet_eval`, and timm.data.config, `resolve_data_config`: the
sizes of evaluation without ``use_test_size``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.moments import IMAGENET
from runtime.errors import UsageError
from runtime.manifest import Resize, describe_validation

__all__ = ["read", "recognizes"]


class Config(BaseModel):
    """The keys that say how a picture becomes an input; the others are about weights."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    input_size: tuple[Literal[3], int, int]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_pct: float = Field(default=0.875, gt=0)
    crop_mode: Literal["center", "squash"] = "center"  # "border" fills with the mean of each channel
    mean: tuple[float, float, float] = IMAGENET["mean"]
    std: tuple[float, float, float] = IMAGENET["std"]


def recognizes(document: Mapping[str, Any]) -> bool:
    """Whether *document* is one of timm's."""
    return isinstance(document.get("pretrained_cfg"), dict) or "input_size" in document


def read(document: Mapping[str, Any], source: str) -> Suggestion:
    """Return what *document* says.

    Raises:
        UsageError: A key is missing, is not valid, or means what cannot be expressed exactly.
    """
    said = document.get("pretrained_cfg")
    given = said if isinstance(said, dict) else document
    try:
        config = Config.model_validate({key: value for key, value in given.items() if value is not None})
        _, height, width = config.input_size
        scaled = math.floor(height / config.crop_pct), math.floor(width / config.crop_pct)
        return Suggestion(
            resize=_resize(config, scaled, source),
            crop=(height, width),
            mean=config.mean,
            std=config.std,
            scale=1 / 255,
            crop_pct=config.crop_pct,
        )
    except ValidationError as error:
        raise UsageError(f"{source} is not valid: {describe_validation(error)}") from None


def _resize(config: Config, scaled: tuple[int, int], source: str) -> Resize:
    if config.crop_mode == "squash":
        return Resize(mode="exact", size=scaled, interpolation=config.interpolation)
    if scaled[0] != scaled[1]:
        raise UsageError(
            f"{source}: input_size is {list(config.input_size)} with crop_mode 'center'; expected a square, or 'squash'"
        )
    return Resize(size=scaled[0], interpolation=config.interpolation)
