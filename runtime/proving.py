"""The child's side of a proof: ``python -m runtime.proving ROOT VARIANT PROVIDER [OPTIONS]`` prints a `Proof` as JSON.

The golden file is an ``.npz`` with the arrays

    input                       what the graph's first input takes, N <= 4
    output/<variant>/<output>   what that variant gave for it on the CPU EP when it was published
"""

from __future__ import annotations

import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.artifact import Artifact
from runtime.batching import run_in_batches
from runtime.comparison import compare
from runtime.errors import ArtifactError, ProviderError, VedetteError
from runtime.manifest import Variant
from runtime.proof import Proof, engine_folder
from runtime.providers import find, is_installed
from runtime.session import Session, SessionOptions

__all__ = ["load_golden", "output_key", "prove"]

LATENCY_RUNS: Final = 20
LATENCY_BUDGET: Final = 1.0  # seconds
THROUGHPUT_RUNS: Final = 10
THROUGHPUT_BUDGET: Final = 0.5  # seconds

Array = npt.NDArray[Any]


def output_key(variant_id: str, output: str) -> str:
    """Return the golden file's name for *output* of a variant."""
    return f"output/{variant_id}/{output}"


def prove(artifact: Artifact, variant: Variant, provider: str, options: SessionOptions | None = None) -> Proof:
    """Build a session on *provider*, run the golden input, compare and measure.

    Raises:
        VedetteError: The session was not built, fell back, runs no node on the provider, or gave another
            output than the golden one by more than ``variant.tolerance`` (see `runtime.comparison`).
    """
    options, wanted = options or SessionOptions(), find(provider)
    start = time.perf_counter()
    session = Session(
        artifact.verified_path(variant),
        wanted.reference,
        options,
        custom_ops=artifact.manifest.custom_ops,
        folder=engine_folder(artifact, variant.id, wanted, options),
        record_assignment=True,
    )
    build_ms = 1000 * (time.perf_counter() - start)
    shares = _checked_shares(session)
    images, expected = load_golden(artifact, variant, [output.name for output in session.outputs])
    outputs = run_in_batches(session, images, artifact.manifest.postprocess)
    found = dict(zip(expected, outputs, strict=True))
    difference = compare(found, expected, variant.tolerance, artifact.manifest.postprocess)
    latency = _latency(session, images)
    speed = _throughput(session, images, latency)
    return Proof(
        variant=variant.id,
        provider=wanted.name,
        device=wanted.device,
        passed=True,
        reason=f"golden output matched within {variant.tolerance:.3g}",
        ort=onnxruntime.__version__,
        origin=session.origin,
        max_abs=difference.largest,
        max_relative=difference.relative,
        build_ms=build_ms,
        latency_ms=latency.median,
        latency_p90_ms=latency.p90,
        throughput=speed.images_per_second,
        throughput_batch=speed.batch,
        node_share=None if shares is None else shares.get(wanted.name, 0.0),
        shares=shares,
    )


def _checked_shares(session: Session) -> dict[str, float] | None:
    """Return the share of nodes by EP.

    Raises:
        ProviderError: The EP that was asked for runs none of them.
    """
    nodes = session.node_counts()
    if not nodes:  # ONNX Runtime does not tell, or has folded the whole graph into a constant
        return None
    shares = {name: count / nodes.total() for name, count in nodes.items()}
    if not nodes[session.provider]:
        others = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        raise ProviderError(f"{session.provider} was built, but 0 of {nodes.total()} nodes run on it ({others})")
    return shares


def load_golden(artifact: Artifact, variant: Variant, outputs: Sequence[str]) -> tuple[Array, dict[str, Array]]:
    """Return the golden input, and the golden outputs by name, in the graph's order."""
    path = artifact.verified_path(artifact.manifest.golden)
    try:
        with np.load(path) as golden:
            images, found = golden["input"], {name: golden.get(output_key(variant.id, name)) for name in outputs}
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a golden file: {error}") from None
    if absent := [name for name, array in found.items() if array is None]:
        raise ProviderError(f"the golden file holds no output {absent[0]!r} for this variant")
    return images, found


@dataclass(frozen=True, slots=True)
class _Latency:
    """Milliseconds of a run of one image (of the fixed batch, if the graph has one)."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class _Throughput:
    """Images a second, in batches of so many."""

    images_per_second: float
    batch: int


def _latency(session: Session, images: Array) -> _Latency:
    one = _batch_of(images, session.batch or 1)
    times = _timed(lambda: session.run(one), LATENCY_RUNS, LATENCY_BUDGET)
    median = statistics.median(times)
    # the inclusive method: between the shortest and the longest that was seen
    p90 = statistics.quantiles(times, n=10, method="inclusive")[-1] if len(times) > 1 else median
    return _Latency(median=1000 * median, p90=1000 * p90)


def _throughput(session: Session, images: Array, latency: _Latency) -> _Throughput:
    """Measure a small batch: the fixed one, or the golden one, which has shown that there is memory for it."""
    size = session.batch or max(1, min(len(images), int(1000 * THROUGHPUT_BUDGET / latency.median)))
    if size == (session.batch or 1):
        return _Throughput(images_per_second=1000 * size / latency.median, batch=size)
    several = _batch_of(images, size)
    session.run(several)  # the first run of a shape allocates, or compiles
    times = _timed(lambda: session.run(several), THROUGHPUT_RUNS, THROUGHPUT_BUDGET)
    return _Throughput(images_per_second=size / statistics.median(times), batch=size)


def _batch_of(images: Array, size: int) -> Array:
    return images[np.arange(size) % len(images)]


def _timed(call: Callable[[], object], runs: int, budget: float) -> list[float]:
    """Return the seconds that each of *runs* calls took, of fewer if the *budget* of seconds is spent."""
    times: list[float] = []
    until = time.perf_counter() + budget
    while len(times) < runs and (not times or time.perf_counter() < until):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _main(root: str, variant_id: str, provider: str, options: str = "") -> None:
    wanted = find(provider)
    try:
        artifact = Artifact.open(Path(root))
        given = SessionOptions.from_json(options) if options else SessionOptions()
        proof = prove(artifact, artifact.manifest.variant(variant_id), wanted.reference, given)
    except VedetteError as error:
        proof = Proof(
            variant=variant_id,
            provider=wanted.name,
            device=wanted.device,
            passed=False,
            reason=str(error),
            ort=onnxruntime.__version__,
            installed=is_installed(wanted),
        )
    sys.stdout.write(proof.model_dump_json())


if __name__ == "__main__":
    _main(*sys.argv[1:5])
