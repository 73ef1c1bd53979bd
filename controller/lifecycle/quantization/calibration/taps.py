"""Values of inner tensors of a graph, batch by batch, in bounded memory.

Rules:
    * At most `BUDGET` bytes of values are asked of one run of ONNX Runtime. First a batch has fewer pictures; where one
      picture alone gives more, or the batch is fixed, the tensors are asked for in groups, each by a graph of its own
      that ends with them.
    * How large a tensor is, is seen from a run, not inferred: inferred shapes have holes.
    * A value is valid until the next one is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from controller.lifecycle.subgraph import ending_with
from runtime.manifest import CustomOps
from runtime.session import Session, SessionOptions

__all__ = ["BUDGET", "Taps"]

BUDGET = 96_000_000  # bytes of values in one run
MOST_PICTURES = 32  # a batch
FRUGAL = SessionOptions(enable_cpu_mem_arena=False, enable_mem_pattern=False)

Array = npt.NDArray[Any]


class Taps:
    """Inner tensors of one graph.

    Attributes:
        pictures: In a batch that `run` is given, at most.
    """

    def __init__(self, groups: Sequence[tuple[tuple[str, ...], Session]], pictures: int) -> None:
        self._groups, self.pictures = groups, pictures

    @classmethod
    def on(
        cls,
        model: onnx.ModelProto,
        names: Sequence[str],
        example: Array,
        *,
        fixed_batch: int | None = None,
        custom_ops: Sequence[CustomOps] = (),
        budget: int = BUDGET,
    ) -> Self:
        """Return taps on the tensors *names*, all float32, of *model*.

        Args:
            model: A graph.
            names: Of its tensors.
            example: A batch that it takes.
            fixed_batch: The only size of a batch that it takes, if so.
            custom_ops: Libraries of operators that it needs.
            budget: Bytes of values in one run.

        Raises:
            ModelError: ONNX Runtime cannot load or run it.
        """
        sizes = _sizes(model, names, example, custom_ops)
        one = max(1, sum(sizes.values()) // len(example))
        pictures = fixed_batch or max(1, min(MOST_PICTURES, budget // one))
        groups: list[list[str]] = [[]]
        total = 0
        for name in names:
            size = sizes[name] * pictures // len(example)
            if groups[-1] and total + size > budget:
                groups.append([])
                total = 0
            groups[-1].append(name)
            total += size
        return cls([(tuple(group), _open(_giving(model, group), custom_ops)) for group in groups], pictures)

    def run(self, batch: Array) -> Iterator[tuple[str, Array]]:
        """Yield each tensor's name and its value for *batch*."""
        for names, session in self._groups:
            yield from zip(names, session.run(batch), strict=True)


def _giving(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    return _asking(model, "Identity", names, TensorProto.FLOAT)


def _asking(model: onnx.ModelProto, operator: str, names: Sequence[str], kind: int) -> onnx.ModelProto:
    """Return the part of *model* that gives what *operator* makes of each tensor, an output of a graph or an input."""
    asking = onnx.ModelProto()
    asking.CopyFrom(model)
    asked = [f"{name}/vedette_tap" for name in names]
    asking.graph.node.extend(helper.make_node(operator, [n], [a]) for n, a in zip(names, asked, strict=True))
    return ending_with(asking, [helper.make_tensor_value_info(name, kind, None) for name in asked])


def _sizes(
    model: onnx.ModelProto, names: Sequence[str], example: Array, custom_ops: Sequence[CustomOps]
) -> dict[str, int]:
    """Return how many bytes each tensor has for *example*."""
    found = _open(_asking(model, "Shape", names, TensorProto.INT64), custom_ops).run(example)
    return {name: 4 * math.prod(shape.tolist()) for name, shape in zip(names, found, strict=True)}


def _open(model: onnx.ModelProto, custom_ops: Sequence[CustomOps]) -> Session:
    with TemporaryDirectory(prefix="vedette-taps-") as scratch:
        path = Path(scratch) / "part.onnx"
        onnx.save(model, path)
        return Session(path, options=FRUGAL, custom_ops=custom_ops)
