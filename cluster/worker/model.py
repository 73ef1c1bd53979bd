"""One model in a worker: what it runs on, what is captured of it, and the columns that it fills."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cluster.models import JobModel
from cluster.output.schema import file_metadata, prediction_arrays, task_columns
from cluster.worker.graphs import captured
from runtime.predictor import Predictor
from runtime.session import SessionOptions
from runtime.tasks import Prediction

__all__ = ["RunningModel"]

ON_CORES = frozenset({"CPUExecutionProvider", "XnnpackExecutionProvider"})
"""Execution providers whose session threads take cores from others."""


class RunningModel:
    """A model of the job on an execution provider that was proven here.

    Attributes:
        predictor: What runs; replaced by another of the same variant and provider, but before the first row, while
            others use it.
    """

    def __init__(self, model: JobModel, provider: str, threads: int) -> None:
        """Prove the provider and build the session, with so many *threads* within an inference.

        Raises:
            ProviderError: Nothing passed the proof here.
            ModelError: The model does not fit its manifest.
        """
        self.predictor = Predictor(model.artifact, provider=provider, options=SessionOptions(intra_op_threads=threads))
        self._artifact = model.artifact
        self._selection = self.predictor.selection
        self._fields = task_columns(model.manifest)
        self._graph: str | None = None

    @property
    def on_cores(self) -> bool:
        """Whether its session's threads take cores from others."""
        return self.predictor.provider in ON_CORES

    @property
    def input_bytes(self) -> int:
        """The bytes of one row of the largest input of the variant; sides that the graph leaves open count as 1."""
        return max(
            math.prod(side for side in tensor.shape[1:] if isinstance(side, int)) * np.dtype(tensor.dtype).itemsize
            for tensor in self.predictor.variant.inputs
        )

    @property
    def metadata(self) -> dict[str, str]:
        """What a file of its answers says of it."""
        predictor = self.predictor
        return file_metadata(
            self._artifact.manifest,
            self._artifact.digest,
            variant=predictor.variant.id,
            provider=predictor.provider,
            ort=predictor.proof.ort,
        )

    @property
    def providers(self) -> dict[str, str]:
        """By variant and execution provider: why it may run here, or not."""
        proven = {f"{proof.variant} on {proof.reference}": proof.reason for proof in self._selection.proofs}
        return proven | {f"{one.variant} on {one.provider}": one.reason for one in self._selection.skipped}

    def ran_on(self, size: int) -> dict[str, str]:
        """Return what it runs on, in batches of *size*; see `ShardWorker.ran_on`."""
        predictor, fixed = self.predictor, self.predictor.fixed_batch
        looped = "" if fixed == size else ", looped"
        remarks = {
            "batch": None if fixed is None else f"batch {fixed}{looped}",
            "graph": self._graph,
            "host_memory": predictor.host_memory,
            "fallback": self._selection.fallback,
        }
        return {
            "variant": predictor.variant.id,
            "provider": predictor.provider,
            "onnxruntime": predictor.proof.ort,
            **{name: remark for name, remark in remarks.items() if remark is not None},
        }

    def capture(self, size: int, threads: int, *, any_variant: bool) -> None:
        """Capture the graph for batches of *size*, if the provider can; see `cluster.worker.graphs`."""
        self.predictor, self._graph = captured(self.predictor, size, threads, any_variant=any_variant)

    def rebuild(self, threads: int) -> None:
        """Build another session of the same variant and provider, with so many *threads*."""
        self.predictor = Predictor(
            self._artifact,
            provider=self.predictor.proof.reference,
            variant=self.predictor.variant.id,
            options=SessionOptions(intra_op_threads=threads),
        )

    def columns(self, predictions: Sequence[Prediction]) -> list[pa.Array]:
        """Return the columns that *predictions* become."""
        return prediction_arrays(self._fields, predictions)
