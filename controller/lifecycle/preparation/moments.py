"""Means and standard deviations of shares of 255 that families of models were trained with, RGB."""

from __future__ import annotations

from typing import Final, TypedDict

__all__ = ["CLIP", "HALF", "IMAGENET", "Statistics"]


class Statistics(TypedDict):
    """Arguments of `Preprocess`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET: Final[Statistics] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""torchvision's, timm's and transformers' ``IMAGENET_DEFAULT_MEAN`` and ``_STD``."""

HALF: Final[Statistics] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""From -1 to 1: timm's ``IMAGENET_INCEPTION_MEAN``, transformers' ``IMAGENET_STANDARD_MEAN``."""

CLIP: Final[Statistics] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
"""OpenAI's."""
