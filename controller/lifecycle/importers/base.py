"""What every importer gives: one model, the same for all frameworks.

Rules:
    * A model that its framework converts has routes to ONNX, the better first. What comes by one that fails, here
      or in the gate, is converted again by the next; when none is left, the error tells what was wrong with each.
    * Nothing but the standard library is loaded for this: the package is imported in child processes too, whose
      interpreter may have neither pydantic nor ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from controller.errors import ExportError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from runtime.datasets import Dataset
    from runtime.manifest import CustomOps, Preprocess, Task

    Array = npt.NDArray[Any]

__all__ = ["ImportedModel", "convert_by_first"]

Convert = Callable[[str], "onnx.ModelProto"]


def _nothing_open() -> None:
    """Close a source that holds nothing open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model as it came, before anything of ours is put into it; a context manager that closes its source.

    Attributes:
        graph: As ONNX; it takes what the source takes.
        reference: The source itself: what it gives for a batch of what `graph` takes, in the graph's order.
        values: What is inside the source for a batch, by the names that the values have in `graph`; ``None``
            where the framework does not tell.
        framework: That made it, with its version.
        source_sha256: Of the file that it came from.
        task: What it does, if the source knows that.
        labels: Its classes, if the source knows them.
        preprocess: What it was trained with, if the source knows it.
        dataset: What it was trained on, in words for the manifest, if known.
        git: Commit that it was trained at, if known.
        data: Opens (training data, held-out data), if the source knows them.
        metadata: What an ONNX file says of itself, as it stands there.
        custom_ops: Libraries of operators that the graph needs.
        compares_labels: Only its labels can be compared with the source's (trees, neighbours).
        notes: What the person who imports should know.
        route: By which `graph` was converted; ``None``: it came as ONNX.
        refused: Why the routes before that one were not taken, by route.
        routes: Those that are left.
        convert: Gives the graph by a route.
        close: Ends what holds the source open.
    """

    graph: onnx.ModelProto
    reference: Callable[[Array], Sequence[Array]]
    framework: str
    source_sha256: str
    values: Callable[[Array], Mapping[str, Array]] | None = None
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    dataset: str | None = None
    git: str | None = None
    data: Callable[[], tuple[Dataset, Dataset]] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    custom_ops: tuple[CustomOps, ...] = ()
    compares_labels: bool = False
    notes: tuple[str, ...] = ()
    route: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    routes: tuple[str, ...] = ()
    convert: Convert | None = None
    close: Callable[[], None] = _nothing_open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def by_next_route(self, reason: ExportError) -> ImportedModel:
        """Return this model as the next route converts it, since the gate refused `graph` for *reason*.

        Raises:
            ExportError: *reason* itself where there was one way only; otherwise why each was not taken.
        """
        if self.route is None or self.convert is None or not (self.routes or self.refused):
            raise reason
        refused = {**self.refused, self.route: str(reason)}
        graph, route, left = convert_by_first(self.convert, self.routes, refused)
        return replace(self, graph=graph, route=route, routes=left, refused=refused)


def convert_by_first(
    convert: Convert, routes: Sequence[str], refused: dict[str, str]
) -> tuple[onnx.ModelProto, str, tuple[str, ...]]:
    """Convert by the first of *routes* that can.

    Args:
        convert: Gives the graph by a route.
        routes: To try.
        refused: Why others were not taken; takes what is wrong with those that are tried.

    Returns:
        The graph, its route, and the routes after that.

    Raises:
        ExportError: None can; the text has every reason in *refused*.
    """
    for place, route in enumerate(routes):
        try:
            return convert(route), route, tuple(routes[place + 1 :])
        except ExportError as error:
            refused[route] = str(error)
    if len(refused) == 1:
        raise ExportError(next(iter(refused.values())))
    raise ExportError("; ".join(f"route {route}: {why}" for route, why in refused.items()))
