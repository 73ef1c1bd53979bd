"""Holds a classifier of scikit-learn open: an estimator or a pipeline, from a file or from a factory.

Rules:
    * A file of joblib or pickle runs code as it is read: it is read only where a person vouches for it.
    * What it gives are its probabilities, or what its decision function says where it has none; of two classes, the
      decision and its opposite.
    * Pictures are flattened, (height, width, channels), with one channel where no other number fits.
    * Trees, their ensembles and neighbours decide by comparisons: where float32 rounds, a score jumps, so that only
      labels are compared.
    * One way leads to ONNX: skl2onnx.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import sklearn
from sklearn.base import is_classifier

from controller.errors import ExportError
from controller.lifecycle.importers.factory import origin_sha256
from controller.lifecycle.importers.sklearn_graph import SCORES, convert
from controller.lifecycle.importers.sklearn_values import values_inside
from controller.lifecycle.importers.source import Array, Job, SourceFacts
from runtime.errors import UsageError
from runtime.files import hash_file

__all__ = ["ROUTES", "SklearnSource", "compares_labels", "framework", "open_built", "open_source", "scores_of"]

ROUTES = ("skl2onnx",)
COMPARING = ("sklearn.tree.", "sklearn.ensemble.", "sklearn.neighbors.")
CHANNELS: Mapping[str, int] = {"L": 1, "RGB": 3, "BGR": 3}

Picture = tuple[int, int, int]  # height, width, channels


def framework() -> str:
    """Return scikit-learn with its version."""
    return f"scikit-learn {sklearn.__version__}"


class SklearnSource:
    """A fitted classifier, open.

    Args:
        estimator: It, or a pipeline that ends in it.
        picture: (height, width, channels) of what it takes, flattened; ``None``: it takes features.
        facts: What is known of it.
    """

    def __init__(self, estimator: Any, picture: Picture | None, facts: SourceFacts) -> None:
        self.facts = facts
        self._estimator, self._picture = estimator, picture

    def convert(self, route: str) -> onnx.ModelProto:
        """Return it as ONNX.

        Raises:
            ExportError: skl2onnx cannot convert it.
        """
        if route not in ROUTES:
            raise ExportError(f"there is no route {route!r}; expected {', '.join(ROUTES)}")
        estimator = self._estimator
        return convert(estimator, int(estimator.n_features_in_), len(estimator.classes_), self._picture)

    def run(self, batch: Array) -> list[Array]:
        """Return the scores of *batch*, (n, height, width, channels) or (n, length): float32 (n, classes)."""
        return [scores_of(self._estimator, batch.reshape(len(batch), -1))]

    def values(self, batch: Array) -> Mapping[str, Array]:
        """Return what the parts of the estimator give for *batch*, by names of its own, and the scores."""
        inside = values_inside(self._estimator, batch.reshape(len(batch), -1))
        return inside | dict(zip([SCORES], self.run(batch), strict=True))


def scores_of(estimator: Any, rows: Array) -> npt.NDArray[np.float32]:
    """Return the probabilities, or else the decisions, of *estimator* for *rows* (n, length): (n, classes)."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(rows), np.float32)
    decided = np.asarray(estimator.decision_function(rows), np.float32)
    return np.stack([-decided, decided], axis=1) if decided.ndim == 1 else decided


def open_source(job: Job) -> SklearnSource:
    """Open the file of joblib or pickle that *job* names.

    Raises:
        UsageError: Nobody vouches for it, or it holds no classifier for such pictures.
        ExportError: It cannot be read.
    """
    if not job.trusted:
        raise UsageError(
            f"{job.source} is a pickle, and reading one runs the code in it; if you trust where it comes from, give "
            "--trust-pickle"
        )
    import joblib

    path = Path(job.source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(path)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a pickle raises whatever the code in it raises
            raise ExportError(
                f"{path} cannot be read by joblib: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
    said = tuple(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))
    return _opened(estimator, job, hash_file(path), said)


def open_built(model: Any, job: Job) -> SklearnSource:
    """Open what a factory made.

    Raises:
        UsageError: It is no classifier for such pictures.
    """
    if job.weights is not None:
        raise UsageError(f"{job.source} made a {type(model).__name__}, which has no weights apart; leave --weights out")
    return _opened(model, job, origin_sha256(job))


def _opened(estimator: Any, job: Job, digest: str, said: tuple[str, ...] = ()) -> SklearnSource:
    kind = type(estimator).__name__
    if not hasattr(estimator, "get_params") or not is_classifier(estimator):
        raise UsageError(
            f"{job.source} is a {kind}; expected a classifier of scikit-learn, or a pipeline that ends in one"
        )
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "n_features_in_"):
        raise UsageError(f"{job.source} is a {kind} that is not fitted; fit it before it is saved")
    if not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        raise UsageError(
            f"{job.source} is a {kind} that gives labels alone; expected predict_proba or decision_function"
        )
    picture = None if job.features else _picture(job, kind, int(estimator.n_features_in_))
    facts = SourceFacts(
        framework=framework(),
        source_sha256=digest,
        routes=ROUTES,
        task="classification",
        labels=_labels(estimator.classes_),
        compares_labels=compares_labels(estimator),
        warnings=said,
    )
    return SklearnSource(estimator, picture, facts)


def _picture(job: Job, kind: str, length: int) -> Picture:
    """Return the (height, width, channels) of which *length* numbers come.

    Raises:
        UsageError: There are no such pictures, or not of the size that *job* says.
    """
    if job.image_size is None:
        for channels in (CHANNELS[job.color], *CHANNELS.values()):
            edge = math.isqrt(length // channels)
            if edge * edge * channels == length:
                return edge, edge, channels
        raise UsageError(
            f"{job.source} is a {kind} of {length} numbers, which are no square picture of 1 or 3 channels; give "
            "--image-size, or --preprocess FILE with 'features'"
        )
    height, width = job.image_size
    for channels in (CHANNELS[job.color], *CHANNELS.values()):
        if height * width * channels == length:
            return height, width, channels
    raise UsageError(
        f"{job.source} is a {kind} of {length} numbers; pictures of {height}x{width} pixels have {height * width} with "
        f"one channel and {3 * height * width} with three"
    )


def _labels(classes: Array) -> tuple[str, ...] | None:
    """Return names for *classes*; ``None`` for 0, 1 and so on, which name nothing."""
    if np.issubdtype(classes.dtype, np.number) and np.array_equal(classes, np.arange(len(classes))):
        return None
    return tuple(str(name) for name in classes)


def compares_labels(estimator: Any) -> bool:
    """Whether *estimator*, or a part of it, decides by comparisons."""
    parts = [estimator, *estimator.get_params(deep=True).values()]
    return any(type(part).__module__.startswith(COMPARING) for part in parts)
