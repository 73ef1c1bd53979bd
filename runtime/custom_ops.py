"""Libraries of operators that ONNX Runtime does not have.

Rules:
    * Loading one runs its code. Only a person (``--custom-ops``) or a manifest can name it, by an absolute path on
      this machine and the SHA-256 of its content; nothing searches for it and nothing of an artifact is loaded.
    * The digest is checked just before the library is handed to ONNX Runtime, on a regular file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import ModelError, UsageError
from runtime.files import hash_file
from runtime.manifest import CustomOps

__all__ = ["pinned", "register", "verify"]


def pinned(path: Path | None) -> tuple[CustomOps, ...]:
    """Return the library that a person named, by absolute path and SHA-256; nothing for ``None``.

    Raises:
        UsageError: There is no such file.
    """
    if path is None:
        return ()
    if not path.is_file():
        raise UsageError(f"--custom-ops {path} is no file; expected a shared library")
    absolute = path.absolute()
    return (CustomOps(path=str(absolute), sha256=hash_file(absolute)),)


def verify(library: CustomOps) -> Path:
    """Return the path of *library* after its content was checked.

    Raises:
        ModelError: It is absent, no regular file, or not the pinned one.
    """
    path = Path(library.path)
    if not path.is_file():
        raise ModelError(
            f"custom operator library {path} is not there; the manifest names it: install it at that path, "
            f"with SHA-256 {library.sha256}"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != library.sha256:
        raise ModelError(f"custom operator library {path} has SHA-256 {found}; the manifest pins {library.sha256}")
    return path


def register(options: Any, libraries: Sequence[CustomOps]) -> None:
    """Register *libraries* with *options* (`onnxruntime.SessionOptions`).

    Raises:
        ModelError: As `verify`, or ONNX Runtime cannot load one.
    """
    for library in libraries:
        path = verify(library)
        try:
            options.register_custom_ops_library(str(path))
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            text = " ".join(str(error).split())[:300]
            raise ModelError(f"custom operator library {path} cannot be loaded: {text}") from error
