"""The one predictor that the command line, the Ray actors, the server and the agent use.

Rules:
    * It runs only what was proven: a variant on an execution provider that matched the golden output.
    * Of what was proven, the fastest measured one runs; a provider asked for by name is strict.
    * ``predict`` is ``load`` -> ``prepare`` -> ``infer`` -> ``decode``; a pipeline may call the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import images
from runtime.artifact import Artifact
from runtime.errors import ModelError, ProviderError
from runtime.manifest import Tensor, Variant
from runtime.preprocess import Preprocessor
from runtime.proof import Proof, prove_isolated
from runtime.providers import candidates, canonical
from runtime.session import Session, SessionOptions
from runtime.tasks import Prediction, head_of

__all__ = ["Predictor", "prove_all", "select"]

AUTO = "auto"


def _pairs(artifact: Artifact, provider: str, variant: str | None) -> Iterator[tuple[Variant, str]]:
    """Yield the (variant, EP) pairs that may serve: present files, meant for the EP, as the caller narrowed them."""
    providers = candidates() if provider == AUTO else [canonical(provider)]
    variants = artifact.manifest.variants if variant is None else (artifact.manifest.variant(variant),)
    for name in providers:
        for one in variants:
            if artifact.has(one) and ("*" in one.providers or name in one.providers):
                yield one, name


def prove_all(artifact: Artifact, *, provider: str = AUTO, variant: str | None = None) -> list[Proof]:
    """Return the proof of each pair of variant and execution provider that may serve *artifact*."""
    return [prove_isolated(artifact.root, one.id, name) for one, name in _pairs(artifact, provider, variant)]


def select(artifact: Artifact, proofs: Sequence[Proof]) -> Proof:
    """Return the fastest of the *proofs* that passed.

    Raises:
        ProviderError: None passed; the text says for each why not.
    """
    passed = [proof for proof in proofs if proof.passed]
    if not passed:
        why = "; ".join(f"{p.variant} on {p.provider}: {p.reason}" for p in proofs)
        nothing = "no variant that is here is meant for any that may be tried"
        raise ProviderError(f"{artifact.manifest.reference} runs on no execution provider here: {why or nothing}")
    return min(passed, key=lambda proof: float("inf") if proof.latency_ms is None else proof.latency_ms)


class Predictor:
    """A model, ready to predict.

    Attributes:
        artifact: What it was built from.
        proof: Why it runs this variant on this execution provider.
        variant: The variant that runs.
        provider: The execution provider that it runs on.
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
            provider: ``auto``, an alias (``cpu``, ``cuda``, ...) or ONNX Runtime's name of an EP.
            variant: Id of the only variant to consider; all that are present if ``None``.
            options: How the session uses the machine.

        Raises:
            ProviderError: Nothing passed the proof.
            ModelError: The model does not fit its manifest.
            UsageError: *provider* means no EP.
        """
        self.artifact = artifact
        self.proof = select(artifact, prove_all(artifact, provider=provider, variant=variant))
        self.variant = artifact.manifest.variant(self.proof.variant)
        self.provider = self.proof.provider
        self._session = Session(artifact.verified_path(self.variant), self.provider, options)
        if self._session.inputs != self.variant.inputs:
            raise ModelError(
                f"{artifact.manifest.reference} {self.variant.id}: the graph takes "
                f"{_describe(self._session.inputs)}, the manifest says {_describe(self.variant.inputs)}"
            )
        self._preprocessor = Preprocessor(artifact.manifest.preprocess, self._session.image)
        self._decode_options = images.DecodeOptions(background=artifact.manifest.preprocess.background)
        self._outputs = tuple(output.name for output in self._session.outputs)
        self._head = head_of(artifact.manifest)

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes; ``None``: it takes any."""
        size = self._session.image.shape[0]
        return size if isinstance(size, int) else None

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

    def load(self, source: bytes | Path | npt.NDArray[np.uint8]) -> images.Decoded:
        """Return the picture that *source* holds, composed on the manifest's background where it is transparent.

        Raises:
            ImageError: It is no usable picture.
        """
        return images.read(source, self._decode_options)

    def prepare(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        """Return the model input, without batch dimension, for *image* (H, W, 3) uint8 RGB."""
        return self._preprocessor(image)

    def infer(self, batch: npt.NDArray[np.generic]) -> list[npt.NDArray[Any]]:
        """Return the graph's outputs for *batch* (N, ...); a graph of fixed batch size is called repeatedly.

        Raises:
            ModelError: Inference failed.
        """
        size = self.fixed_batch
        if size is None or len(batch) == size:
            return self._session.run(batch)
        parts = [self._infer_padded(batch[start : start + size], size) for start in range(0, len(batch), size)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _infer_padded(self, part: npt.NDArray[np.generic], size: int) -> list[npt.NDArray[Any]]:
        missing = size - len(part)
        padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        return [output[: len(part)] for output in self._session.run(padded)]

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
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors) or "nothing"
