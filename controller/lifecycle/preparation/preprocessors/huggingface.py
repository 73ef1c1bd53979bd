"""Reads what transformers' image processors save: ``preprocessor_config.json`` and ``processor_config.json``.

Rules:
    * The class says what a bare number means and what is missing, as in transformers 4 and 5; its older name
      (``ViTFeatureExtractor``) and its faster forms (``...Fast``) mean the same.
    * Without a class, sizes and filter must be spelled out. One kind of document is older than the key: a number
      for a size and no crop is ViT's.
    * A key that this module does not know is refused unless it is null or false.

transformers rounds the offset of an odd crop down, torchvision and we to even: the crop may lie a pixel apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.moments import CLIP, HALF, IMAGENET, Statistics
from runtime.errors import UsageError
from runtime.manifest import Resize, describe_validation

__all__ = ["read", "recognizes"]

CLASS_KEYS = ("image_processor_type", "feature_extractor_type")
NAME_ENDS = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")  # in the order in which they are taken off
GENERIC = "Image"  # Transformers.js' `ImageFeatureExtractor`, which does what the keys say

NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3  # PIL.Image.Resampling
FILTERS: Mapping[int, str] = {NEAREST: "nearest", LANCZOS: "lanczos", BILINEAR: "bilinear", BICUBIC: "bicubic"}

IGNORED = {
    # says nothing about how one picture becomes an input
    *("_valid_processor_keys", "_processor_class", "processor_class", "auto_map", *CLASS_KEYS),
    *("return_tensors", "data_format", "input_data_format", "device", "disable_grouping", "default_to_square"),
    *("do_convert_rgb", "do_reduce_labels", "reduce_labels", "do_convert_annotations", "format", "num_labels"),
    *("ignore_index", "class_info_file", "metadata", "repo_path", "image_seq_length"),
}


class Config(BaseModel):
    """The keys that are understood."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    size: int | dict[str, int] | list[int] | None = None
    max_size: int | None = None
    resample: int | None = None
    do_resize: bool = True
    crop_pct: float | None = Field(default=None, gt=0)
    crop_size: int | dict[str, int] | list[int] | None = None
    do_center_crop: bool = False
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    rescale_offset: bool = False
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] | None = None
    image_std: float | tuple[float, ...] | None = None
    include_top: bool = False
    do_flip_channel_order: bool = False
    do_pad: bool = False
    pad_size: dict[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What becomes of the size: (height, width), or the shortest edge."""

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None


def _as_said(config: Config, source: str, *, square: bool | None) -> Steps:
    return Steps(
        resize=_edges(config.size, source, "size", square=square) if config.do_resize else None,
        crop=_crop(config, source),
    )


def _convnext(config: Config, source: str, *, square: bool | None) -> Steps:
    """Below 384 a crop of *crop_pct*, from there on the whole picture, its aspect ratio not kept."""
    edge = _edges(config.size, source, "size", square=square)
    if not config.do_resize or not isinstance(edge, int):
        return Steps(resize=edge if config.do_resize else None, crop=None)
    if edge >= 384:
        return Steps(resize=(edge, edge), crop=None)
    return Steps(resize=int(edge / (config.crop_pct or 1.0)), crop=(edge, edge))


def _poolformer(config: Config, source: str, *, square: bool | None) -> Steps:
    """The shortest edge becomes ``size / crop_pct``, if there is one."""
    said = _as_said(config, source, square=square)
    if config.crop_pct is None or said.resize is None:
        return said
    edges = (said.resize,) * 2 if isinstance(said.resize, int) else said.resize
    if edges[0] != edges[1]:
        raise UsageError(f"{source}: size is {edges[0]}x{edges[1]} and crop_pct is given; expected one edge")
    return Steps(resize=int(edges[0] / config.crop_pct), crop=said.crop)


def _levit(config: Config, source: str, *, square: bool | None) -> Steps:
    """The shortest edge becomes 256/224 of what the document says."""
    said = _as_said(config, source, square=square)
    return Steps(resize=int(256 / 224 * said.resize) if isinstance(said.resize, int) else said.resize, crop=said.crop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What a class of transformers does where a document does not say.

    Attributes:
        square: A bare number for a size is both edges; ``False``: the shortest one; ``None``: nobody knows.
        defaults: Of the keys.
        steps: What becomes of the size.
        keys: That it takes beside those which all take.
    """

    square: bool | None = True
    defaults: Mapping[str, Any] = field(default_factory=dict)
    steps: Callable[..., Steps] = _as_said
    keys: frozenset[str] = frozenset()


def _moments(statistics: Statistics) -> Mapping[str, Any]:
    return {"image_mean": statistics["mean"], "image_std": statistics["std"]}


def _cropping(size: int, crop: int, resample: int, statistics: Statistics) -> Processor:
    """Return a processor that scales the shortest edge, and crops."""
    defaults = {"size": size, "do_center_crop": True, "crop_size": crop, "resample": resample}
    return Processor(square=False, defaults={**defaults, **_moments(statistics)})


def _exact(size: int, resample: int, statistics: Statistics, **defaults: Any) -> Processor:
    """Return a processor that scales the whole picture to (size, size)."""
    return Processor(defaults={"size": size, "resample": resample, **_moments(statistics), **defaults})


SHORTEST_AND_LONGEST = {"shortest_edge": 800, "longest_edge": 1333}
_DETR = Processor(defaults={"size": SHORTEST_AND_LONGEST, "resample": BILINEAR, "do_pad": True, **_moments(IMAGENET)})

PROCESSORS: Mapping[str, Processor] = {
    # by class, without its end; defaults of transformers 4.57
    "ViT": _exact(224, BILINEAR, HALF),
    "DeiT": _exact(256, BICUBIC, HALF, do_center_crop=True, crop_size=224),
    "Beit": _exact(256, BICUBIC, HALF, do_center_crop=True, crop_size=224),
    "CLIP": _cropping(224, 224, BICUBIC, CLIP),
    "ChineseCLIP": _cropping(224, 224, BICUBIC, CLIP),
    "Bit": _cropping(224, 224, BICUBIC, CLIP),
    "Siglip": _exact(224, BICUBIC, HALF),
    "Blip": _exact(384, BICUBIC, CLIP),
    "OwlViT": _exact(768, BICUBIC, CLIP, crop_size=768),
    "Segformer": _exact(512, BILINEAR, IMAGENET),
    "Pvt": _exact(224, BILINEAR, IMAGENET),
    "DINOv3ViT": _exact(224, BILINEAR, IMAGENET),
    "MobileNetV1": _cropping(256, 224, BILINEAR, HALF),
    "MobileNetV2": _cropping(256, 224, BILINEAR, HALF),
    "MobileViT": Processor(
        square=False,
        defaults={
            "size": 224,
            "resample": BILINEAR,
            "do_center_crop": True,
            "crop_size": 256,
            "do_flip_channel_order": True,
            "do_normalize": False,
        },
        keys=frozenset({"do_flip_channel_order"}),
    ),
    "ConvNext": Processor(
        square=False,
        defaults={"size": 384, "crop_pct": 224 / 256, "resample": BILINEAR, **_moments(HALF)},
        steps=_convnext,
        keys=frozenset({"crop_pct"}),
    ),
    "PoolFormer": Processor(
        square=False,
        defaults={
            "size": 224,
            "crop_pct": 0.9,
            "resample": BICUBIC,
            "do_center_crop": True,
            "crop_size": 224,
            **_moments(IMAGENET),
        },
        steps=_poolformer,
        keys=frozenset({"crop_pct"}),
    ),
    "Levit": Processor(
        square=False,
        defaults={"size": 224, "resample": BICUBIC, "do_center_crop": True, "crop_size": 224, **_moments(IMAGENET)},
        steps=_levit,
    ),
    "EfficientNet": Processor(
        defaults={"size": 346, "resample": NEAREST, "crop_size": 289, "include_top": True, **_moments(HALF)},
        keys=frozenset({"rescale_offset", "include_top"}),
    ),
    "RTDetr": _exact(640, BILINEAR, IMAGENET, do_normalize=False),
    "Detr": _DETR,
    "ConditionalDetr": _DETR,
    "DeformableDetr": _DETR,
    "Yolos": _DETR,
    GENERIC: Processor(square=None, defaults={"do_normalize": False}),
}
SPECIAL = frozenset().union(*(processor.keys for processor in PROCESSORS.values()))


def recognizes(document: Mapping[str, Any]) -> bool:
    """Whether *document* is one of transformers'."""
    inner = _inner(document)
    return any(key in inner for key in (*CLASS_KEYS, "do_resize", "do_normalize", "do_rescale", "image_mean"))


def read(document: Mapping[str, Any], source: str) -> Suggestion:
    """Return what *document* says.

    Raises:
        UsageError: A key is missing, is not valid, or means what cannot be expressed exactly.
    """
    said = _inner(document)
    name = _class_of(said, source)
    processor = PROCESSORS[name]
    _check_keys(said, processor, name, source)
    # Null stands for the class's own value, except of `crop_pct`, where it stands for none.
    given = {key: value for key, value in said.items() if value is not None or key == "crop_pct"}
    try:
        return _suggestion(Config.model_validate({**processor.defaults, **given}), processor, source)
    except ValidationError as error:
        raise UsageError(f"{source} is not valid: {describe_validation(error)}") from None


def _suggestion(config: Config, processor: Processor, source: str) -> Suggestion:
    steps = processor.steps(config, source, square=processor.square)
    _check_padding(config, steps, source)
    mean, std, scale = _normalization(config, source)
    return Suggestion(
        color="BGR" if config.do_flip_channel_order else "RGB",
        resize=_resize(config, steps, source),
        crop=steps.crop,
        mean=mean,
        std=std,
        scale=scale,
        crop_pct=_share(config, steps),
    )


def _share(config: Config, steps: Steps) -> float | None:
    """Return the part that the crop keeps, unrounded, where that is what `crop_pct` says."""
    if config.crop_pct is None or steps.crop is None or steps.resize != int(max(steps.crop) / config.crop_pct):
        return None
    return config.crop_pct


def _inner(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the image processor's part of a processor's document."""
    inner = document.get("image_processor")
    return inner if isinstance(inner, dict) else document


def _class_of(said: Mapping[str, Any], source: str) -> str:
    """Return the key of `PROCESSORS` that the document means."""
    given = next((said[key] for key in CLASS_KEYS if said.get(key)), None)
    if given is None:
        crops = said.get("do_center_crop") or said.get("crop_size")
        return "ViT" if isinstance(said.get("size"), int) and not crops else GENERIC
    name = str(given)
    for end in NAME_ENDS:
        name = name.removesuffix(end)
    if name not in PROCESSORS:
        known = ", ".join(f"{known}ImageProcessor" for known in PROCESSORS if known != GENERIC)
        raise UsageError(
            f"{source}: the image processor is {given}, which is not known; known are {known}. Write its steps as "
            "Vedette's own preprocess object"
        )
    return name


def _check_keys(said: Mapping[str, Any], processor: Processor, name: str, source: str) -> None:
    understood = (set(Config.model_fields) - SPECIAL) | processor.keys | IGNORED
    for key, value in said.items():
        if key not in understood and value is not None and value is not False:
            raise UsageError(
                f"{source}: {key} is {value!r}, which Vedette cannot do as {name}ImageProcessor does; write the "
                "preprocessing as Vedette's own preprocess object if it does not matter"
            )


def _edges(
    size: int | dict[str, int] | list[int] | None, source: str, key: str, *, square: bool | None
) -> tuple[int, int] | int:
    """Return (height, width), or the shortest edge."""
    if isinstance(size, int) and square is None:
        raise UsageError(
            f"{source}: {key} is {size}, and no image_processor_type says whether that is the shortest edge or both; "
            'add one, or write {"height": ..., "width": ...} or {"shortest_edge": ...}'
        )
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        return size[0], size[1]
    raise UsageError(
        f"{source}: {key} is {size!r}; expected a number, {{height, width}} or {{shortest_edge}}. A limit on the "
        "longest edge makes inputs of many sizes: export the model with a fixed one, and say that size here"
    )


def _crop(config: Config, source: str) -> tuple[int, int] | None:
    if not config.do_center_crop:
        return None
    crop = _edges(config.crop_size, source, "crop_size", square=True)
    if isinstance(crop, int):
        raise UsageError(f"{source}: crop_size is {config.crop_size!r}; expected a number or {{height, width}}")
    return crop


def _check_padding(config: Config, steps: Steps, source: str) -> None:
    if config.max_size is not None:
        raise UsageError(f"{source}: max_size is {config.max_size}; a limit on the longest edge cannot be expressed")
    fixed = steps.crop is not None or isinstance(steps.resize, tuple)
    if config.pad_size is not None or (config.do_pad and not fixed):
        key = "pad_size" if config.pad_size is not None else "do_pad"
        raise UsageError(
            f"{source}: {key} is {getattr(config, key)!r}; padding after normalization cannot be expressed"
        )


def _resize(config: Config, steps: Steps, source: str) -> Resize | None:
    if steps.resize is None:
        return None
    interpolation = FILTERS.get(config.resample) if config.resample is not None else None
    if interpolation is None:
        known = ", ".join(f"{code} ({name})" for code, name in FILTERS.items())
        raise UsageError(f"{source}: resample is {config.resample}; expected {known}")
    mode = "exact" if isinstance(steps.resize, tuple) else "shortest-edge"
    return Resize.model_validate({"mode": mode, "size": steps.resize, "interpolation": interpolation})


def _normalization(config: Config, source: str) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return mean, std and scale.

    ``rescale_offset`` moves 0 to -1 and 255 to 1 (with the factor 1/127.5; with others, transformers 4.26 and
    later versions differ). ``include_top`` divides by the deviation once more (EfficientNetImageProcessor).
    """
    scale = config.rescale_factor if config.do_rescale else 1.0
    mean, std = _channels(0.0), _channels(1.0)
    if config.do_normalize:
        mean, std = _channels(config.image_mean), _channels(config.image_std)
    if config.rescale_offset and config.do_rescale:
        if abs(scale * 127.5 - 1) > 1e-6:
            raise UsageError(f"{source}: rescale_offset is true and rescale_factor {scale:g}; expected 1/127.5")
        mean = tuple(value + 1 for value in mean)
    if config.include_top:
        std = tuple(a * b for a, b in zip(std, _channels(config.image_std), strict=False))
    if len(mean) != 3 or len(std) != 3 or 0 in std or scale == 0:
        raise UsageError(f"{source}: image_mean is {mean}, image_std {std}; expected three numbers each, std not 0")
    return mean, std, scale


def _channels(values: float | tuple[float, ...] | None) -> tuple[float, ...]:
    if values is None:
        return ()
    return values if isinstance(values, tuple) else (values,) * 3
