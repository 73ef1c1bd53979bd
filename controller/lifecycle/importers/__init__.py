"""Importers: a table from what a source looks like to the module that reads it.

Rules:
    * An importer's module has ``open_source(job) -> Source`` (`controller.lifecycle.importers.source`) and is loaded
      in a child process only. ONNX needs no framework: its module has ``load(path, custom_ops) -> ImportedModel``
      and is loaded here.
    * The first row whose test says yes decides.
    * This package is imported by the child's interpreter, too: nothing heavy stands at its top.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.lifecycle.importers.base import ImportedModel
from controller.lifecycle.importers.source import Job
from runtime.errors import UsageError

if TYPE_CHECKING:
    from runtime.manifest import CustomOps

__all__ = ["IMPORTERS", "ImportedModel", "Importer", "load_source"]

PACKAGE = "controller.lifecycle.importers"
OPTIONS = {"weights": "--weights", "classes": "--classes", "image_size": "--image-size"}
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """One kind of source.

    Attributes:
        what: In words.
        recognizes: Whether a source, a path that is there or a text such as ``MODULE:FACTORY``, is of this kind.
        module: That reads it.
        takes: Fields of `Job` that apply to it, beside its source.
        needs: The extra that brings its framework; ``None``: whichever brings the module that is missing.
        hosted: Whether it is read in a child process.
        ours: Whether only our own interpreter can read it, whatever `--importer-python` says.
    """

    what: str
    recognizes: Callable[[str], bool]
    module: str
    takes: tuple[str, ...] = ()
    needs: str | None = None
    hosted: bool = True
    ours: bool = False


def _is_saved_model(source: str) -> bool:
    return (Path(source) / "saved_model.pb").is_file()


def _is_run(source: str) -> bool:
    return Path(source).is_dir() and not _is_saved_model(source)


def _ends_with(*suffixes: str) -> Callable[[str], bool]:
    return lambda source: Path(source).suffix.lower() in suffixes


def _is_factory(source: str) -> bool:
    return FACTORY.fullmatch(source) is not None and not Path(source).exists()


IMPORTERS: Sequence[Importer] = (
    Importer(what="a training run", recognizes=_is_run, module=f"{PACKAGE}.run", needs="train", ours=True),
    Importer(what="an .onnx file", recognizes=_ends_with(".onnx"), module=f"{PACKAGE}.onnx_file", hosted=False),
    Importer(
        what="an estimator of scikit-learn (.joblib, .pkl)",
        recognizes=_ends_with(".joblib", ".pkl", ".pickle"),
        module=f"{PACKAGE}.sklearn_model",
        needs="sklearn",
    ),
    Importer(
        what="MODULE:FACTORY",
        recognizes=_is_factory,
        module=f"{PACKAGE}.factory",
        takes=("weights", "classes", "image_size"),
    ),
    Importer(
        what="a .pt2 file of torch.export",
        recognizes=_ends_with(".pt2"),
        module=f"{PACKAGE}.torch_program",
        needs="train",
    ),
    Importer(
        what="a TorchScript file (.pt, .ts, .torchscript)",
        recognizes=_ends_with(".pt", ".pth", ".ts", ".torchscript"),
        module=f"{PACKAGE}.torch_script",
        takes=("image_size",),
        needs="train",
    ),
    Importer(what="a SavedModel of TensorFlow", recognizes=_is_saved_model, module=f"{PACKAGE}.saved_model"),
    Importer(
        what="a Keras model (.keras, .h5)",
        recognizes=_ends_with(".keras", ".h5", ".hdf5"),
        module=f"{PACKAGE}.keras_model",
        takes=("image_size",),
        needs="keras",
    ),
)


def load_source(
    source: str, custom_ops: Sequence[CustomOps] = (), job: Job | None = None, python: Path | None = None
) -> ImportedModel:
    """Open the model that *source* names; the caller closes it.

    Args:
        source: A path, or ``MODULE:FACTORY``.
        custom_ops: Libraries of operators that it uses, for an ONNX file.
        job: How it is opened, if there is more to say than *source*.
        python: Interpreter for the framework; ``None``: as the environment says, or ours.

    Raises:
        UsageError: There is nothing, or nothing that an importer knows, or an option does not apply.
        VedetteError: The importer cannot read it; the text says why.
    """
    if not Path(source).exists() and not _is_factory(source):
        raise UsageError(f"model source {source!r} does not exist")
    for importer in IMPORTERS:
        if importer.recognizes(source):
            return _load(importer, job or Job(source=source), custom_ops, python)
    raise UsageError(f"model source {source!r} is none of: {', '.join(importer.what for importer in IMPORTERS)}")


def _load(importer: Importer, job: Job, custom_ops: Sequence[CustomOps], python: Path | None) -> ImportedModel:
    surplus = [
        option for name, option in OPTIONS.items() if getattr(job, name) is not None and name not in importer.takes
    ]
    if surplus:
        raise UsageError(f"{job.source} is {importer.what}, which knows itself; leave {', '.join(surplus)} out")
    if python is not None and (importer.ours or not importer.hosted):
        raise UsageError(
            f"{job.source} is {importer.what}, which needs no other interpreter; leave --importer-python out"
        )
    if not importer.hosted:
        model: ImportedModel = importlib.import_module(importer.module).load(Path(job.source), custom_ops)
        return model
    if custom_ops:
        raise UsageError(
            f"{job.source} is {importer.what}, which needs no operators of its own; leave --custom-ops out"
        )
    from controller.lifecycle.importers.hosted import load_hosted

    return load_hosted(importer, replace(job, image_size=job.image_size or job.prepared_size), python)
