"""From a torch model to an ONNX graph.

Rules:
    * One file, opset 20, IR 10, a dynamic batch named ``N``; exported from two images, since a batch
      of one would be taken for a constant.
    * The model is in eval mode while it is exported, whatever it was before.
    * The graph takes normalized float pixels; `controller.lifecycle.graph.embed_normalization` comes after.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import nn
from torch.export import Dim

from controller.errors import ExportError

__all__ = ["OPSET", "export"]

OPSET = 20
EXAMPLE_BATCH = 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about optional packages, and its own deprecations, to itself."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


def export(model: nn.Module, image_size: int) -> onnx.ModelProto:
    """Export *model*.

    Args:
        model: On the CPU; maps float32 (n, 3, image_size, image_size) to logits (n, classes).
        image_size: Height and width of the input, pixels.

    Returns:
        A graph from ``pixels`` to ``logits``.

    Raises:
        ExportError: torch cannot export it; the text is torch's own reason.
    """
    example = torch.zeros(EXAMPLE_BATCH, 3, image_size, image_size)
    try:
        with _quiet(), _eval_mode(model):
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: Dim("N")},),
                external_data=False,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the traced code and its own passes raise
        cause = error.__cause__ or error
        raise ExportError(
            f"torch cannot export {type(model).__name__}: {' '.join(str(cause).split())[:400]}"
        ) from error
    if program is None:
        raise ExportError(f"torch exported nothing for {type(model).__name__}")
    graph: onnx.ModelProto = program.model_proto
    return graph
