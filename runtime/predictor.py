"""The one predictor that the command line, the Ray actors, the server and the agent use.

Rules:
    * It runs only what was proven: a variant on an execution provider that matched the golden output.
    * Of what was proven, the fastest measured one runs; a provider asked for by name is strict. With
      ``auto``, `Predictor.fallback` says what this machine would have preferred, and why it does not run.
    * ``predict`` is ``load`` -> ``prepare`` -> ``infer`` -> ``decode``; a pipeline may call the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import images
from runtime.artifact import Artifact
from runtime.batching import run_in_batches
from runtime.choice import Skipped, fallback, fastest, pairs
from runtime.errors import ModelError
from runtime.hardware import this_machine
from runtime.manifest import Tensor
from runtime.preparation import Preparation
from runtime.proof import Proof, engine_folder, prove_isolated
from runtime.providers import find, is_installed, preferences, resolve
from runtime.session import Session, SessionOptions
from runtime.tasks import Prediction, head_of

__all__ = ["Predictor", "Selection", "choose"]

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was chosen to run, and everything that led to it.

    Attributes:
        chosen: The proof of what runs.
        proofs: All that were made.
        skipped: Pairs of variant and provider that were not tried, and why.
        fallback: Why it is not the provider that this machine prefers; ``None`` if it is, or was asked for.
    """

    chosen: Proof
    proofs: tuple[Proof, ...]
    skipped: tuple[Skipped, ...]
    fallback: str | None


def choose(
    artifact: Artifact, *, provider: str = AUTO, variant: str | None = None, options: SessionOptions | None = None
) -> Selection:
    """Prove what may serve *artifact* here, and choose the fastest that passed.

    Args:
        artifact: The model.
        provider: ``auto``, or the reference of an EP (see `runtime.providers`), which is strict.
        variant: Id of the only variant to consider; all that are present if ``None``.
        options: How the session uses the machine.

    Raises:
        ProviderError: Nothing passed the proof.
        ModelNotFoundError: There is no such variant.
        UsageError: *provider* means no EP.
    """
    machine, manifest = this_machine(), artifact.manifest
    automatic = provider == AUTO
    wanted = [p for p in preferences(machine) if is_installed(p)] if automatic else resolve(provider)
    considered = manifest.variants if variant is None else (manifest.variant(variant),)
    present = {one.id for one in considered if artifact.has(one)}
    tried, skipped = pairs(considered, wanted, machine, present)
    proofs = [prove_isolated(artifact.root, pair.variant, pair.provider.reference, options=options) for pair in tried]
    chosen = fastest(manifest, proofs, skipped)
    return Selection(
        chosen=chosen,
        proofs=tuple(proofs),
        skipped=tuple(skipped),
        fallback=fallback(machine, chosen, proofs, skipped) if automatic else None,
    )


