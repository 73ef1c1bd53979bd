"""How pictures become a model's input, as a manifest says it; nothing here computes.

Rules:
    * Everything is frozen; unknown keys are ignored on read.
    * Loads no NumPy: the device daemon reads manifests too. `runtime.preprocess` and `runtime.features` do the work.
    * What is said of features can be computed, for every picture: it is checked here, once.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Frozen", "Hog", "Preprocess", "Resize"]

MAX_EDGE = 16_384  # pixels; of what is fed to a model
Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]
Grey = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=1, le=1024)]


class Frozen(BaseModel):
    """What a manifest is made of."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Resize(Frozen):
    """How an image is brought to size before the crop.

    ``shortest-edge`` scales the shorter side to *size*, keeping the aspect ratio; ``exact`` scales
    to (height, width) regardless of it; ``letterbox`` scales the picture as large as fits into
    (height, width), keeping the aspect ratio, and fills the rest with *pad*.
    """

    mode: Literal["shortest-edge", "exact", "letterbox"] = "shortest-edge"
    size: Edge | tuple[Edge, Edge]  # pixels; (height, width) for `exact` and `letterbox`
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True
    pad: Grey = 114  # `letterbox`: grey level of what the picture does not cover
    anchor: Literal["center", "top-left"] = "center"  # `letterbox`: where the picture lies

    @model_validator(mode="after")
    def _size_fits_mode(self) -> Self:
        if self.mode == "shortest-edge" and isinstance(self.size, tuple):
            raise ValueError(f"mode 'shortest-edge' takes one size, not {self.size}")
        return self


class Hog(Frozen):
    """Parameters of a histogram of oriented gradients, named and meant as those of ``skimage.feature.hog``.

    Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005.
    """

    kind: Literal["hog"] = "hog"
    orientations: Count = 9  # bins over 180 degrees
    pixels_per_cell: tuple[Count, Count] = (8, 8)  # (height, width)
    cells_per_block: tuple[Count, Count] = (3, 3)  # (height, width)
    block_norm: Literal["L1", "L1-sqrt", "L2", "L2-Hys"] = "L2-Hys"
    transform_sqrt: bool = False  # square root of the pixels first

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Return how many whole cells a picture of *height* x *width* pixels has, (rows, columns)."""
        return height // self.pixels_per_cell[0], width // self.pixels_per_cell[1]

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        """Return how many blocks a picture of *height* x *width* pixels has, (rows, columns).

        Raises:
            ValueError: It is too small for one.
        """
        rows, columns = self.cells(height, width)
        blocks = rows - self.cells_per_block[0] + 1, columns - self.cells_per_block[1] + 1
        if min(blocks) < 1:
            needed = [cell * count for cell, count in zip(self.pixels_per_cell, self.cells_per_block, strict=True)]
            raise ValueError(
                f"{height}x{width} pixels are too few for a block of {self.cells_per_block} cells of "
                f"{self.pixels_per_cell} pixels; expected {needed[0]}x{needed[1]} at least"
            )
        return blocks

    def length(self, height: int, width: int) -> int:
        """Return how many numbers describe a picture of *height* x *width* pixels.

        Raises:
            ValueError: It is too small for one block.
        """
        rows, columns = self.blocks(height, width)
        return rows * columns * self.cells_per_block[0] * self.cells_per_block[1] * self.orientations


class Preprocess(Frozen):
    """From upright RGB pixels to the model's input: ``(pixel * scale - mean) / std`` per channel, then *features*."""

    color: Literal["RGB", "BGR", "L"] = "RGB"
    resize: Resize | None = None
    crop: tuple[Edge, Edge] | None = None  # (height, width), centered
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    embedded: bool = False  # the graph takes uint8 NHWC RGB and normalizes itself
    layout: Literal["NHWC", "NCHW"] | None = None  # None: found from the input's shape
    background: tuple[Grey, Grey, Grey] = (255, 255, 255)  # RGB; what transparent pixels are composed on
    features: Hog | None = None  # the graph takes these, (N, length), instead of pixels

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that every picture ends with, pixels; ``None``: it depends on the picture."""
        if self.crop is not None or self.resize is None:
            return self.crop
        size = self.resize.size
        if self.resize.mode == "shortest-edge":
            return None
        return size if isinstance(size, tuple) else (size, size)

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        channels = 1 if self.color == "L" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, channels}:
                raise ValueError(f"{name} has {len(values)} values, color {self.color} has {channels} channels")
        if any(value == 0 for value in self.std) or self.scale == 0:
            raise ValueError("std and scale must not be 0")
        return self

    @model_validator(mode="after")
    def _features_can_be_computed(self) -> Self:
        if self.features is None:
            return self
        if self.color != "L" or self.embedded or self.layout is not None or self.size is None:
            raise ValueError(
                "features need color 'L', pictures of one size (crop, or resize with mode 'exact' or 'letterbox'), "
                "no layout, and are not embedded"
            )
        self.features.length(*self.size)
        if self.features.transform_sqrt and min(-self.mean[0], 255 * self.scale - self.mean[0]) / self.std[0] < 0:
            raise ValueError("transform_sqrt takes no root of negative pixels; choose mean, std and scale to match")
        return self
