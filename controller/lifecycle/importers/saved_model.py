"""Opens a SavedModel of TensorFlow, in an interpreter that has TensorFlow and tf2onnx.

Rules:
    * What is converted is one signature: ``serving_default``, or the only one there is.
    * tf2onnx is run by its command line: its Python interface fails with TensorFlow of today where that works.
    * The answers to compare with are TensorFlow's own, from the same signature.
    * The input stays as it is, channels last; a picture of any size stays one of any size.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from controller.errors import ExportError
from controller.lifecycle.importers.source import Array, Job, SourceFacts
from runtime.errors import UsageError

__all__ = ["ROUTE", "SavedModel", "open_source"]

ROUTE = "tf2onnx"
OPSET = 18  # the newest that tf2onnx writes
SIGNATURE = "serving_default"
CONVERTER = "tf2onnx"
QUIET: Mapping[str, str] = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
"""Errors alone are logged, and operations add in the order in which they are written."""
UNSUPPORTED = re.compile(r"Tensorflow op \[[^\]]*: (\w+)\] is not supported")
"""What tf2onnx logs, and then writes TensorFlow's operator into the graph."""
LAST = 400  # characters of what the converter said last


def open_source(job: Job) -> SavedModel:
    """Open the directory that *job* names.

    Raises:
        ModuleNotFoundError: TensorFlow or tf2onnx is not there.
        UsageError: It has several signatures and none is the usual one, or it takes more than pictures.
        ExportError: TensorFlow does not read it.
    """
    os.environ.update(QUIET)
    import tensorflow as tf

    if importlib.util.find_spec(CONVERTER) is None:
        raise ModuleNotFoundError(f"No module named {CONVERTER!r}", name=CONVERTER)
    directory = Path(job.source)
    try:
        loaded = tf.saved_model.load(str(directory))
    except Exception as error:  # noqa: BLE001 - TensorFlow raises whatever is missing for it
        raise ExportError(
            f"TensorFlow {tf.__version__} does not read {directory}: {' '.join(str(error).split())[:LAST]}"
        ) from None
    return SavedModel(directory, loaded, _signature(directory, list(loaded.signatures)))


def _signature(directory: Path, names: list[str]) -> str:
    if SIGNATURE in names:
        return SIGNATURE
    if len(names) != 1:
        found = ", ".join(map(repr, names)) or "none"
        raise UsageError(f"{directory} has the signatures {found}; expected {SIGNATURE!r}, or one alone")
    return names[0]


class SavedModel:
    """One signature of a SavedModel.

    Args:
        directory: Where it lies.
        loaded: What `tensorflow.saved_model.load` made of it; it keeps the weights alive.
        signature: Name of the signature.

    Raises:
        UsageError: The signature takes anything else than one tensor of pictures.
    """

    def __init__(self, directory: Path, loaded: Any, signature: str) -> None:
        self._directory, self._loaded, self._signature = directory, loaded, signature
        self._function = loaded.signatures[signature]
        inputs = self._function.structured_input_signature[1]
        if [spec.shape.rank for spec in inputs.values()] != [4]:
            found = ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in inputs.items())
            raise UsageError(
                f"signature {signature!r} of {directory} takes {found or 'nothing'}; expected one tensor of pictures, "
                "(n, height, width, channels)"
            )
        self._input = next(iter(inputs))
        self._outputs = tuple(sorted(self._function.structured_outputs))
        self.facts = SourceFacts(
            framework=f"tensorflow {loaded.tensorflow_version}",
            source_sha256=_sha256(directory),
            routes=(ROUTE,),
            warnings=(f"of its signatures, {signature!r} is imported",) if len(loaded.signatures) > 1 else (),
        )

    def convert(self, route: str) -> onnx.ModelProto:
        """Return it as ONNX.

        Args:
            route: `ROUTE`, the only one.

        Raises:
            ExportError: tf2onnx cannot convert it; the text is what it said last.
        """
        with tempfile.TemporaryDirectory(prefix="vedette-tf2onnx-") as scratch:
            out = Path(scratch) / "graph.onnx"
            where = ["--saved-model", str(self._directory), "--signature_def", self._signature]
            command = [
                sys.executable,
                "-m",
                f"{CONVERTER}.convert",
                *where,
                "--opset",
                str(OPSET),
                "--output",
                str(out),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not out.is_file():
                said = " ".join(done.stderr.split())[-LAST:]
                raise ExportError(f"{route} cannot convert {self._directory}; the last it said: {said}")
            if unsupported := sorted(set(UNSUPPORTED.findall(done.stderr))):
                raise ExportError(
                    f"{route} cannot convert {self._directory}: ONNX has nothing for TensorFlow's operators "
                    f"{', '.join(unsupported)}"
                )
            return self._ordered(onnx.load(out))

    def _ordered(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return *model* with its outputs in the order of `run`."""
        found = {value.name: value for value in model.graph.output}
        if set(found) != set(self._outputs):
            raise ExportError(
                f"tf2onnx made the outputs {', '.join(found)} of {self._directory}; expected {', '.join(self._outputs)}"
            )
        del model.graph.output[:]
        model.graph.output.extend(found[name] for name in self._outputs)
        return model

    def run(self, batch: Array) -> list[Array]:
        """Return what TensorFlow gives for *batch*."""
        import tensorflow as tf

        try:
            given = self._function(**{self._input: tf.constant(batch)})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:LAST]
            raise ExportError(f"{self._directory} does not run a batch of shape {batch.shape}: {reason}") from None
        return [given[name].numpy() for name in self._outputs]

    def values(self, batch: Array) -> Mapping[str, Array]:
        """Return what the operations of the frozen signature give for *batch*: tf2onnx keeps their names.

        Pictures are channels last there; in the graph, values of the same name may be channels first.
        """
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        frozen = convert_variables_to_constants_v2(self._function)
        shown = _leading_from(frozen)
        given = frozen.prune(frozen.inputs, shown)(tf.constant(batch))
        inside = {tensor.name: array.numpy() for tensor, array in zip(shown, given, strict=True)}
        return inside | dict(zip(self._outputs, self.run(batch), strict=True))


def _leading_from(function: Any) -> list[Any]:
    """Return the floating point tensors of a frozen *function* that its input leads to."""
    reached = {tensor.name for tensor in function.inputs}
    shown = []
    for operation in function.graph.get_operations():  # in the order in which they were put in
        if reached.isdisjoint(tensor.name for tensor in operation.inputs):
            continue
        reached.update(tensor.name for tensor in operation.outputs)
        shown += [tensor for tensor in operation.outputs if tensor.dtype.is_floating]
    return shown


def _sha256(directory: Path) -> str:
    """Return the SHA-256 of the lines ``digest  path`` of all files, in the order of their paths."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{digest}  {path.relative_to(directory).as_posix()}\n".encode())
    return total.hexdigest()