class Predictor:
    """A model, ready to predict.

    Attributes:
        artifact: What it was built from.
        selection: What was proven and what was not, and the choice.
        proof: Why it runs this variant on this execution provider.
        variant: The variant that runs.
        provider: ONNX Runtime's name of the execution provider that it runs on.
        fallback: With ``auto``: why it is not the provider that this machine prefers; ``None`` if it is.
        preparation: What is done before the session.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        provider: str = AUTO,
        variant: str | None = None,
        options: SessionOptions | None = None,
    ) -> None:
        """Prove, choose, and build the session.

        Args:
            artifact: The model.
            provider: ``auto``, an alias (``cpu``, ``cuda``, ``openvino:gpu``, ...) or ONNX Runtime's name of an EP.
            variant: Id of the only variant to consider; all that are present if ``None``.
            options: How the session uses the machine.

        Raises:
            ProviderError: Nothing passed the proof.
            ModelError: The model does not fit its manifest.
            UsageError: *provider* means no EP.
        """
        self.artifact = artifact
        self.selection = choose(artifact, provider=provider, variant=variant, options=options)
        self.proof = self.selection.chosen
        self.fallback = self.selection.fallback
        self.variant = artifact.manifest.variant(self.proof.variant)
        self.provider = self.proof.provider
        self._session = self._build(options or SessionOptions())
        if self._session.inputs != self.variant.inputs:
            raise ModelError(
                f"{artifact.manifest.reference} {self.variant.id}: the graph takes "
                f"{_describe(self._session.inputs)}, the manifest says {_describe(self.variant.inputs)}"
            )
        self.preparation = Preparation(artifact.manifest, self._session.image, self._session.memory)
        self._outputs = tuple(output.name for output in self._session.outputs)
        self._head = head_of(artifact.manifest)

    def _build(self, options: SessionOptions) -> Session:
        proven, variant = find(self.proof.reference), self.variant
        return Session(
            self.artifact.verified_path(variant),
            proven.reference,
            options,
            custom_ops=self.artifact.manifest.custom_ops,
            folder=engine_folder(self.artifact, variant.id, proven, options),
        )

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the session takes; ``None``: it takes any."""
        return self._session.batch

    @property
    def in_flight(self) -> int:
        """How many calls of `infer` are worth making at a time; see `Session.in_flight`."""
        return self._session.in_flight

    @property
    def host_memory(self) -> str | None:
        """How batches lie before they are copied to the device: `HostMemory.remark`."""
        return self._session.memory.remark

    def end_profiling(self) -> Path:
        """End the profile that `SessionOptions.profiling` began, and return its file.

        Raises:
            UsageError: None was begun.
        """
        return self._session.end_profiling()

    def predict(self, sources: Sequence[bytes | Path | npt.NDArray[np.uint8]], **changes: Any) -> list[Prediction]:
        """Return one prediction for each of *sources*, inferred as one batch.

        Args:
            sources: Encoded pictures, files, or uint8 arrays of shape (H, W, 3) in RGB.
            **changes: Of `Postprocess`, for this call: ``score_threshold=0.5``, ``iou_threshold=0.6``, ``top_k=1``.

        Raises:
            ImageError: One of them is no usable picture.
            ModelError: Inference failed, or the pictures become inputs of different sizes (the manifest
                names no size, and the graph takes any).
            UsageError: *changes* has a field that there is not, or a value out of range.
        """
        if not sources:
            return []
        pictures = [self.load(source).pixels for source in sources]
        inputs = [self.prepare(picture) for picture in pictures]
        if len(shapes := {one.shape for one in inputs}) > 1:
            raise ModelError(f"{self.artifact.manifest.reference}: inputs of shapes {sorted(shapes)} make no batch")
        batch = np.stack(inputs)
        return self.decode(self.infer(batch), [picture.shape[:2] for picture in pictures], **changes)

    def load(
        self, source: bytes | Path | npt.NDArray[np.uint8], *, allow_truncated: bool = False, decoder: str = "cpu"
    ) -> images.Decoded:
        """Return the picture that *source* holds, composed on the manifest's background where it is transparent.

        Args:
            source: As in `predict`.
            allow_truncated: Take what is there of a picture that ends early.
            decoder: ``cpu``, or what is asked before those of the CPU: see `runtime.images.ACCELERATED`.

        Raises:
            ImageError: It is no usable picture.
        """
        return self.preparation.load(source, allow_truncated=allow_truncated, decoder=decoder)

    def prepare(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        """Return the model input, without batch dimension, for *image* (H, W, 3) uint8 RGB."""
        return self.preparation.prepare(image)

    def infer(self, batch: npt.NDArray[np.generic]) -> list[npt.NDArray[Any]]:
        """Return the graph's outputs for *batch* (N, ...); a graph of fixed batch size is called repeatedly.

        Raises:
            ModelError: Inference failed.
        """
        return run_in_batches(self._session, batch, self.artifact.manifest.postprocess)

    def decode(
        self, outputs: Sequence[npt.NDArray[Any]], sizes: Sequence[tuple[int, int]], **changes: Any
    ) -> list[Prediction]:
        """Return the predictions that *outputs* mean.

        Args:
            outputs: Of `infer`.
            sizes: (height, width) of the upright pictures, in order.
            **changes: As in `predict`.

        Raises:
            ModelError: The outputs do not fit the manifest.
            UsageError: As in `predict`.
        """
        manifest = self.artifact.manifest
        if changes:
            manifest = manifest.model_copy(update={"postprocess": manifest.postprocess.changed(**changes)})
        return list(self._head.decode(dict(zip(self._outputs, outputs, strict=True)), sizes, manifest))


def _describe(tensors: Sequence[Tensor]) -> str:
    return ", ".join(map(str, tensors)) or "nothing"
