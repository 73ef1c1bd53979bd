"""Bring an artifact to the machine that a worker runs on.

Rules:
    * A worker that has the files already, or sees the driver's directory, is sent none. Once one has not, they travel
      through Ray's object store, which holds them in memory from then on.
    * On a node they lie in its cache under the manifest's digest; a copy is made once, atomically, by
      one worker at a time, and every file is verified before it is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.artifact import Artifact
from runtime.errors import VedetteError
from runtime.home import Home
from runtime.manifest import MANIFEST_FILE

__all__ = ["Package", "contents", "pack", "unpack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An artifact as a small value: which files it has, and where they may be.

    Attributes:
        root: Where it lies on the machine that packed it; of use where that directory is shared.
        digest: SHA-256 of the manifest file.
        files: Names of the files that were there, the manifest's too.
    """

    root: Path
    digest: str
    files: tuple[str, ...]


def pack(artifact: Artifact) -> Package:
    """Return the package of *artifact*, with all the files of it that are there."""
    names = (MANIFEST_FILE, *(pinned.file for pinned in artifact.manifest.files if artifact.has(pinned)))
    return Package(root=artifact.root.absolute(), digest=artifact.digest, files=names)


def contents(package: Package) -> dict[str, bytes]:
    """Return the files of *package* by name, on the machine that packed it."""
    return {name: (package.root / name).read_bytes() for name in package.files}


def unpack(package: Package, fetch: Callable[[], Mapping[str, bytes]], cache: Path | None = None) -> Artifact:
    """Return the artifact in *package*, on this machine's disk and verified.

    Args:
        package: Of `pack`.
        fetch: Returns what `contents` returned; called where the files are not at hand.
        cache: Where to keep it; this machine's home if ``None``.

    Raises:
        ArtifactError: A file is not the one that the manifest pins.
    """
    here = _open_whole(package.root, package)
    if here is not None:
        return here
    target = (cache or Home.from_environment().cache / "artifacts") / package.digest
    kept = _open_whole(target, package)
    if kept is not None:
        return kept
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(target.parent):
        return _open_whole(target, package) or _install(package, fetch(), target)  # another worker may have been faster


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait for the advisory lock of *directory*, and hold it; the kernel lets go of it when the process ends."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _install(package: Package, files: Mapping[str, bytes], target: Path) -> Artifact:
    """Write the *files* of *package* as the directory *target*, in place of one that is damaged or has fewer variants.

    Raises:
        ArtifactError: A file is not the one that the manifest pins.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    replaced = temporary.with_name(f"{temporary.name}-old")
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        _verify_present(Artifact.open(temporary, digest=package.digest))
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return Artifact.open(target, digest=package.digest)


def _open_whole(root: Path, package: Package) -> Artifact | None:
    """Return the artifact in *root* if it holds all that *package* does, undamaged."""
    try:
        artifact = Artifact.open(root, digest=package.digest)
        _verify_present(artifact)
    except (VedetteError, OSError):
        return None
    return artifact if all(os.path.lexists(root / name) for name in package.files) else None


def _verify_present(artifact: Artifact) -> None:
    for pinned in artifact.manifest.files:
        if artifact.has(pinned):
            pinned.verify(artifact.root)
