"""A folder of pictures with COCO's annotations: boxes, outlines, keypoints (https://cocodataset.org/#format-data).

Rules:
    * The annotations are the one file of a known name in the folder, or a ``.json`` file that is named itself; its
      pictures lie beside it, in ``images/`` beside it, or in a neighbour folder named like the end of its name
      (``annotations/instances_val2017.json``, ``val2017/``).
    * Pictures come by file name. A picture that is listed and not there is a row without an image; one that is there
      and not listed is no row.
    * Category ids may have gaps: an object's label is the place of its category among all of them, by id.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.datasets.base import Row, file_fingerprint
from runtime.datasets.objects import Objects
from runtime.errors import DatasetError

__all__ = ["CocoDataset", "annotations_in"]

PATTERNS = ("instances*.json", "person_keypoints*.json", "*.coco.json", "annotations.json", "keypoints.json")
SECTIONS = ("images", "annotations", "categories")


def annotations_in(directory: Path) -> Path | None:
    """Return the file of annotations in *directory*; ``None`` if there is none.

    Raises:
        DatasetError: There are several.
    """
    found = sorted({path for pattern in PATTERNS for path in directory.glob(pattern) if path.is_file()})
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DatasetError(f"{directory} has several files of annotations ({names}); name the one that is meant")
    return found[0] if found else None


@dataclass(frozen=True)
class CocoDataset:
    """The pictures that one file of annotations lists."""

    uri: str
    annotations: Path

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        try:
            document = json.loads(self.annotations.read_bytes())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.annotations} is no readable JSON: {' '.join(str(error).split())}") from None
        if not isinstance(document, dict) or any(not isinstance(document.get(name), list) for name in SECTIONS):
            raise DatasetError(f"{self.annotations} has not the lists {', '.join(SECTIONS)} of COCO's annotations")
        return document

    @cached_property
    def _categories(self) -> tuple[tuple[int, str], ...]:
        try:
            return tuple(sorted((int(one["id"]), str(one["name"])) for one in self._document["categories"]))
        except (KeyError, TypeError, ValueError):
            raise DatasetError(f"{self.annotations}: every category needs an id and a name") from None

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the categories, by id."""
        return tuple(name for _, name in self._categories) or None

    @cached_property
    def _images(self) -> tuple[Mapping[str, Any], ...]:
        try:
            return tuple(sorted(self._document["images"], key=lambda image: str(image["file_name"])))
        except (KeyError, TypeError):
            raise DatasetError(f"{self.annotations}: every image needs an id and a file_name") from None

    @cached_property
    def _records(self) -> Mapping[Any, list[dict[str, Any]]]:
        """The annotations by image, each with the place of its category."""
        place = {category: index for index, (category, _) in enumerate(self._categories)}
        by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in self._document["annotations"]:
            if one.get("category_id") not in place:
                raise DatasetError(
                    f"{self.annotations}: an annotation has the category {one.get('category_id')!r}, which is none of "
                    f"the {len(place)} in the file"
                )
            by_image[one.get("image_id")].append({**one, "category": place[one["category_id"]]})
        return by_image

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        folder = self.annotations.parent
        end = self.annotations.stem.rpartition("_")[2]
        neighbours = folder.parent, folder.parent / "images"
        return (folder, folder / "images", *(root / end for root in neighbours), neighbours[1])

    @cached_property
    def fingerprint(self) -> str:
        """Of the annotations, and of names, sizes and modification times of the pictures."""
        paths = [self._path(image) for image in self._images]
        return file_fingerprint([self.annotations, *(path for path in paths if path.is_file())])

    def _path(self, image: Mapping[str, Any]) -> Path:
        name = str(image["file_name"])
        return next((path for root in self._roots if (path := root / name).is_file()), self._roots[0] / name)

    def __len__(self) -> int:
        return len(self._images)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; each picture is one row, number 0."""
        for image in self._images[start:stop]:
            path = self._path(image)
            try:
                data: bytes | None = path.read_bytes()
            except OSError:
                data = None
            size = (int(image["height"]), int(image["width"])) if {"height", "width"} <= image.keys() else None
            objects = Objects.parse(self._records.get(image.get("id"), []), f"{self.annotations}: {path.name}", size)
            yield Row(image=data, label=None, objects=objects, source_file=str(path), source_row=0)
