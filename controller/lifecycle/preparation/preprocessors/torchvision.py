"""Reads transforms as torchvision prints them: its weights' presets, and a `Compose` of common steps, timm's too.

    ImageClassification(crop_size=[224], resize_size=[232], mean=[...], std=[...], interpolation=...)
    Compose(Resize(size=256, ...) CenterCrop(size=(224, 224)) ToTensor() Normalize(mean=[...], std=[...]))

Rules:
    * The text is parsed as Python and never run: names, numbers, lists and calls, nothing else.
    * A preset may come as a JSON object with the same keys.
    * Steps must stand in the order in which `Preprocess` does them; another step, or order, is refused by name.

Source: torchvision.transforms._presets.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.moments import IMAGENET
from runtime.errors import UsageError
from runtime.manifest import describe_validation

__all__ = ["looks_like_calls", "parse", "read", "recognizes"]

CALL = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_.]*\s*\(")
KIND = "transform"  # the key under which `parse` puts the name of the call
PRESET_KEYS = {"resize_size", "crop_size"}

Arguments = Mapping[str, Any]


def looks_like_calls(text: str) -> bool:
    """Whether *text* is what torchvision prints rather than JSON."""
    return CALL.match(text) is not None


def parse(text: str, source: str) -> Mapping[str, Any]:
    """Return the arguments of the outermost call in *text*, its name under `KIND`, the calls in it under ``steps``.

    Raises:
        UsageError: It is no such text.
    """
    try:
        found = _value(ast.parse(_with_commas(text).strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{source} is neither JSON nor what torchvision prints of its transforms: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{source} is no transform: {text.strip()[:60]!r}")
    return found


def _with_commas(text: str) -> str:
    """Return *text* with a comma where only the end of a line parts two arguments."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    joined = [
        line if line.endswith(("(", "[", ",")) or following.lstrip().startswith((")", "]")) else f"{line},"
        for line, following in zip(lines, [*lines[1:], ")"], strict=True)
    ]
    return " ".join(joined)


def _value(node: ast.expr) -> Any:
    """Return what *node* says: a literal, the last part of a dotted name, or a call as `parse` has it."""
    match node:
        case ast.Call(func=function, args=positional, keywords=named):
            arguments = {argument.arg: _value(argument.value) for argument in named if argument.arg}
            return {**arguments, KIND: _value(function), "steps": [_value(one) for one in positional]}
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case _:
            return ast.literal_eval(node)


def recognizes(document: Mapping[str, Any]) -> bool:
    """Whether *document* is a transform, parsed or as JSON."""
    return KIND in document or bool(PRESET_KEYS & set(document))


def read(document: Mapping[str, Any], source: str) -> Suggestion:
    """Return what *document* says.

    Raises:
        UsageError: A step or a key is not known, is not valid, or comes at the wrong place.
    """
    kind = document.get(KIND, "ImageClassification")
    fields = _composed(document, source) if kind == "Compose" else _preset(kind, document, source)
    try:
        return Suggestion.model_validate(fields)
    except (ValidationError, TypeError, ValueError) as error:
        text = describe_validation(error) if isinstance(error, ValidationError) else error
        raise UsageError(f"{source} is not valid: {text}") from None


PRESETS: Mapping[str, frozenset[str]] = {
    # by name: the keys that it has
    "ImageClassification": frozenset({"crop_size", "resize_size", "mean", "std", "interpolation", "antialias"}),
    "SemanticSegmentation": frozenset({"resize_size", "mean", "std", "interpolation", "antialias"}),
    "ObjectDetection": frozenset(),
}


