"""Opens a TorchScript file; torch calls the format deprecated, and has one exporter left for it.

Rules:
    * The module is in eval mode; what was traced in training mode is refused, since the mode is fixed in its graph.
    * What it gives in a tuple or a mapping is flattened by tracing: a script cannot be called while another module is
      exported.
    * A file of ``torch.save`` is none: the refusal says how its weights are imported.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from controller.errors import ExportError
from controller.lifecycle.importers.source import Job, SourceFacts
from controller.lifecycle.importers.torch_modes import MODE, check_eval_mode, is_training
from controller.lifecycle.importers.torch_module import (
    Flat,
    ModuleSource,
    called,
    example_of,
    framework,
    named_tensors,
)
from runtime.errors import UsageError
from runtime.files import hash_file

__all__ = ["open_source"]

OBSOLETE = "TorchScript is deprecated by torch; a .pt2 file of torch.export.save takes its place"


def open_source(job: Job) -> ModuleSource:
    """Open the module in the file that *job* names.

    Raises:
        UsageError: Nothing says how large its pictures are, or it holds weights alone.
        ExportError: It is damaged, was traced in training mode, or does not run on such pictures.
    """
    path = Path(job.source)
    module = _load(path)
    if job.image_size is None:
        raise UsageError(f"--image-size is needed for {path}, as in --image-size 224 or 224x320")
    module.eval()
    check_eval_mode(str(path), _training(module), "torch.jit.trace")
    facts = SourceFacts(
        framework=framework(), source_sha256=hash_file(path), routes=("torchscript",), warnings=(OBSOLETE,)
    )
    example = example_of(job.color, job.image_size)
    given = called(module, example)
    if isinstance(given, torch.Tensor):
        return ModuleSource(module, example, facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = torch.jit.trace(Flat(module).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return ModuleSource(flat, example, facts, outputs=[name for name, _ in named_tensors(given)])


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # `OBSOLETE` says it
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own
    except Exception as error:  # the reader raises whatever a damaged or foreign file leads it to
        if _is_pickle(path):
            raise UsageError(
                f"{path} holds weights or a pickled model, which says nothing of how they compute; give the function "
                f"that makes the model, and its weights: MODULE:FACTORY --weights {path}"
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"{path} is no TorchScript that torch {torch.__version__} reads: {reason}") from error


def _is_pickle(path: Path) -> bool:
    """Whether `torch.save` wrote *path*: a ZIP archive of one pickle and its tensors, or, before 1.6, pickles."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(2) == b"\x80\x02"
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _training(module: Any) -> Iterator[str]:
    """Yield the operators of *module* that are fixed in training mode."""
    graph = module.inlined_graph  # its nodes live as long as it does
    for name in MODE:
        for node in graph.findAllNodes(f"aten::{name}"):
            if is_training(name, [value.toIValue() for value in node.inputs()]):
                yield name
