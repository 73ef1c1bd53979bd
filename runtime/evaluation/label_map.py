"""From the classes of a dataset to those of a model.

Rules, in this order:
    * A dataset without names has the model's own indices, unless they are COCO's ids: those go from 1 to 90 with gaps,
      where the model has COCO's eighty classes. Which it is, the first id tells that only one of them has.
    * A dataset with names is mapped by name; upper case, ``_`` and ``-`` make no difference. A name that the model has
      twice means neither.
    * Where not one name is among the model's labels, the indices are taken to be the same, if there are no more names
      than labels: folders may be called after anything.
    * What cannot be mapped is -1; the reader of the data says what that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.datasets import Row

__all__ = ["COCO_IDS", "LabelMap", "Labelled", "by_name", "ids_of"]

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
"""The ids of COCO's eighty classes of objects, in order: https://cocodataset.org/#format-data."""

Ids = npt.NDArray[np.int64]


class Labelled(Protocol):
    """What is known of pictures: a dataset, or a column of labels without the pictures."""

    @property
    def uri(self) -> str:
        """Where it came from."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of classes (of images or objects) by index; ``None`` if there are none."""

    def rows(self) -> Iterable[Row]:
        """Yield what is known, row by row."""


def by_name(names: Sequence[str], labels: Sequence[str]) -> Ids:
    """Return which of *labels* each of *names* means, (n,): upper case, ``_`` and ``-`` make no difference.

    What none of them means is -1, and so is what two of them mean.
    """
    places: dict[str, int] = {}
    for place, label in enumerate(labels):
        places[_normal(label)] = -1 if _normal(label) in places else place
    return np.array([places.get(_normal(name), -1) for name in names], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelMap:
    """What a dataset's ids are in the model.

    Attributes:
        table: int64, (n,): the model's class of each id from 0, -1 where there is none.
        names: Of the ids, where they have some.
        note: What was taken for granted, if it is worth saying.
    """

    table: Ids
    names: tuple[str, ...] | None = None
    note: str | None = None

    @classmethod
    def of(cls, dataset: Labelled, labels: Sequence[str]) -> LabelMap:
        """Return that of *dataset* and a model of *labels*."""
        names = dataset.label_names
        if names is None:
            return cls._of_ids(dataset, labels)
        if [_normal(name) for name in names] == [_normal(label) for label in labels]:
            return cls(table=np.arange(len(names)), names=names)
        found = by_name(names, labels)
        if found.max(initial=-1) < 0 and len(names) <= len(labels):
            note = "no class of the dataset has a name of the model's: they are taken to be the same by index"
            return cls(table=np.arange(len(names)), names=names, note=note)
        return cls(table=found, names=names)

    @classmethod
    def _of_ids(cls, dataset: Labelled, labels: Sequence[str]) -> LabelMap:
        if not _are_coco_s(labels):
            return cls(table=np.arange(len(labels)))
        telling = next((number for number in ids_of(dataset) if number == 0 or number >= len(labels)), 0)
        if telling not in COCO_IDS:
            return cls(table=np.arange(len(labels)))
        table = np.full(COCO_IDS[-1] + 1, -1)
        table[list(COCO_IDS)] = np.arange(len(COCO_IDS))
        return cls(table=table, note="categories have no names: their ids are taken to be COCO's own, 1 to 90")

    def __call__(self, ids: Ids) -> Ids:
        """Return the model's classes of *ids* (n,), -1 for what has none."""
        inside = (ids >= 0) & (ids < len(self.table))
        return np.where(inside, self.table[np.where(inside, ids, 0)], -1) if len(self.table) else np.full_like(ids, -1)

    def name(self, number: int) -> str:
        """Return what the id *number* is called."""
        named = self.names is not None and 0 <= number < len(self.names)
        return repr(self.names[number]) if self.names is not None and named else str(number)


def _normal(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _are_coco_s(labels: Sequence[str]) -> bool:
    return len(labels) == len(COCO_IDS) and (labels[0], labels[-1]) == ("person", "toothbrush")


def ids_of(dataset: Labelled) -> Iterable[int]:
    """Yield every class id that occurs in *dataset*, of images and of objects."""
    for row in dataset.rows():
        if row.label is not None:
            yield row.label
        if row.objects is not None:
            yield from row.objects.labels.tolist()
