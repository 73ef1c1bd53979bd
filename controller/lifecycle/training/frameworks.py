"""The frameworks that can train: a table, and what an architecture's name means in each.

Rules:
    * A framework's module has ``train(config, *, resume=False) -> RunRecord``; its importer has
      ``open_run(directory, record) -> Source``. Both are imported only when their turn has come.
    * A framework that is not installed is said before anything else is done, with the extra that brings it.
    * An architecture is the name of a built-in one, or ``MODULE:FACTORY``; either is a factory, whose arguments its
      framework's module of architectures tells.
    * What a factory makes is looked at before it is trained: its kind, and the shape of its answer to two pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UsageError

__all__ = [
    "FRAMEWORKS",
    "Framework",
    "check_logits",
    "epochs_of",
    "extra_of",
    "framework_of",
    "make",
    "parameters_of",
    "resolve",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One way to train.

    Attributes:
        module: That trains.
        importer: That opens a run.
        architectures: Built-in ones, and where their factories are.
        extra: Of the distribution, which brings it.
        packages: That must be there.
        best: File of the best weights, in the run directory.
        last: File of what the next epoch depends on; ``None``: a run cannot be resumed.
        fits_once: It takes all of the data at once: there are no epochs.
    """

    module: str
    importer: str
    architectures: Mapping[str, str]
    extra: str
    packages: tuple[str, ...]
    best: str
    last: str | None
    fits_once: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)


FRAMEWORKS: Mapping[str, Framework] = {
    "torch": Framework(
        module="controller.lifecycle.training.torch_learner",
        importer="controller.lifecycle.importers.torch_run",
        architectures={
            "resnet18-small": "controller.lifecycle.training.architectures:resnet18_small",
            "tiny": "controller.lifecycle.training.architectures:tiny",
        },
        extra="train",
        packages=("torch",),
        best="best.pt",
        last="last.pt",
    ),
    "keras": Framework(
        module="controller.lifecycle.training.keras_learner",
        importer="controller.lifecycle.importers.keras_run",
        architectures={"keras-tiny": "controller.lifecycle.training.keras_architectures:keras_tiny"},
        extra="keras",
        packages=("keras", "torch"),
        best="best.keras",
        last="last.pt",
    ),
    "flax": Framework(
        module="controller.lifecycle.training.flax_learner",
        importer="controller.lifecycle.importers.jax_run",
        architectures={"flax-tiny": "controller.lifecycle.training.flax_architectures:flax_tiny"},
        extra="jax",
        packages=("flax", "jax", "optax", "jax2onnx"),
        best="best.npz",
        last="last.npz",
    ),
    "sklearn": Framework(
        module="controller.lifecycle.training.sklearn_learner",
        importer="controller.lifecycle.importers.sklearn_run",
        architectures={
            "hog-svm": "controller.lifecycle.training.sklearn_architectures:hog_svm",
            "logistic": "controller.lifecycle.training.sklearn_architectures:logistic",
            "forest": "controller.lifecycle.training.sklearn_architectures:forest",
        },
        extra="sklearn",
        packages=("sklearn", "skl2onnx"),
        best="best.joblib",
        last=None,
        fits_once=True,
    ),
}


def framework_of(name: str) -> Framework:
    """Return the row of framework *name*.

    Raises:
        UsageError: There is none of that name, or it is not installed.
    """
    if name not in FRAMEWORKS:
        raise UsageError(f"unknown framework {name!r}; expected {', '.join(FRAMEWORKS)}")
    framework = FRAMEWORKS[name]
    if framework.missing:
        raise UsageError(
            f"framework {name!r} needs {', '.join(framework.missing)}, which is not installed: "
            f"pip install 'vedette[{framework.extra}]'"
        )
    return framework


def extra_of(module: str) -> str | None:
    """Return the extra of the distribution that brings *module* for a framework; ``None``: no framework needs it."""
    package = module.partition(".")[0]
    return next((framework.extra for framework in FRAMEWORKS.values() if package in framework.packages), None)


