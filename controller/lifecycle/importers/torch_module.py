"""Holds a `torch.nn.Module` open: what a factory made, or what a run trained.

Rules:
    * The model is in eval mode on the CPU, in float32; what had to be changed for that is said.
    * Its outputs are one tensor, or a tuple, list or mapping of tensors: those are told apart by place or by key.
      What is no tensor and not ``None`` among them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from controller.errors import ExportError
from controller.lifecycle.export import EXAMPLE_BATCH, export_by_dynamo, export_by_torchscript
from controller.lifecycle.importers.factory import origin_sha256
from controller.lifecycle.importers.source import Array, Job, SourceFacts
from controller.lifecycle.importers.torch_values import values_inside
from controller.lifecycle.importers.torch_weights import load_into
from runtime.errors import UsageError

__all__ = [
    "ROUTES",
    "Flat",
    "ModuleSource",
    "called",
    "example_of",
    "framework",
    "named_tensors",
    "open_built",
]

SOLE_OUTPUT = "output"


def framework() -> str:
    """Return torch with its version."""
    return f"torch {torch.__version__.partition('+')[0]}"


def named_tensors(given: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a model gave, tensor by tensor, with names made of keys and places.

    Raises:
        ExportError: Something among it is no tensor.
    """
    if isinstance(given, torch.Tensor):
        yield name or SOLE_OUTPUT, given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from named_tensors(value, f"{name}_{key}" if name else str(key))
    elif isinstance(given, (tuple, list)):
        for place, value in enumerate(given):
            yield from named_tensors(value, f"{name or SOLE_OUTPUT}_{place}")
    elif given is not None:
        raise ExportError(
            f"the model gives a {type(given).__name__}{f' as {name}' if name else ''}; expected tensors, alone or in a "
            "tuple, list or mapping"
        )


class Flat(nn.Module):
    """A model whose outputs are a tuple of tensors, whatever *model* gives them in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors of *model* for *pixels*, in its order."""
        return tuple(tensor for _, tensor in named_tensors(self.model(pixels)))


ALONE = (
    "it runs with one picture: a batch size is a constant in its code, mostly in a reshape; write x.flatten(1) or "
    "x.shape[0] instead of the number"
)


def called(model: nn.Module, batch: torch.Tensor) -> object:
    """Return what *model* gives for *batch*.

    Raises:
        ExportError: It does not take such a batch.
    """
    try:
        with torch.no_grad():
            return model(batch)
    except Exception as error:  # the model's own code raises whatever it likes
        alone = f"; {ALONE}" if len(batch) > 1 and _runs(model, batch[:1]) else ""
        raise ExportError(
            f"the model does not run a batch of shape {tuple(batch.shape)}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}{alone}"
        ) from error


def _runs(model: nn.Module, batch: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            model(batch)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


class ModuleSource:
    """A model of torch, open.

    Args:
        model: Is put into eval mode. A script gives a tensor or a tuple of tensors.
        example: What it takes.
        facts: What is known of it.
        outputs: Names for what it gives; ``None``: its own.
        exported: The same model, where it came as a program of `torch.export`.

    Raises:
        ExportError: It does not run on such pictures.
    """

    def __init__(
        self,
        model: nn.Module,
        example: torch.Tensor,
        facts: SourceFacts,
        outputs: Sequence[str] | None = None,
        exported: ExportedProgram | None = None,
    ) -> None:
        self.facts = facts
        given = called(model.eval(), example)
        is_flat = isinstance(given, torch.Tensor) or isinstance(model, torch.jit.ScriptModule)
        self._model = model if is_flat else Flat(model).eval()
        self._example = example
        self._outputs = tuple(outputs or (name for name, _ in named_tensors(given)))
        self._exported = exported
        self._inside: ExportedProgram | None = None

    def convert(self, route: str) -> onnx.ModelProto:
        """Return it as ONNX by *route*.

        Raises:
            ExportError: torch cannot export it so.
        """
        return ROUTES[route](self)

    def by_dynamo(self) -> onnx.ModelProto:
        """Export by way of `torch.export`."""
        graph, self._inside = export_by_dynamo(self._exported or self._model, self._example, self._outputs)
        return graph

    def by_torchscript(self) -> onnx.ModelProto:
        """Export by tracing; nothing names what is inside that graph."""
        self._inside = None
        return export_by_torchscript(self._model, self._example, self._outputs)

    def run(self, batch: Array) -> list[Array]:
        """Return what the model gives for *batch*."""
        given = called(self._model, torch.from_numpy(batch))
        return [tensor.numpy() for _, tensor in named_tensors(given)]

    def values(self, batch: Array) -> Mapping[str, Array]:
        """Return what is inside the model for *batch*; nothing where it has not come by the dynamo exporter."""
        if self._inside is None:
            return {}
        return values_inside(self._inside, torch.from_numpy(batch), self._outputs)


ROUTES: Mapping[str, Callable[[ModuleSource], onnx.ModelProto]] = {
    "dynamo": ModuleSource.by_dynamo,
    "torchscript": ModuleSource.by_torchscript,
}


def open_built(model: nn.Module, job: Job) -> ModuleSource:
    """Open what a factory made.

    Raises:
        UsageError: Nothing says how large its pictures are, or the weights are not its own.
        ExportError: It does not run on such pictures.
    """
    if job.image_size is None:
        raise UsageError(f"--image-size is needed for {job.source}, as in --image-size 224 or 224x320")
    warnings = []
    if job.weights is not None:
        load_into(model, job.weights)
    else:
        warnings.append(f"the weights are those that {job.source} leaves in the model; --weights FILE gives others")
    if model.training:
        warnings.append("the model was in training mode; it is imported in eval mode")
    floats = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if floats:
        warnings.append(f"the weights were {', '.join(sorted(map(str, floats)))}; they are imported as float32")
    facts = SourceFacts(
        framework=framework(),
        source_sha256=origin_sha256(job),
        routes=tuple(ROUTES),
        warnings=tuple(warnings),
    )
    return ModuleSource(model.cpu().float(), example_of(job.color, job.image_size), facts)


def example_of(color: str, size: tuple[int, int]) -> torch.Tensor:
    """Return a batch of black pictures of *size* (height, width): one channel where *color* is ``L``, else three."""
    return torch.zeros(EXAMPLE_BATCH, 1 if color == "L" else 3, *size)
