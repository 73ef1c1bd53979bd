"""What an ONNX file says of itself in its ``metadata_props``.

Rules:
    * The values are text from a stranger: they are parsed as Python literals or JSON, never evaluated, and
      only up to `MOST_CHARACTERS`. What is not of the expected type is left out, and a note says so.
    * Written by Ultralytics (``task``, ``names``, ``imgsz``, ``stride``, ``kpt_shape``, ``kpt_names``, ``end2end``, all
      as Python reprs), by YOLOv5 and YOLOv7 (``stride`` and ``names``), and by whoever puts Hugging Face's
      ``id2label`` there as JSON.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.manifest import Task
from runtime.recipe import MAX_EDGE

__all__ = ["Facts", "class_names", "parse_literal", "parse_metadata"]

MOST_CHARACTERS = 262_144  # a value's; the names of ImageNet's 1,000 classes take 30,000
MOST_CLASSES = 100_000

TASKS: Mapping[str, Task] = {
    "detect": "detection",
    "segment": "segmentation",
    "pose": "pose",
    "classify": "classification",
}
"""Ultralytics' words for the tasks that Vedette has too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the metadata say, as far as it could be read.

    Attributes:
        maker: ``ultralytics``, ``yolov5`` (YOLOv7 writes the same), or empty: nobody we know.
        labels: Names of the classes, in order.
        task: Of ours, if the file names one that we know.
        foreign_task: As the file names it, if it is none of ours.
        size: (height, width) of the pictures that it was exported for, pixels.
        keypoint_shape: (keypoints, numbers a keypoint).
        keypoints: Their names.
        end2end: Whether the outputs are finished rows, chosen inside the graph.
        notes: What could not be read.
    """

    maker: str = ""
    labels: tuple[str, ...] | None = None
    task: Task | None = None
    foreign_task: str | None = None
    size: tuple[int, int] | None = None
    keypoint_shape: tuple[int, int] | None = None
    keypoints: tuple[str, ...] = ()
    end2end: bool = False
    notes: tuple[str, ...] = ()


def parse_literal(text: str) -> Any:
    """Return the value that *text* writes as JSON or as a Python literal.

    Raises:
        ValueError: It is neither, or longer than `MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MOST_CHARACTERS} are read")
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # nesting without end makes Python's parser give up with the last two
    raise ValueError("neither JSON nor a Python literal")


def class_names(value: Any) -> tuple[str, ...]:
    """Return the class names that *value* lists, or maps from their indices; an index left out is ``class_<index>``.

    Raises:
        ValueError: It does neither.
    """
    if isinstance(value, Mapping):
        return _by_index({_index(key): name for key, name in value.items()})
    if isinstance(value, list | tuple):
        return _by_index(dict(enumerate(value)))
    raise ValueError(f"a {type(value).__name__}; expected a list of names, or a mapping from index to name")


def _index(key: Any) -> int:
    if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).strip().isdecimal():
        raise ValueError(f"{str(key)[:40]!r} is no class index")
    return int(key)


def _by_index(names: Mapping[int, Any]) -> tuple[str, ...]:
    most = max(names, default=-1)
    if not 0 <= most < MOST_CLASSES:
        raise ValueError(f"the largest index is {most}; expected 0 to {MOST_CLASSES - 1}")
    if wrong := [name for name in names.values() if isinstance(name, bool) or not isinstance(name, str | int | float)]:
        raise ValueError(f"a {type(wrong[0]).__name__} among the names")
    ordered = (str(names.get(index, "")).strip() for index in range(most + 1))
    return tuple(" ".join(name.split()) or f"class_{index}" for index, name in enumerate(ordered))


def _size(value: Any) -> tuple[int, int]:
    edges = (value, value) if isinstance(value, int) else value
    whole = isinstance(edges, list | tuple) and len(edges) == 2 and all(type(edge) is int for edge in edges)
    if not whole or not all(1 <= edge <= MAX_EDGE for edge in edges):
        raise ValueError(f"{str(value)[:40]!r}; expected height and width in pixels")
    return edges[0], edges[1]


def _keypoint_shape(value: Any) -> tuple[int, int]:
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(type(part) is int for part in value)):
        raise ValueError(f"{str(value)[:40]!r}; expected [keypoints, 2 or 3]")
    if not (1 <= value[0] <= 1000 and value[1] in {2, 3}):
        raise ValueError(f"{str(value)[:40]!r}; expected [keypoints, 2 or 3]")
    return value[0], value[1]


def _keypoint_names(value: Any) -> tuple[str, ...]:
    """Return the names of the first class's keypoints; Ultralytics maps classes to lists of names."""
    return class_names(value.get(0, value.get("0")) if isinstance(value, Mapping) else value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]!r}; expected True or False")  # noqa: TRY004 - all readers say ValueError
    return value


READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    # key of the metadata -> field of `Facts`, and how the parsed value is read
    "names": ("labels", class_names),
    "id2label": ("labels", class_names),
    "imgsz": ("size", _size),
    "kpt_shape": ("keypoint_shape", _keypoint_shape),
    "kpt_names": ("keypoints", _keypoint_names),
    "end2end": ("end2end", _flag),
}


def parse_metadata(properties: Mapping[str, str]) -> Facts:
    """Return what *properties*, an ONNX file's ``metadata_props``, say."""
    fields: dict[str, Any] = {}
    notes = []
    for key, (field, read) in READERS.items():
        if key not in properties or field in fields:
            continue
        try:
            fields[field] = read(parse_literal(properties[key]))
        except (ValueError, TypeError) as error:
            notes.append(f"metadata {key!r} is left out: {' '.join(str(error).split())[:200]}")
    said = properties.get("task", "").strip()
    known = TASKS.get(said)
    return Facts(
        maker=_maker(properties, fields),
        task=known,
        foreign_task=said[:40] if said and known is None else None,
        notes=tuple(notes),
        **fields,
    )


def _maker(properties: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    if "labels" not in fields or "stride" not in properties:
        return ""
    return "ultralytics" if "task" in properties else "yolov5"
