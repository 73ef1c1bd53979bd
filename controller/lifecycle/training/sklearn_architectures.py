"""Architectures of scikit-learn: the built-in ones, and any ``MODULE:FACTORY``.

Rules:
    * A factory is called as ``factory()``, with ``seed=`` where it takes that, and returns a classifier, or a pipeline
      that ends in one, that is not fitted.
    * A built-in one may take features instead of pixels: our preprocessing computes them, so that whatever runs the
      model does. Any other takes pixels between 0 and 1, flattened: (height, width, channels).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import joblib
from sklearn.base import is_classifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from controller.lifecycle.training.frameworks import make, parameters_of, resolve
from runtime.errors import UsageError
from runtime.manifest import Hog, Preprocess, Resize

__all__ = ["build", "forest", "hog_svm", "logistic", "preprocess_of"]

CELLS = 6  # along an edge: fine enough for a digit's strokes, few enough for a thousand numbers a picture
LEAST_CELL = 4  # pixels; in less there is no gradient to speak of
BLOCK = 2  # cells along an edge, as in the paper of Dalal and Triggs


def hog_svm() -> SVC:
    """Return a support vector machine with radial basis functions, for histograms of oriented gradients."""
    return SVC(C=3.0)


def logistic() -> Any:
    """Return a logistic regression of standardized pixels."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))


def forest(seed: int) -> RandomForestClassifier:
    """Return a random forest of 100 trees."""
    return RandomForestClassifier(n_estimators=100, random_state=seed, n_jobs=-1)


def _hog(size: int) -> Hog:
    cell = max(LEAST_CELL, size // CELLS)
    return Hog(pixels_per_cell=(cell, cell), cells_per_block=(BLOCK, BLOCK))


FEATURES: Mapping[str, Callable[[int], Hog]] = {"hog-svm": _hog}
"""By name of an architecture that takes features: those of a picture of so many pixels along an edge."""


def preprocess_of(name: str, image_size: int, *, gray: bool) -> Preprocess:
    """Return how pictures are prepared for architecture *name*.

    Args:
        name: Of a built-in one, or ``MODULE:FACTORY``.
        image_size: Height and width, pixels.
        gray: Whether the pictures have no colour.

    Raises:
        UsageError: They are too small for its features.
    """
    shape: dict[str, Any] = {"resize": Resize(size=image_size), "crop": (image_size, image_size)}
    if name in FEATURES:
        features = FEATURES[name](image_size)
        try:
            features.length(image_size, image_size)
        except ValueError as error:
            raise UsageError(f"architecture {name!r}: {error}; give a larger --image-size") from None
        return Preprocess(color="L", mean=(0.0,), std=(1.0,), features=features, **shape)
    channels = 1 if gray else 3
    return Preprocess(
        color="L" if gray else "RGB", mean=(0.0,) * channels, std=(1.0,) * channels, scale=1 / 255, **shape
    )


def build(name: str, seed: int) -> Any:
    """Return a new classifier of architecture *name*.

    Raises:
        UsageError: There is no such architecture, its factory cannot be called so, or it makes something else.
    """
    factory = resolve("sklearn", name)
    signature = parameters_of(factory)
    arguments = {"seed": seed} if signature is not None and "seed" in signature.parameters else {}
    estimator = make(
        name, factory, arguments, lambda made: hasattr(made, "get_params") and is_classifier(made), "a classifier"
    )
    if not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        raise UsageError(
            f"architecture {name!r} made a {type(estimator).__name__} without predict_proba and decision_function: "
            "it gives no scores"
        )
    try:
        joblib.dump(estimator, io.BytesIO())
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"architecture {name!r} made a {type(estimator).__name__} that cannot be saved: {error}; functions in it "
            "must stand in a module, under a name of their own"
        ) from error
    return estimator
