"""A batch through a graph that takes one size of batch only: cut, padded, and put together again.

Rules:
    * A graph that takes any size gets the batch as it is.
    * The last part is filled up with its own last image; what comes of the filling is cut off.
    * Rows of the whole batch that carry their image's number in front, (M, 7), are renumbered; those of
      images that only filled up are dropped.
    * Outputs without a batch dimension (finished boxes (M, 4) of a graph for one image) get one: they are
      filled up with zeros, which are rows without a score, to the longest image's number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime.manifest import Postprocess, Tensor

__all__ = ["join", "run_in_batches"]

Array = npt.NDArray[Any]
IMAGE_TABLE = 7  # columns: image x1 y1 x2 y2 label score


class Runs(Protocol):
    """What a session does."""

    batch: int | None
    outputs: tuple[Tensor, ...]

    def run(self, batch: Array) -> list[Array]:
        """Return the outputs for a batch of the size that it takes."""


def run_in_batches(session: Runs, batch: Array, postprocess: Postprocess) -> list[Array]:
    """Return the outputs of *session* for *batch* (N, ...), called as often as its batch size makes it.

    Args:
        session: Which takes one size of batch, or any.
        batch: Model inputs.
        postprocess: Says by its kind whether outputs may be rows without a batch dimension.

    Raises:
        ModelError: Inference failed.
    """
    size = session.batch
    if size is None or len(batch) == size:
        return session.run(batch)
    starts = range(0, len(batch), size)
    parts = [session.run(_filled(batch[start : start + size], size)) for start in starts]
    counts = [min(size, len(batch) - start) for start in starts]
    joined = zip(session.outputs, zip(*parts, strict=True), strict=True)
    finished = postprocess.kind == "boxes"
    return [join(tensor, outputs, counts, size, finished=finished) for tensor, outputs in joined]


def _filled(part: Array, size: int) -> Array:
    missing = size - len(part)
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part


def join(tensor: Tensor, outputs: Sequence[Array], counts: Sequence[int], size: int, *, finished: bool) -> Array:
    """Return one output of several runs as if it were of one.

    Args:
        tensor: What the graph says of the output.
        outputs: One array a run, each of a batch of *size*.
        counts: How many images of each run count; the others filled up.
        size: The graph's batch.
        finished: Whether the head is of finished boxes, which need not have a batch dimension.
    """
    if not finished or _is_batched(tensor, outputs, size):
        return np.concatenate([output[:count] for output, count in zip(outputs, counts, strict=True)])
    if outputs[0].ndim == 2 and outputs[0].shape[1] == IMAGE_TABLE:
        return _renumbered(outputs, counts, size)
    longest = max(len(output) for output in outputs)
    return np.stack([np.pad(o, [(0, longest - len(o))] + [(0, 0)] * (o.ndim - 1)) for o in outputs])


def _is_batched(tensor: Tensor, outputs: Sequence[Array], size: int) -> bool:
    """Whether the first dimension of finished boxes' output counts images: by what the graph says, or else by form."""
    first = tensor.shape[0] if tensor.shape else None
    if isinstance(first, int):
        return first == size
    return outputs[0].ndim != 2 and all(len(output) == size for output in outputs)


def _renumbered(outputs: Sequence[Array], counts: Sequence[int], size: int) -> Array:
    moved = []
    for number, (output, count) in enumerate(zip(outputs, counts, strict=True)):
        rows = output[output[:, 0] < count]
        moved.append(rows + np.array([number * size] + [0] * (IMAGE_TABLE - 1), output.dtype))
    return np.concatenate(moved)
