"""The child's side of a proof: ``python -m runtime.proving ROOT VARIANT PROVIDER`` prints a `Proof` as JSON.

The golden file is an ``.npz`` with the arrays

    input                       what the graph's first input takes, N <= 4
    output/<variant>/<output>   what that variant gave for it on the CPU EP when it was published
"""

from __future__ import annotations

import statistics
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.artifact import Artifact
from runtime.errors import ArtifactError, ProviderError, VedetteError
from runtime.manifest import Variant
from runtime.proof import Proof
from runtime.session import Session, SessionOptions

__all__ = ["output_key", "prove"]

LATENCY_RUNS = 20
LATENCY_BUDGET = 1.0  # seconds


def output_key(variant_id: str, output: str) -> str:
    """Return the golden file's name for *output* of a variant."""
    return f"output/{variant_id}/{output}"


def prove(artifact: Artifact, variant: Variant, provider: str) -> Proof:
    """Build a session on *provider*, run the golden input and compare.

    Raises:
        VedetteError: The session was not built, fell back, or gave another output than the golden
            one by more than ``variant.tolerance``.
    """
    session = Session(artifact.verified_path(variant), provider, SessionOptions(), record_assignment=True)
    images, expected = _load_golden(artifact, variant, [output.name for output in session.outputs])
    found = dict(zip(expected, session.run(images), strict=True))
    worst = max(_difference(name, found[name], expected[name]) for name in expected)
    if not worst <= variant.tolerance:  # so that NaN fails
        raise ProviderError(
            f"output differs from the golden output by {worst:.3g}; the tolerance is {variant.tolerance:.3g}"
        )
    return Proof(
        variant=variant.id,
        provider=provider,
        passed=True,
        reason=f"golden output matched within {variant.tolerance:.3g}",
        ort=onnxruntime.__version__,
        max_abs=worst,
        latency_ms=_latency(session, images),
        node_share=session.node_share(),
    )


def _load_golden(
    artifact: Artifact, variant: Variant, outputs: Sequence[str]
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any] | None]]:
    """Return the golden input, and the golden outputs by name, ``None`` where one is absent."""
    path = artifact.verified_path(artifact.manifest.golden)
    try:
        with np.load(path) as golden:
            return golden["input"], {name: golden.get(output_key(variant.id, name)) for name in outputs}
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a golden file: {error}") from None


def _difference(name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any] | None) -> float:
    if expected is None:
        raise ProviderError(f"the golden file holds no output {name!r} for this variant")
    if found.shape != expected.shape:
        raise ProviderError(f"output {name!r} has shape {found.shape}; the golden one has {expected.shape}")
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return float(np.max(difference, initial=0.0))


def _latency(session: Session, images: npt.NDArray[Any]) -> float:
    """Return the median milliseconds of a batch of one (of the fixed batch, if the graph has one)."""
    fixed = session.image.shape[0]
    one = images[: fixed if isinstance(fixed, int) else 1]
    times: list[float] = []
    until = time.perf_counter() + LATENCY_BUDGET
    while len(times) < LATENCY_RUNS and (not times or time.perf_counter() < until):
        start = time.perf_counter()
        session.run(one)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _main(root: str, variant_id: str, provider: str) -> None:
    try:
        artifact = Artifact.open(Path(root))
        proof = prove(artifact, artifact.manifest.variant(variant_id), provider)
    except VedetteError as error:
        proof = Proof(
            variant=variant_id, provider=provider, passed=False, reason=str(error), ort=onnxruntime.__version__
        )
    sys.stdout.write(proof.model_dump_json())


if __name__ == "__main__":
    _main(*sys.argv[1:4])