def _preset(kind: str, said: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of `Preprocess` that a preset of torchvision's weights means."""
    if kind not in PRESETS:
        raise UsageError(f"{source}: transform {kind} is not known; expected {', '.join(PRESETS)} or Compose")
    if unknown := set(said) - PRESETS[kind] - {KIND, "steps"}:
        raise UsageError(f"{source}: {kind} has no {', '.join(sorted(unknown))}; it has {', '.join(PRESETS[kind])}")
    if kind == "ObjectDetection":
        return {"scale": 1 / 255}
    fields: dict[str, Any] = {**IMAGENET, "scale": 1 / 255}
    fields |= {key: said[key] for key in ("mean", "std") if key in said}
    if kind == "ImageClassification":
        fields |= _crop({"size": said.get("crop_size")}, source)
    if said.get("resize_size") is not None or kind == "ImageClassification":
        fields |= _resize({**said, "size": said.get("resize_size", 256)}, source)
    return fields


def _resize(said: Arguments, source: str) -> dict[str, Any]:
    size = said.get("size")
    if said.get("max_size") is not None:
        raise UsageError(
            f"{source}: Resize has max_size {said['max_size']}; a limit on the longest edge cannot be kept"
        )
    if said.get("antialias") is False:
        raise UsageError(f"{source}: antialias is False, which torchvision does for tensors and not for pictures")
    if isinstance(size, list) and len(size) == 1:
        size = size[0]
    return {
        "resize": {
            "mode": "exact" if isinstance(size, list) else "shortest-edge",
            "size": size,
            "interpolation": str(said.get("interpolation", "bilinear")).lower(),
        }
    }


def _crop(said: Arguments, source: str) -> dict[str, Any]:
    size = said.get("size")
    if isinstance(size, list) and len(size) == 1:
        size = size[0]
    if isinstance(size, int):
        size = [size, size]
    if not isinstance(size, list):
        raise UsageError(f"{source}: the crop's size is {size!r}; expected a number, or height and width")
    return {"crop": size}


def _to_tensor(said: Arguments, source: str) -> dict[str, Any]:  # noqa: ARG001 - one signature for all steps
    return {"scale": 1 / 255}


def _to_type(said: Arguments, source: str) -> dict[str, Any]:
    if said.get("scale") is True:
        return {"scale": 1 / 255}
    raise UsageError(f"{source}: ToDtype has scale {said.get('scale')}; expected True")


def _normalize(said: Arguments, source: str) -> dict[str, Any]:
    if not {"mean", "std"} <= set(said):
        raise UsageError(f"{source}: Normalize needs mean and std")
    return {key: [float(value) for value in _numbers(said[key])] for key in ("mean", "std")}


def _numbers(value: Any) -> Sequence[Any]:
    """Return the numbers of a list, or of a printed ``tensor([...])``."""
    if isinstance(value, dict) and value.get(KIND) == "tensor" and value["steps"]:
        return list(value["steps"][0])
    return value if isinstance(value, list) else [value]


def _nothing(said: Arguments, source: str) -> dict[str, Any]:  # noqa: ARG001 - one signature for all steps
    return {}


STEPS: Mapping[str, tuple[int, Callable[[Arguments, str], dict[str, Any]]]] = {
    # by name: its place, and the fields of `Preprocess` that it means
    "Resize": (1, _resize),
    "CenterCrop": (2, _crop),
    "PILToTensor": (3, _nothing),
    "ToImage": (3, _nothing),
    "MaybePILToTensor": (3, _nothing),
    "ToTensor": (4, _to_tensor),
    "MaybeToTensor": (4, _to_tensor),
    "ToDtype": (4, _to_type),
    "ConvertImageDtype": (4, _to_tensor),
    "Normalize": (5, _normalize),
}


BY_PLACE: Mapping[str, tuple[str, ...]] = {
    # by name of the step: arguments that may come without theirs
    "Resize": ("size", "interpolation", "max_size", "antialias"),
    "CenterCrop": ("size",),
    "ToDtype": ("dtype", "scale"),
    "Normalize": ("mean", "std"),
}


def _composed(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of `Preprocess` that the steps of a `Compose` mean."""
    steps = document["steps"][0] if len(document["steps"]) == 1 else document["steps"]
    fields: dict[str, Any] = {}
    reached = 0
    for step in steps if isinstance(steps, list) else [steps]:
        name = str(step.get(KIND) if isinstance(step, dict) else step)
        if name not in STEPS:
            raise UsageError(f"{source}: step {name} cannot be expressed; expected {', '.join(STEPS)}")
        place, means = STEPS[name]
        if place <= reached:
            raise UsageError(f"{source}: step {name} comes too late; expected this order: {', '.join(STEPS)}")
        fields |= means({**dict(zip(BY_PLACE.get(name, ()), step["steps"], strict=False)), **step}, source)
        reached = place
    if "mean" in fields and "scale" not in fields:
        raise UsageError(f"{source}: Normalize comes without ToTensor; expected shares of 255 before it")
    return fields
