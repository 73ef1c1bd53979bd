"""An ONNX Runtime session that runs where it was told to, or is not built at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.binding import BoundRuns
from runtime.custom_ops import register
from runtime.errors import ModelError, ProviderError, UsageError
from runtime.hostmemory import host_memory
from runtime.inputs import feeds, image_input
from runtime.manifest import CustomOps, Tensor
from runtime.providers import CPU, Provider, explain, find, origin_of
from runtime.session_options import GraphOptimization, SessionOptions

__all__ = ["GraphOptimization", "Session", "SessionOptions"]

FATAL = 4  # of ONNX Runtime's levels of logging
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


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
        provider: ONNX Runtime's name of the EP that it was built on.
        origin: Where that EP comes from, in words.
        inputs: What the graph takes by itself, whatever `SessionOptions.fixed_batch` pins.
        image: That one of the inputs which takes the pictures.
        outputs: What the graph really gives.
        batch: The only batch size that it takes; ``None``: it takes any.
        in_flight: How many calls of `run` are worth making at a time: beyond one they are copied while another runs.
        memory: Where batches for it are best put together; any other array will do.
    """

    def __init__(
        self,
        path: Path,
        provider: str = CPU.name,
        options: SessionOptions | None = None,
        *,
        custom_ops: Sequence[CustomOps] = (),
        folder: Path | None = None,
        record_assignment: bool = False,
    ) -> None:
        """Build the session.

        Args:
            path: The ONNX file.
            provider: Reference of the EP (see `runtime.providers`).
            options: How it uses the machine.
            custom_ops: Of the manifest: libraries of operators that the graph needs.
            folder: Where the EP keeps what it compiles; ``None``: nowhere.
            record_assignment: Keep for `node_counts` which EP got which node.

        Raises:
            ModelError: The file is no ONNX model that ONNX Runtime can load, or takes what we cannot give.
            ProviderError: *provider* cannot be had, or ONNX Runtime silently built without it.
            UsageError: *provider* means no EP, or *options* do not fit the graph.
        """
        options = options or SessionOptions()
        wanted = find(provider)
        source = origin_of(wanted)
        built = options.build()
        built.add_session_config_entry("session.record_ep_graph_assignment_info", str(int(record_assignment)))
        register(built, custom_ops)
        declared = _pin_shapes(path, options, built, custom_ops, wanted)
        try:
            self._session = source.open(path, built, folder, wanted.graph_options if options.capture_graph else {})
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            kind = ProviderError if "fallback to CPU EP has been explicitly disabled" in str(error) else ModelError
            raise kind(f"{path} cannot be loaded on {wanted}: {explain(str(error))}") from error
        self.provider = wanted.name
        self.origin = source.description
        self.inputs = declared or _tensors(self._session.get_inputs())
        self.outputs = _tensors(self._session.get_outputs())
        self.image = _image_of(path, self.inputs)
        size = options.fixed_batch or self.image.shape[0]
        self.batch = size if isinstance(size, int) else None
        self._silent = _silent_run()
        self._recorded = record_assignment and hasattr(self._session, "get_provider_graph_assignment_info")
        graphs = wanted.graphs if options.capture_graph else None
        if graphs is not None:
            self._check_outputs(path)
        self._bound = (
            BoundRuns(self._session, self.inputs, self.outputs, wanted.memory, graphs=graphs) if wanted.memory else None
        )
        self.memory = host_memory(wanted.memory)
        self.in_flight = self._bound.slots if self._bound else 1

    def _check_outputs(self, path: Path) -> None:
        """Raise unless every output has a shape that the pinned inputs decide: a captured graph has no other buffers.

        Raises:
            UsageError: One has not.
        """
        named = {size for tensor in self.inputs for size in tensor.shape if isinstance(size, str) and size != "?"}
        for tensor in self.outputs:
            if free := [size for size in tensor.shape if isinstance(size, str) and size not in named]:
                raise UsageError(
                    f"session option capture_graph needs fixed shapes; output {tensor.name!r} of {path} "
                    f"leaves {', '.join(free)} to the data"
                )

    def run(self, batch: npt.NDArray[np.generic]) -> list[npt.NDArray[Any]]:
        """Return the graph's outputs for *batch* of its image input; what else it takes is filled in.

        Raises:
            ModelError: ONNX Runtime refused the batch, or failed on it.
        """
        given = feeds(self.inputs, self.image, batch)
        try:
            if self._bound is not None:
                return self._bound.run(given)
            return [np.asarray(output) for output in self._session.run(None, given, self._silent)]
        except Exception as error:  # as above
            raise ModelError(f"inference of {batch.dtype} {list(batch.shape)} failed: {explain(str(error))}") from error

    def node_counts(self) -> Counter[str] | None:
        """Return by EP how many nodes it really runs; ``None`` if ONNX Runtime does not tell."""
        if not self._recorded:  # not asked for, or ONNX Runtime is older than 1.24
            return None
        nodes: Counter[str] = Counter()
        for subgraph in self._session.get_provider_graph_assignment_info():
            nodes[subgraph.ep_name] += len(subgraph.get_nodes())
        return nodes

    def end_profiling(self) -> Path:
        """End the profile that `SessionOptions.profiling` began, and return its file (Chrome's trace format).

        Raises:
            UsageError: None was begun.
        """
        name = self._session.end_profiling()
        if not name:
            raise UsageError("the session is not profiled; build it with SessionOptions(profiling=PREFIX)")
        return Path(name)


def _silent_run() -> Any:
    """Return ONNX Runtime's options of a run that logs nothing: what fails arrives as an exception."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    return options


def _image_of(path: Path, inputs: Sequence[Tensor]) -> Tensor:
    try:
        return image_input(inputs)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _pin_shapes(
    path: Path, options: SessionOptions, built: Any, custom_ops: Sequence[CustomOps], provider: Provider
) -> tuple[Tensor, ...] | None:
    """Pin the batch in *built* if *options* ask for it; return what the graph takes by itself if that was looked at.

    Raises:
        UsageError: The batch cannot be pinned to that size, or a graph is to be captured that cannot be.
        ModelError: ONNX Runtime cannot load the file.
    """
    if options.fixed_batch is None and not options.capture_graph:
        return None
    if options.capture_graph and not provider.graph_options:
        raise UsageError(f"session option capture_graph: {provider} cannot capture a graph")
    plain = SessionOptions(intra_op_threads=1, graph_optimization=GraphOptimization.DISABLED)
    declared = Session(path, CPU.name, plain, custom_ops=custom_ops).inputs
    found = _image_of(path, declared).shape[0]
    if options.fixed_batch is not None and found != options.fixed_batch:
        if isinstance(found, int) or found == "?":
            what = f"always {found}" if isinstance(found, int) else "a dimension without a name"
            raise UsageError(f"session option fixed_batch is {options.fixed_batch}; the batch of {path} is {what}")
        built.add_free_dimension_override_by_name(found, options.fixed_batch)
    free = {size for tensor in declared for size in tensor.shape if isinstance(size, str)}
    if options.capture_graph and free - ({found} if options.fixed_batch else set()):
        raise UsageError(
            f"session option capture_graph needs fixed shapes; {path} leaves {', '.join(sorted(free))} free: "
            "give fixed_batch, and a model of one size"
        )
    return declared