def epochs_of(name: str, asked: int | None) -> int:
    """Return how often framework *name* goes through the data, as *asked* for.

    Raises:
        UsageError: There is no such framework, nothing was asked for where it matters, or something where it does not.
    """
    if framework_of(name).fits_once:
        if asked is not None:
            raise UsageError(f"framework {name!r} is fitted once, to all of the data; leave --epochs out")
        return 1
    if asked is None:
        raise UsageError(f"framework {name!r} needs --epochs N")
    return asked


def resolve(framework: str, arch: str) -> Callable[..., Any]:
    """Return the factory that *arch* means in *framework*.

    Raises:
        UsageError: There is none of that name, or it cannot be imported.
    """
    built_in = framework_of(framework).architectures
    module_name, colon, attribute = built_in.get(arch, arch).partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(
            f"unknown architecture {arch!r}; built in for {framework} are {', '.join(built_in)}; "
            "any other is given as MODULE:FACTORY"
        )
    if str(Path.cwd()) not in sys.path:  # the user's own module lies where the command was typed
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise UsageError(
            f"architecture {arch!r}: cannot import {module_name!r}: {error}; a module must be installed, or lie in the "
            "current directory"
        ) from None
    except AttributeError:
        raise UsageError(f"architecture {arch!r}: module {module_name!r} has no {attribute!r}") from None
    if not callable(factory):
        raise UsageError(f"architecture {arch!r}: {attribute!r} is a {type(factory).__name__}, expected a function")
    resolved: Callable[..., Any] = factory
    return resolved


def parameters_of(factory: Callable[..., Any]) -> inspect.Signature | None:
    """Return how *factory* is called; ``None`` where Python cannot tell.

    A class whose metaclass makes its objects (as nnx's does) is called as its ``__init__`` is.
    """
    try:
        if not isinstance(factory, type) or type(factory).__call__ is type.__call__:
            return inspect.signature(factory)
        made = factory.__init__  # type: ignore[misc]  # of this very class, whose call it is
        _self, *parameters = inspect.signature(made).parameters.values()
    except ValueError:
        return None
    return inspect.Signature(parameters)


def make(
    arch: str, factory: Callable[..., Any], arguments: Mapping[str, Any], fits: Callable[[Any], bool], expected: str
) -> Any:
    """Return what the *factory* of *arch* makes of *arguments*.

    Args:
        arch: As it was asked for, for errors.
        factory: As `resolve` returned it.
        arguments: By name.
        fits: Whether what it made is of the right kind.
        expected: That kind, with its article.

    Raises:
        UsageError: It cannot be called so, fails, or makes something else.
    """
    signature = parameters_of(factory)
    if signature is not None:  # otherwise calling it will tell
        try:
            signature.bind(**arguments)
        except TypeError as error:
            shown = ", ".join(f"{name}=..." for name in arguments)
            raise UsageError(f"architecture {arch!r} cannot be called as factory({shown}): {error}") from None
    try:
        model = factory(**arguments)
    except Exception as error:  # the factory's own code raises whatever it likes
        raise UsageError(f"architecture {arch!r} cannot be made: {type(error).__name__}: {_line(error)}") from error
    if not fits(model):
        raise UsageError(f"architecture {arch!r} made a {type(model).__name__}, expected {expected}")
    return model


def check_logits(arch: str, num_classes: int, image_size: int, answer: Callable[[], Any]) -> None:
    """Refuse an architecture unless *answer* gives logits (2, *num_classes*).

    Args:
        arch: As it was asked for, for errors.
        num_classes: That there are.
        image_size: Height and width of the pictures, pixels.
        answer: Asks the model of *arch* about two of them; what it gives is an array, or becomes one.

    Raises:
        UsageError: It does not take them, or gives something else: another shape, or probabilities.
    """
    try:
        logits = answer()
    except Exception as error:  # the model's own code raises whatever it likes
        raise UsageError(
            f"architecture {arch!r} does not take images of {image_size}x{image_size} pixels: {_line(error)}; "
            "--image-size gives it others"
        ) from error
    shape = tuple(logits.shape) if hasattr(logits, "shape") else type(logits).__name__
    if shape != (2, num_classes):
        raise UsageError(f"architecture {arch!r} gives {shape} for 2 images, expected (2, {num_classes})")
    scores = np.asarray(logits)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-4):
        raise UsageError(f"architecture {arch!r} gives probabilities, expected logits: leave its softmax out")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
