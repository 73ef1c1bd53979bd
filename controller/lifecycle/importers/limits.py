"""How large a model may be: one ONNX file, without external data, which protobuf bounds."""

from __future__ import annotations

import onnx

from controller.errors import ExportError

__all__ = ["check_size"]

LARGEST = onnx.checker.MAXIMUM_PROTOBUF  # bytes


def check_size(model: onnx.ModelProto, source: str) -> None:
    """See that the weights of *model*, which came from *source*, fit into one file.

    Raises:
        ExportError: They do not.
    """
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    if size > LARGEST:
        raise ExportError(
            f"{source} has {size / 1e9:.2f} GB of weights as ONNX; one file holds {LARGEST / 1e9:.2f} GB, and each "
            "variant of a published model is one file"
        )
