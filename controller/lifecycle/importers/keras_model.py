"""Opens a model of Keras: a ``.keras`` or ``.h5`` file, or what a factory made. Keras runs on torch.

Rules:
    * No code in a file is run: a class that Keras does not have, or a Lambda layer, is refused by name.
    * The graph takes what the model takes, channels last. torch's dynamo exporter is the one route, a Keras
      model being a torch module; Keras' own exporter adds inputs, or writes operators that nobody has.
    * A model computes in float32, whatever dtype policy its layers were trained under: what fp16 brings is measured by
      a variant of its own.
    * A model whose first layers rescale or normalize takes raw pixels, and says so; where those layers would not
      bring raw pixels anywhere near what a network computes with, nothing is said.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from controller.errors import ExportError
from controller.lifecycle.export import EXAMPLE_BATCH
from controller.lifecycle.importers.factory import origin_sha256
from controller.lifecycle.importers.source import Job, SourceFacts
from controller.lifecycle.importers.torch_module import ModuleSource
from controller.lifecycle.keras_backend import load_keras
from runtime.errors import UsageError
from runtime.files import hash_file

if TYPE_CHECKING:
    import keras

__all__ = ["ROUTE", "ChannelsLast", "hold", "open_built", "open_source", "put_weights"]

ROUTE = "dynamo"
FLOAT32 = "float32"
NORMALIZING = ("Rescaling", "Normalization")
TRANSPARENT = ("InputLayer", "Identity", "Resizing", "CenterCrop", "Dropout", "GaussianNoise")
"""Layers that may stand before or among those, and change nothing, or only the size; so may all ``Random...``."""
WHITE = 255  # the brightest raw pixel
PLAUSIBLE = 300  # largest value that white may become where raw pixels are meant: Caffe's means leave 152
MISSING = re.compile(r"Could not locate (class|function) '([^']+)'")
FACTORY = "a function of yours that makes the model, as MODULE:FACTORY --weights"


class ChannelsLast(nn.Module):
    """A Keras model in inference, as a torch module of one argument."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> Any:
        """Return what the model gives for *pixels* (n, height, width, channels)."""
        return self.model(pixels, training=False)


def open_source(job: Job) -> ModuleSource:
    """Open the file that *job* names.

    Raises:
        UsageError: An option does not fit the file.
        ExportError: It is no model, or needs code that Keras does not have.
    """
    path = Path(job.source)
    model = _load(path)
    facts = SourceFacts(
        framework=f"keras {_version(path) or load_keras().version()}",
        source_sha256=hash_file(path),
        routes=(ROUTE,),
        **_normalizes(model),
    )
    return hold(model, job, facts)


def open_built(model: keras.Model, job: Job) -> ModuleSource:
    """Open what a factory made.

    Raises:
        UsageError: Nothing says how large its pictures are.
        ExportError: The weights do not fit, or it does not run on such pictures.
    """
    said = _normalizes(model)
    if job.weights is None:
        left = f"the weights are those that {job.source} leaves in the model; --weights FILE gives others"
        said = {**said, "warnings": (*said["warnings"], left)}
    else:
        put_weights(model, job.weights)
    facts = SourceFacts(
        framework=f"keras {load_keras().version()}",
        source_sha256=origin_sha256(job),
        routes=(ROUTE,),
        **said,
    )
    return hold(model, job, facts)


def hold(model: keras.Model, job: Job, facts: SourceFacts) -> ModuleSource:
    """Return *model* as a source.

    Raises:
        UsageError: Nothing says how large its pictures are, or two say different things.
        ExportError: It takes something else than pictures, or does not run on them.
    """
    facts = replace(facts, warnings=(*facts.warnings, *_in_float32(model)))
    return ModuleSource(
        ChannelsLast(model), torch.zeros(EXAMPLE_BATCH, *_shape(model, job)), facts, _output_names(model)
    )


def _in_float32(model: keras.Model) -> tuple[str, ...]:
    """Have every layer of *model* compute in float32; return a note of the policies that some had instead."""
    policies = []
    for layer in model._flatten_layers():  # noqa: SLF001 - Keras has no other way to the layers inside of layers
        policy = layer.dtype_policy
        if policy.quantization_mode is None and policy.compute_dtype != FLOAT32:
            policies.append(policy.name)
            layer.dtype_policy = FLOAT32
    model.float()  # of a policy that is not mixed, the weights were not float32 either
    found = ", ".join(dict.fromkeys(policies))
    return (f"the dtype policy of its layers was {found}; they are imported as float32",) if found else ()


