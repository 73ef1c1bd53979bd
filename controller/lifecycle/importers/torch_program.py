"""Opens a ``.pt2`` file: a program that `torch.export.save` wrote.

Rules:
    * The program takes one tensor. Its shapes are what it was exported for: the batch is dynamic where that was said.
    * A program that was exported in training mode is refused: nothing can put it into eval mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from controller.errors import ExportError
from controller.lifecycle.importers.source import Job, SourceFacts
from controller.lifecycle.importers.torch_modes import check_eval_mode, is_training
from controller.lifecycle.importers.torch_module import ROUTES, ModuleSource, framework
from runtime.errors import UsageError
from runtime.files import hash_file

__all__ = ["open_source"]

FREE_BATCH = 2  # images to trace a program of a dynamic batch with


class _Fixed(nn.Module):
    """A program as a module that stays in the mode that it was exported in."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002, FBT001, FBT002 -- as torch declares it
        """Leave the mode: a program refuses to change it."""
        return self

    def forward(self, pixels: torch.Tensor) -> Any:
        """Return what the program gives for *pixels*."""
        return self.program(pixels)


def open_source(job: Job) -> ModuleSource:
    """Open the program in the file that *job* names.

    Raises:
        ExportError: It is none, this torch cannot read it, or it was exported in training mode.
        UsageError: It takes something else than one tensor of pictures.
    """
    path = Path(job.source)
    try:
        program = torch.export.load(path)
    except Exception as error:  # the reader raises whatever a damaged or foreign file leads it to
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"{path} is no program that torch {torch.__version__} reads: {type(error).__name__}: {reason}; "
            "torch.export.save writes one"
        ) from error
    check_eval_mode(str(path), _training(program), "torch.export.export")
    facts = SourceFacts(framework=framework(), source_sha256=hash_file(path), routes=tuple(ROUTES))
    return ModuleSource(_Fixed(program), torch.zeros(_shape(program, path)), facts, exported=program)


def _training(program: ExportedProgram) -> Iterator[str]:
    """Yield the operators of *program* that are fixed in training mode."""
    for node in program.graph.nodes:
        name = str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))
        if is_training(name, node.args):
            yield name


def _shape(program: ExportedProgram, path: Path) -> tuple[int, ...]:
    """Return the shape of what *program* takes, a dynamic batch as `FREE_BATCH`.

    Raises:
        UsageError: That is something else than one tensor of four dimensions.
        ExportError: Another dimension than the batch is dynamic.
    """
    taken = {s.arg.name for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT}
    shapes = {
        n.name: tuple(n.meta["val"].shape) for n in program.graph.nodes if n.op == "placeholder" and n.name in taken
    }
    shown = ", ".join(f"{name} {list(map(str, shape))}" for name, shape in shapes.items())
    if len(shapes) != 1 or len(next(iter(shapes.values()))) != 4:
        raise UsageError(f"{path} takes {shown or 'nothing'}; expected one tensor of pictures, of four dimensions")
    batch, *rest = next(iter(shapes.values()))
    if not all(isinstance(edge, int) for edge in rest):
        raise ExportError(f"{path} takes {shown}; only the batch may be dynamic: export it for one size of pictures")
    return (batch if isinstance(batch, int) else FREE_BATCH, *rest)
