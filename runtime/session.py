"""An ONNX Runtime session that runs where it was told to, or is not built at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.errors import ModelError, ProviderError
from runtime.inputs import feeds, image_input
from runtime.manifest import Tensor
from runtime.providers import CPU, options_of

__all__ = ["Session", "SessionOptions"]

NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session uses the machine."""

    intra_op_threads: int = 0  # threads within an operator; 0: one a core
    inter_op_threads: int = 1  # operators at a time
    allow_spinning: bool = False  # idle threads spin: 28 % instead of 6 % of a CPU at 5 images/s

    def build(self) -> Any:
        """Return ONNX Runtime's own options."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads
        options.inter_op_num_threads = self.inter_op_threads
        options.log_severity_level = 3  # errors; they arrive as exceptions anyway
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.allow_spinning)))
        return options


def _tensors(nodes: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=node.name,
            dtype=NUMPY_TYPES.get(node.type, node.type),
            shape=tuple(d if isinstance(d, int) else str(d or "?") for d in node.shape),
        )
        for node in nodes
    )


class Session:
    """One ONNX file on one execution provider.

    Attributes:
        provider: The EP that it was built on.
        inputs: What the graph really takes.
        image: That one of the inputs which takes the pictures.
        outputs: What the graph really gives.
    """

    def __init__(
        self,
        path: Path,
        provider: str = CPU.name,
        options: SessionOptions | None = None,
        *,
        record_assignment: bool = False,
    ) -> None:
        """Build the session; *record_assignment* keeps for `node_share` which EP got which node.

        Raises:
            ModelError: The file is no ONNX model that ONNX Runtime can load, or takes what we cannot give.
            ProviderError: *provider* is not there, or ONNX Runtime silently built without it.
        """
        if provider not in onnxruntime.get_available_providers():
            raise ProviderError(f"{provider} is not in the installed ONNX Runtime {onnxruntime.__version__}")
        wanted = [(provider, dict(options_of(provider)))]
        if provider != CPU.name:
            wanted.append((CPU.name, {}))
        built_options = (options or SessionOptions()).build()
        built_options.add_session_config_entry("session.record_ep_graph_assignment_info", str(int(record_assignment)))
        try:
            self._session = onnxruntime.InferenceSession(str(path), built_options, providers=wanted)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ModelError(f"{path} cannot be loaded on {provider}: {' '.join(str(error).split())[:300]}") from error
        built = self._session.get_providers()
        if built[0] != provider:
            raise ProviderError(f"{provider} was asked for, ONNX Runtime fell back to {built[0]}")
        self.provider = provider
        self._recorded = record_assignment and hasattr(self._session, "get_provider_graph_assignment_info")
        self.inputs = _tensors(self._session.get_inputs())
        self.outputs = _tensors(self._session.get_outputs())
        try:
            self.image = image_input(self.inputs)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def run(self, batch: npt.NDArray[np.generic]) -> list[npt.NDArray[Any]]:
        """Return the graph's outputs for *batch* of its image input; what else it takes is filled in.

        Raises:
            ModelError: ONNX Runtime refused the batch, or failed on it.
        """
        try:
            return [np.asarray(output) for output in self._session.run(None, feeds(self.inputs, self.image, batch))]
        except Exception as error:  # as above
            raise ModelError(
                f"inference of {batch.dtype} {list(batch.shape)} failed: {' '.join(str(error).split())[:300]}"
            ) from error

    def node_share(self) -> float | None:
        """Return the part of the nodes that really runs on `provider`; ``None`` if ONNX Runtime does not tell."""
        if not self._recorded:  # not asked for, or ONNX Runtime is older than 1.24
            return None
        subgraphs = self._session.get_provider_graph_assignment_info()
        nodes = [(subgraph.ep_name, len(subgraph.get_nodes())) for subgraph in subgraphs]
        total = sum(count for _, count in nodes)
        return sum(count for name, count in nodes if name == self.provider) / total if total else None
