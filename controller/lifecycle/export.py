"""From a torch model to an ONNX graph, by either of torch's exporters.

Rules:
    * One file, opset 20, IR 10 at most, a dynamic batch named ``N``; exported from two images, since a batch
      of one would be taken for a constant.
    * The model is in eval mode while it is exported, whatever it was before.
    * The graph takes normalized float pixels; `controller.lifecycle.pixel_input.embed_normalization` comes after.
    * The dynamo exporter comes first. The one of TorchScript, which torch calls deprecated, still converts what the
      first cannot trace, and can be wrong without saying so where the code branches on values: the gate decides.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from controller.errors import ExportError
from controller.lifecycle.quiet import quiet

__all__ = ["EXAMPLE_BATCH", "INPUT", "OPSET", "export_by_dynamo", "export_by_torchscript"]

OPSET = 20
EXAMPLE_BATCH = 2
INPUT, BATCH = "pixels", "N"  # names in the graph
REASON = 400  # characters of torch's own that an error takes over


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


def export_by_dynamo(
    model: nn.Module | ExportedProgram, example: torch.Tensor, outputs: Sequence[str]
) -> tuple[onnx.ModelProto, ExportedProgram]:
    """Export *model* by way of `torch.export`.

    Args:
        model: On the CPU; maps float32 (n, channels, height, width) to one or more tensors. A program that was
            exported already keeps the shapes that it was exported for.
        example: What it takes, of `EXAMPLE_BATCH` images.
        outputs: Names for what it gives.

    Returns:
        The graph, and the program that it was made from, whose nodes have the names of the graph's values.

    Raises:
        ExportError: torch cannot export it; the text is torch's own reason.
    """
    options: dict[str, Any] = {
        "dynamo": True,
        "external_data": False,
        "opset_version": OPSET,
        "input_names": [INPUT],
        "output_names": list(outputs),
        "verbose": False,
    }
    try:
        with quiet():
            if isinstance(model, ExportedProgram):
                program = torch.onnx.export(model, **options)
            else:
                with _eval_mode(model):
                    program = torch.onnx.export(model, (example,), dynamic_shapes=({0: Dim(BATCH)},), **options)
    except Exception as error:  # the exporter raises whatever the traced code and its own passes raise
        raise _refusal(model, error.__cause__ or error) from error
    if program is None or program.exported_program is None:
        raise ExportError(f"torch exported nothing for {type(model).__name__}")
    return program.model_proto, program.exported_program


def export_by_torchscript(model: nn.Module, example: torch.Tensor, outputs: Sequence[str]) -> onnx.ModelProto:
    """Export *model* by tracing it, or as the script that it is.

    Args:
        model: As `export_by_dynamo` takes it, or a `torch.jit.ScriptModule`.
        example: What it takes, of `EXAMPLE_BATCH` images.
        outputs: Names for what it gives.

    Raises:
        ExportError: torch cannot export it; the text is torch's own reason.
    """
    file = io.BytesIO()
    try:
        with quiet(), _eval_mode(model):
            torch.onnx.export(
                model,
                (example,),
                file,  # type: ignore[arg-type]  # the older exporter writes to files, too
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes={name: {0: BATCH} for name in (INPUT, *outputs)},
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the traced code and its own passes raise
        raise _refusal(model, error) from error
    return onnx.load_model_from_string(file.getvalue())


def _refusal(model: object, error: BaseException) -> ExportError:
    return ExportError(f"torch cannot export {type(model).__name__}: {' '.join(str(error).split())[:REASON]}")