def _output_names(model: keras.Model) -> tuple[str, ...] | None:
    """Return the names of what *model* gives; ``None``: it has none, or gives a mapping, whose keys they are."""
    names = getattr(model, "output_names", None)
    mapped = isinstance(getattr(model, "output", None), Mapping)
    return None if names is None or mapped else tuple(names)


def _load(path: Path) -> keras.Model:
    keras = load_keras()
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ExportError(f"{path} is no .keras file: it is no zip archive")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 - reading a file of another version raises whatever the missing part would
        raise _refusal(path, " ".join(str(error).split())) from None
    if not isinstance(model, keras.Model):
        raise ExportError(f"{path} holds a {type(model).__name__}, expected a keras.Model")
    if not model.built:
        raise ExportError(f"{path} was saved before the model was built, without weights; call it once, then save it")
    return model


def _refusal(path: Path, reason: str) -> ExportError:
    if found := MISSING.search(reason):
        return ExportError(
            f"{path} needs the {found[1]} {found[2]!r}, which Keras does not have; import {FACTORY} {path}"
        )
    if "Lambda" in reason:
        return ExportError(f"{path} has a Lambda layer, whose code is not run; import {FACTORY} {path}")
    if "No model config" in reason:
        return ExportError(f"{path} holds weights without a model; import {FACTORY} {path}")
    return ExportError(f"Keras does not read {path}: {reason[:400]}")


def put_weights(model: keras.Model, path: Path) -> None:
    """Put the weights in the file at *path* into *model*.

    Raises:
        UsageError: There is no such file.
        ExportError: They do not fit.
    """
    if not path.is_file():
        raise UsageError(f"--weights {path} is no file")
    try:
        model.load_weights(path)
    except Exception as error:  # noqa: BLE001 - as in `_load`
        raise ExportError(f"{path} does not fit the model: {' '.join(str(error).split())[:400]}") from None


def _version(path: Path) -> str | None:
    """Return the version of Keras that wrote the file at *path*, if it tells."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    import h5py

    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version")
        return None if version is None else str(version)


def _shape(model: keras.Model, job: Job) -> tuple[int, int, int]:
    """Return (height, width, channels) of what *model* takes."""
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) > 1:
        raise ExportError(f"{job.source} takes {len(inputs)} inputs; expected pictures alone")
    shape = tuple(inputs[0].shape) if inputs else (None,) * 4
    if len(shape) != 4:
        raise ExportError(f"{job.source} takes {shape}; expected pictures, (n, height, width, channels)")
    asked = job.image_size or (None, None)
    height, width = (own or said for own, said in zip(shape[1:3], asked, strict=True))
    if height is None or width is None:
        raise UsageError(f"--image-size is needed for {job.source}, as in --image-size 224 or 224x320")
    if job.image_size not in {None, (height, width)}:
        raise UsageError(f"{job.source} takes pictures of {height}x{width}; leave --image-size out")
    return height, width, shape[3] or (1 if job.color == "L" else 3)


def _normalizes(model: keras.Model) -> dict[str, Any]:
    """Return what the first layers of *model* say of its pictures: ``preprocess`` and ``warnings`` of the facts."""
    first = list(_leading(model))
    if not first:
        return {"preprocess": None, "warnings": ()}
    channels = model.inputs[0].shape[-1] or 3
    brightest: Any = torch.full((1, 1, 1, channels), float(WHITE))
    for layer in first:
        brightest = layer(brightest)
    peak = float(brightest.detach().abs().max())
    names = ", ".join(layer.name for layer in first)
    if peak > PLAUSIBLE:
        doubt = (
            f"the model's first layers ({names}) would make {peak:g} of a white pixel: they were fitted to pixels "
            "that something else had scaled, by 1/255 perhaps (--preprocess unit)"
        )
        return {"preprocess": None, "warnings": (doubt,)}
    raw = {"color": "L" if channels == 1 else "RGB", "scale": 1.0, "mean": [0.0] * channels, "std": [1.0] * channels}
    note = f"the model normalizes its pictures itself ({names}): they are prepared as preset raw255 says"
    return {"preprocess": raw, "warnings": (note,)}


def _leading(model: keras.Model) -> Iterator[Any]:
    """Yield the normalizing layers through which pictures go before any other that changes their values."""
    for layer in _unfolded(model):
        kind = type(layer).__name__
        if kind in NORMALIZING:
            yield layer
        elif kind not in TRANSPARENT and not kind.startswith("Random"):
            return


def _unfolded(model: keras.Model) -> Iterator[Any]:
    """Yield the layers of *model* and of the models in it, in order; a model of its own code has none to tell."""
    for layer in getattr(model, "layers", ()) if getattr(model, "inputs", None) else ():
        if hasattr(layer, "layers"):
            yield from _unfolded(layer)
        else:
            yield layer
