"""The oldest ONNX Runtime that a manifest claims, in an environment of its own: what is claimed was run there.

Rules:
    * The environment needs onnxruntime and NumPy, nothing of ours: `controller.lifecycle.gate.oldest_program` is run
      there by its path.
    * ``requires.ort`` is the version of that environment, major and minor. Without one the claim stays what the
      manifest's schema says, opset and IR are kept at what that version loads, and a note says that nothing ran there.
    * A graph must load there and give what the newest one gives: the golden output within the variant's tolerance,
      as on any device.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from controller.errors import ExportError
from controller.lifecycle.gate.diagnosis import Evidence, explained
from controller.lifecycle.graph import load_graph
from runtime.artifact import Artifact
from runtime.comparison import compare
from runtime.errors import ProviderError, UsageError
from runtime.inputs import feeds, image_input
from runtime.manifest import CustomOps, Manifest, Variant
from runtime.proving import load_golden

__all__ = ["OLDEST_VARIABLE", "OldestRuntime", "not_run", "prove_on_oldest"]

OLDEST_VARIABLE = "VEDETTE_OLDEST_ORT"
PROGRAM = Path(__file__).with_name("oldest_program.py")
TIMEOUT = 600.0  # seconds

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]  # by name


@dataclass(frozen=True, slots=True, kw_only=True)
class OldestRuntime:
    """An environment with an old ONNX Runtime.

    Attributes:
        python: Its interpreter.
        version: Of ONNX Runtime there.
    """

    python: Path
    version: str

    @classmethod
    def open(cls, python: Path) -> Self:
        """Look at the environment of the interpreter *python*.

        Raises:
            UsageError: It is no interpreter, or has no ONNX Runtime.
        """
        said, stderr = _call(python)
        if "version" not in said:
            raise UsageError(
                f"--oldest-ort {python} has no ONNX Runtime; expected an interpreter with onnxruntime and numpy: "
                f"{stderr[-200:]}"
            )
        return cls(python=python, version=said["version"])

    @property
    def claim(self) -> str:
        """What a manifest may require that passed here."""
        return f">={'.'.join(self.version.split('.')[:2])}"

    def run(self, graph: Path, given: Sequence[Arrays] = (), custom_ops: Sequence[CustomOps] = ()) -> list[Arrays]:
        """Load *graph* there and return its outputs by name for each of what it is *given*; nothing: it only loads.

        Args:
            graph: The ONNX file.
            given: For each run, its inputs by name.
            custom_ops: Libraries of operators that it needs.

        Raises:
            ExportError: It does not load, or does not run; the text says why and what mends it.
        """
        with tempfile.TemporaryDirectory(prefix="vedette-oldest-") as scratch:
            taken, out = Path(scratch) / "feeds.npz", Path(scratch) / "out.npz"
            flat = {f"{run}/{name}": array for run, inputs in enumerate(given) for name, array in inputs.items()}
            np.savez(taken, **flat)  # type: ignore[arg-type]  # its one other keyword has no slash
            libraries = [library.path for library in custom_ops]
            said, stderr = _call(self.python, str(graph.absolute()), str(taken), str(out), *libraries)
            if "version" not in said or "error" in said:
                what = said.get("error") or stderr or "it ended without a word"
                raise ExportError(
                    explained(
                        f"{graph.name} does not run on ONNX Runtime {self.version}, the oldest that it is to run on: "
                        f"{what[-400:]}",
                        Evidence(error=what, graph=load_graph(graph)),
                    )
                )
            with np.load(out, allow_pickle=False) as arrays:
                return [
                    {key.partition("/")[2]: arrays[key] for key in arrays.files if key.startswith(f"{run}/")}
                    for run in range(len(given))
                ]


def _call(python: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Run the program; return the last line of what it said, and what stands in its stderr."""
    try:
        done = subprocess.run(
            [str(python), "-I", str(PROGRAM), *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except OSError as error:
        raise UsageError(f"--oldest-ort {python}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ExportError(f"{python} did not end within {TIMEOUT:g} s") from None
    lines = done.stdout.strip().splitlines()
    stderr = " ".join(done.stderr.split())
    try:
        said = json.loads(lines[-1]) if lines else {}
    except json.JSONDecodeError:
        return {}, stderr
    return said, stderr


def not_run(manifest: Manifest) -> str:
    """Return the note on *manifest* if nothing of it was run on the version that it claims."""
    return (
        f"nothing was run on the oldest ONNX Runtime that the model claims ({manifest.requires.ort}); name an "
        f"interpreter that has it with --oldest-ort (or {OLDEST_VARIABLE})"
    )


def prove_on_oldest(directory: Path, manifest: Manifest, oldest: OldestRuntime) -> Manifest:
    """Run the golden input of every variant there; return *manifest* with the claim that this allows.

    Args:
        directory: Holds the files that *manifest* pins.
        manifest: Of the model.
        oldest: Where to.

    Raises:
        ExportError: A variant does not load there, or gives something else.
    """
    artifact = Artifact(root=directory, manifest=manifest, digest=manifest.digest)
    for variant in manifest.variants:
        _prove(artifact, variant, oldest)
    return manifest.model_copy(update={"requires": manifest.requires.model_copy(update={"ort": oldest.claim})})


def _prove(artifact: Artifact, variant: Variant, oldest: OldestRuntime) -> None:
    images, expected = load_golden(artifact, variant, [output.name for output in variant.outputs])
    given = feeds(variant.inputs, image_input(variant.inputs), images)
    (found,) = oldest.run(artifact.verified_path(variant), [given], artifact.manifest.custom_ops)
    try:
        compare(found, expected, variant.tolerance, artifact.manifest.postprocess)
    except ProviderError as error:
        raise ExportError(f"{variant.file} gives something else on ONNX Runtime {oldest.version}: {error}") from None
