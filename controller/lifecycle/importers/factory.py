"""Opens what a user's own function makes: ``MODULE:FACTORY``, of whatever framework that turns out to be.

Rules:
    * The module lies in the current directory, or where the interpreter finds it.
    * The factory is called as ``factory(num_classes=N)`` where a number of classes was given, otherwise as
      ``factory()``.
    * Of what framework the model is its class says: the first of its ancestors whose package is in `MAKERS`. That
      module has ``open_built(model, job) -> Source``; *model* is what the factory gave, a tuple included.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.lifecycle.importers.source import Job, Source
from controller.lifecycle.training.frameworks import extra_of, parameters_of
from runtime.errors import UsageError
from runtime.files import hash_file

__all__ = ["MAKERS", "call_factory", "open_source", "origin_sha256"]

MAKERS: Mapping[str, str] = {
    "keras": "controller.lifecycle.importers.keras_model",
    "torch": "controller.lifecycle.importers.torch_module",
    "flax": "controller.lifecycle.importers.jax_model",
    "sklearn": "controller.lifecycle.importers.sklearn_model",
}
"""By package of a model's class: the module that opens it."""


def open_source(job: Job) -> Source:
    """Call the factory that *job* names and open what it gives.

    Raises:
        UsageError: There is no such factory, it cannot be called so, or nothing opens what it gives.
        ExportError: It can be called, and what it gives is not usable; the text says why.
    """
    model = call_factory(_find(job.source), job)
    maker = _maker(model[0] if isinstance(model, tuple) and model else model)
    if maker is None:
        raise UsageError(f"{job.source} made a {type(model).__name__}; expected a model of {', '.join(MAKERS)}")
    source: Source = importlib.import_module(MAKERS[maker]).open_built(model, job)
    return source


def _maker(model: object) -> str | None:
    packages = (ancestor.__module__.partition(".")[0] for ancestor in type(model).__mro__)
    return next((package for package in packages if package in MAKERS), None)


def _find(source: str) -> Callable[..., Any]:
    module, _, name = source.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and extra_of(error.name) is not None:
            raise  # the framework itself: the parent says what brings it
        raise UsageError(f"{source}: cannot import {module!r}: {error}") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{source}: {module!r} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{source}: {name!r} is a {type(found).__name__}, expected a function that makes a model")
    called: Callable[..., Any] = found
    return called


def call_factory(factory: Callable[..., Any], job: Job) -> Any:
    """Return what *factory* makes.

    Raises:
        UsageError: It needs other arguments than it gets.
    """
    arguments = {} if job.classes is None else {"num_classes": job.classes}
    shown = ", ".join(f"{name}={value}" for name, value in arguments.items())
    signature = parameters_of(factory)
    if signature is not None:  # otherwise calling it will tell
        try:
            signature.bind(**arguments)
        except TypeError as error:
            hint = "; --classes gives num_classes" if not arguments else ""
            raise UsageError(f"{job.source} cannot be called as factory({shown}): {error}{hint}") from None
    return factory(**arguments)


def origin_sha256(job: Job) -> str:
    """Return the SHA-256 of the file that the weights come from; of the factory's module, if there is none."""
    if job.weights is not None and job.weights.is_file():
        return hash_file(job.weights)
    module = importlib.import_module(job.source.partition(":")[0])
    return hash_file(Path(module.__file__)) if module.__file__ else ""
