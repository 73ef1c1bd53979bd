"""How two graphs differ: their answers, how good and how fast they are, and the layers in which they part.

Rules:
    * Both are given the same pictures, each prepared in its own way; bare files are given the same random input.
    * A layer is compared where both graphs give a float32 tensor of the same name behind a convolution or a matrix
      product. What a layer is off by includes what the layers before it are off by.
    * Latency is that of one picture on one thread, measured in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.lifecycle.evaluation.evaluate import evaluate, measure_latency
from controller.lifecycle.graph import load_graph
from controller.lifecycle.look.target import Target, noise
from controller.lifecycle.quantization.calibration.images import spread_images
from controller.lifecycle.quantization.calibration.taps import Taps
from controller.lifecycle.quantization.calibration.tensors import float_tensors
from controller.lifecycle.quantization.layers import LAYERS
from controller.lifecycle.quantization.sqnr import sqnr_db
from controller.lifecycle.variants.golden import golden_input, synthetic_pictures
from runtime.datasets import Dataset
from runtime.errors import UsageError
from runtime.evaluation.titles import title_of
from runtime.preprocess import Preprocessor
from runtime.session import Session
from runtime.terminal import table

__all__ = ["Comparison", "Difference", "compare"]

PICTURES = 16  # looked at for outputs and layers
MOST_SHOWN = 10  # layers

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How a tensor of one graph differs from the other's of the same name.

    Attributes:
        name: Of the tensor.
        sqnr_db: Of the other, the first being the signal.
        max_abs: Largest absolute difference.
    """

    name: str
    sqnr_db: float
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a graph differs from another.

    Attributes:
        first: The one that is compared with.
        second: The other one.
        latency_ms: Of both.
        outputs: By output that both give.
        layers: By layer that both have, in the graph's order.
        metrics: Of both, by figure; empty without labelled data.
        agreement: Of their answers on it, 0 to 1; ``None`` without.
    """

    first: str
    second: str
    latency_ms: tuple[float, float]
    outputs: tuple[Difference, ...]
    layers: tuple[Difference, ...]
    metrics: dict[str, tuple[float | None, float | None]]
    agreement: float | None

    @property
    def speedup(self) -> float:
        """How many times as fast the second is as the first."""
        return self.latency_ms[0] / self.latency_ms[1]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "speedup": self.speedup}

    def as_text(self) -> str:
        """Return it for people."""
        latency = [f"{value:.3f}" for value in self.latency_ms]
        rows: list[tuple[object, ...]] = [("ms, 1 thread", *latency, f"{self.speedup:.2f} times as fast")]
        for name, both in self.metrics.items():
            shown = ["-" if value is None else title_of(name).show(value) for value in both]
            rows.append((title_of(name).name, *shown, ""))
        if self.agreement is not None:
            rows.append(("agreement", "", f"{self.agreement:.2%}", ""))
        rows += [
            (f"output {one.name}", "", f"{one.sqnr_db:.1f} dB", f"at most {one.max_abs:.3g} off")
            for one in self.outputs
        ]
        tables = [table(("", self.first, self.second, ""), rows)]
        if not self.outputs and not self.layers:
            tables.append("They share no output and no layer: none has the same name and shape in both.")
        if self.layers:
            worst = sorted(self.layers, key=lambda one: one.sqnr_db)[:MOST_SHOWN]
            shown_layers = [
                (one.name, f"{one.sqnr_db:.1f}", f"{one.max_abs:.3g}") for one in self.layers if one in worst
            ]
            title = f"worst of {len(self.layers)} layers, in the graph's order"
            tables.append(table((title, "SQNR dB", "max abs"), shown_layers))
        return "\n\n".join(tables)


def compare(first: Target, second: Target, data: Dataset | None = None) -> Comparison:
    """Compare *second* with *first*.

    Args:
        first: The graph whose values are the signal.
        second: The other graph.
        data: Pictures; with labels of the task, for artifacts, accuracy is compared as well.

    Raises:
        UsageError: They are not given the same pictures: one is a bare file of another input.
        DatasetError: *data* cannot be used.
        VedetteError: One of them does not run.
    """
    targets = (first, second)
    sessions = [Session(one.path, custom_ops=one.custom_ops) for one in targets]
    batches = _batches(targets, sessions, data)
    metrics, agreement = _judged(targets, data)
    return Comparison(
        first=str(first),
        second=str(second),
        latency_ms=_latency(targets, sessions, batches),
        outputs=_outputs(sessions, batches),
        layers=_layers(targets, sessions, batches),
        metrics=metrics,
        agreement=agreement,
    )


def _batches(targets: Sequence[Target], sessions: Sequence[Session], data: Dataset | None) -> list[Array]:
    """Return what each graph is given, made of the same pictures."""
    if all(target.artifact is not None for target in targets):
        chosen = list(synthetic_pictures(PICTURES) if data is None else spread_images(data, PICTURES))
        ready = [
            golden_input(
                session.image, Preprocessor(target.artifact.manifest.preprocess, session.image), chosen, PICTURES
            )
            for target, session in zip(targets, sessions, strict=True)
            if target.artifact is not None
        ]
        fewest = min(map(len, ready))
        for target, session in zip(targets, sessions, strict=True):
            if session.batch not in {None, fewest}:
                raise UsageError(f"{target} takes batches of {session.batch}; the other graph takes {fewest} pictures")
        return [batch[:fewest] for batch in ready]
    one, other = (session.image for session in sessions)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        raise UsageError(
            f"{targets[0]} takes {one}, {targets[1]} takes {other}: a file does not say how pictures are prepared for "
            "it; compare graphs of one input, or published models"
        )
    batch = noise(sessions[0], sessions[0].batch or PICTURES)
    return [batch, batch]


def _latency(targets: Sequence[Target], sessions: Sequence[Session], batches: Sequence[Array]) -> tuple[float, float]:
    one, other = (batch[: session.batch or 1] for session, batch in zip(sessions, batches, strict=True))
    first, second = targets
    if np.array_equal(one, other) and one.dtype == other.dtype and first.custom_ops == second.custom_ops:
        found = measure_latency({"first": first.path, "second": second.path}, one, first.custom_ops)
        return found["first"], found["second"]
    alone = [
        measure_latency({"alone": target.path}, batch, target.custom_ops)["alone"]
        for target, batch in ((first, one), (second, other))
    ]
    return alone[0], alone[1]


def _difference(name: str, signal: Array, other: Array) -> Difference:
    clean, off = signal.astype(np.float64), other.astype(np.float64) - signal
    return Difference(
        name=name,
        sqnr_db=sqnr_db(float(np.sum(clean**2)), float(np.sum(off**2))),
        max_abs=float(np.max(np.abs(off), initial=0.0)),
    )


def _outputs(sessions: Sequence[Session], batches: Sequence[Array]) -> tuple[Difference, ...]:
    one, other = (
        {tensor.name: value for tensor, value in zip(session.outputs, session.run(batch), strict=True)}
        for session, batch in zip(sessions, batches, strict=True)
    )
    return tuple(
        _difference(name, one[name], other[name])
        for name in one
        if name in other and one[name].shape == other[name].shape
    )


def _layers(targets: Sequence[Target], sessions: Sequence[Session], batches: Sequence[Array]) -> tuple[Difference, ...]:
    models = [load_graph(target.path) for target in targets]
    names = _shared_layers(*models)
    if not names:
        return ()
    taps = [
        Taps.on(model, names, batch, fixed_batch=session.batch, custom_ops=target.custom_ops)
        for model, batch, session, target in zip(models, batches, sessions, targets, strict=True)
    ]
    size = min(len(batches[0]), *(one.pictures for one in taps))
    values = (one.run(batch[:size]) for one, batch in zip(taps, batches, strict=True))
    return tuple(
        _difference(name, signal, other)
        for (name, signal), (_, other) in zip(*values, strict=True)
        if signal.shape == other.shape
    )


def _shared_layers(first: onnx.ModelProto, second: onnx.ModelProto) -> list[str]:
    made = {name for node in second.graph.node for name in node.output} & float_tensors(second)
    known = float_tensors(first)
    return [
        node.output[0]
        for node in first.graph.node
        if node.op_type in LAYERS and node.output[0] in made and node.output[0] in known
    ]


def _judged(
    targets: Sequence[Target], data: Dataset | None
) -> tuple[dict[str, tuple[float | None, float | None]], float | None]:
    """Return the figures of both on labelled data, and how much their answers agree."""
    artifacts = [target.artifact for target in targets if target.artifact is not None]
    if data is None or len(artifacts) < len(targets):
        return {}, None
    first, second = (
        evaluate(artifact, target.variant, data) for artifact, target in zip(artifacts, targets, strict=True)
    )
    names = dict.fromkeys((*first.metrics, *second.metrics))
    return {name: (first.metrics.get(name), second.metrics.get(name)) for name in names}, first.agreement(second)
