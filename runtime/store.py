"""The read side of the artifact store: which models are published, and their files.

Layout, content addressed, on a directory or any object store that `obstore` knows:

    blobs/<sha256>                           every file of every artifact, once
    models/<name>/<version>/manifest.json    put if absent, last: its existence is the publication

Rules:
    * What was published never changes; so a pulled copy in the cache stays right. It is verified when
      it is used all the same, and pulled again if the disk lost it.
    * `pull` is atomic and durable: the directory is there whole and verified, or not at all.
    * What is not named like a model or a version is not one, whatever lies in the store.
    * The write side is `controller.registry.publish`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runtime.artifact import Artifact
from runtime.errors import ArtifactError, HomeError, ManifestError, ModelNotFoundError, StoreError, UsageError
from runtime.files import fsync_directory, make_directory, replace_bytes
from runtime.home import Home
from runtime.manifest import MANIFEST_FILE, MODEL_NAME, Manifest, PinnedFile
from runtime.objects import answer_of, open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ModelStore", "blob_path", "manifest_path", "parse_reference", "resolve_artifact"]

VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def blob_path(sha256: str) -> str:
    """Return where in the store the file of that digest is."""
    return f"blobs/{sha256}"


def manifest_path(name: str, version: int) -> str:
    """Return where in the store the manifest of ``name@version`` is."""
    return f"models/{name}/{version}/{MANIFEST_FILE}"


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Return (name, version) of ``NAME``, ``NAME@VERSION`` or ``NAME@latest``; ``None``: the latest.

    Raises:
        UsageError: It is none of these.
    """
    name, at, version = reference.partition("@")
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(f"{reference!r} names no model: expected NAME, NAME@VERSION or the path of an artifact")
    if not at or version == "latest":
        return name, None
    if not VERSION.fullmatch(version):
        raise UsageError(f"{reference!r}: version {version!r} is not a number above 0 or 'latest'")
    return name, int(version)


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Published models.

    Attributes:
        uri: Where the store is: a directory, or a URL.
        objects: The object store below.
    """

    uri: str
    objects: ObjectStore

    @classmethod
    def open(cls, uri: str | Path | None = None) -> Self:
        """Open the store at *uri*: a directory (made if absent) or an object store's URL; ``None``: the default one.

        Raises:
            HomeError: The directory cannot be made.
            UsageError: *uri* is a URL of no object store that `obstore` knows.
        """
        from obstore.store import LocalStore

        if uri is None:
            uri = Home.from_environment().store
        if isinstance(uri, str) and "://" in uri:
            return cls(uri, open_objects(uri))
        directory = Path(uri).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(f"artifact store {directory} cannot be made: {error.strerror}") from None
        return cls(str(directory), LocalStore(directory))

    def names(self) -> list[str]:
        """Return the names of all models of which a version is published, sorted."""
        return sorted({name for name, _ in self._published("models/")})

    def versions(self, name: str) -> list[int]:
        """Return the published versions of model *name*, ascending; none if it is unknown."""
        if not MODEL_NAME.fullmatch(name):
            return []
        return sorted(version for _, version in self._published(f"models/{name}/"))

    def latest(self, name: str) -> int:
        """Return the newest version of model *name*.

        Raises:
            ModelNotFoundError: No version of it is published.
        """
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none yet"
            raise ModelNotFoundError(f"no model {name!r} in {self.uri}; published are: {known}")
        return versions[-1]

    def manifest_bytes(self, name: str, version: int) -> bytes:
        """Return the manifest of ``name@version`` as it was published.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        try:
            return self._read(manifest_path(name, version))
        except FileNotFoundError:
            self.latest(name)
            known = ", ".join(map(str, self.versions(name)))
            raise ModelNotFoundError(f"model {name!r} has no version {version}; published are: {known}") from None

    def manifest(self, name: str, version: int) -> Manifest:
        """Return the parsed manifest of ``name@version``; raises as `manifest_bytes` does."""
        return Manifest.parse(self.manifest_bytes(name, version))

    def read_blob(self, sha256: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the file of that digest, or *length* bytes of it from *start*.

        Raises:
            ModelNotFoundError: There is no such file.
        """
        if length == 0:
            return b""
        path = blob_path(sha256)
        try:
            with self._explained():
                if length is not None:
                    return bytes(self.objects.get_range(path, start=start, length=length))
                return bytes(self.objects.get(path, options={"range": {"offset": start}} if start else None).bytes())
        except FileNotFoundError:
            raise ModelNotFoundError(f"no file {sha256} in {self.uri}") from None

    def pull(self, name: str, version: int, directory: Path, *, variants: Collection[str] | None = None) -> Artifact:
        """Copy ``name@version`` into *directory*, which must not exist yet; verified, all or nothing.

        Args:
            name: Of the model.
            version: Of the model.
            directory: To make.
            variants: Ids of the variants wanted; all if ``None``.

        Raises:
            ModelNotFoundError: There is no such model, version or variant.
            UsageError: *directory* exists.
            ArtifactError: A file in the store is not the one that the manifest pins.
            StoreError: The store cannot be read.
        """
        if directory.exists():
            raise UsageError(f"{directory} exists; pull writes a new directory")
        data = self.manifest_bytes(name, version)
        manifest = Manifest.parse(data)
        chosen = manifest.variants if variants is None else tuple(manifest.variant(v) for v in sorted(variants))
        make_directory(directory.parent)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-pull-", dir=directory.parent))
        try:
            for pinned in (*chosen, manifest.golden):
                self._copy_blob(pinned, temporary / pinned.file)
                pinned.verify(temporary)
            replace_bytes(temporary / MANIFEST_FILE, data)
            temporary.chmod(0o755)
            _rename_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Artifact.open(directory)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the store's own errors, except that something is not there, into a `StoreError`."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            raise StoreError(f"artifact store {self.uri} cannot be read: {answer_of(error)}") from None

    def _published(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (name, version) of every manifest below *prefix*."""
        with self._explained():
            paths = [meta["path"] for batch in self.objects.list(prefix) for meta in batch]
        for path in paths:
            match path.split("/"):
                case ["models", name, version, file] if file == MANIFEST_FILE and VERSION.fullmatch(version):
                    yield name, int(version)

    def _read(self, path: str) -> bytes:
        with self._explained():
            return bytes(self.objects.get(path).bytes())

    def _copy_blob(self, pinned: PinnedFile, target: Path) -> None:
        written = 0
        try:
            with self._explained(), target.open("wb") as file:
                for chunk in self.objects.get(blob_path(pinned.sha256)).stream():
                    written += file.write(chunk)
                    if written > pinned.size:  # no need to see the end of it
                        raise ArtifactError(
                            f"{pinned.file} in {self.uri} is longer than the pinned {pinned.size} bytes"
                        )
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise ModelNotFoundError(f"{target.name}: no file {pinned.sha256} in {self.uri}") from None


def _rename_directory(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise UsageError(f"{target} exists; pull writes a new directory") from None
        raise
    fsync_directory(target.parent)


def resolve_artifact(reference: str, store: ModelStore | None = None) -> Artifact:
    """Return the artifact that *reference* means, on this disk.

    Args:
        reference: ``NAME``, ``NAME@VERSION``, ``NAME@latest``, or the path of an artifact directory.
        store: Where published models are; the default store if ``None``.

    A directory counts as a path without a slash only if it holds a manifest: a folder that happens to
    be called like a model hides none.

    Raises:
        ModelNotFoundError: There is no such model, version or directory.
        UsageError: *reference* is no such thing.
        ArtifactError: A file is not the one that the manifest pins.
        StoreError: The store cannot be read.
    """
    if os.sep in reference or reference in {".", ".."} or (Path(reference) / MANIFEST_FILE).is_file():
        artifact = Artifact.open(Path(reference).absolute())
        artifact.verify()
        return artifact
    name, version = parse_reference(reference)
    store = store or ModelStore.open()
    version = store.latest(name) if version is None else version
    digest = hashlib.sha256(store.manifest_bytes(name, version)).hexdigest()
    cached = Home.from_environment().cache / "artifacts" / digest
    if not _is_sound(cached, digest):
        shutil.rmtree(cached, ignore_errors=True)
        with suppress(UsageError):  # another process was faster
            store.pull(name, version, cached)
    return Artifact.open(cached, digest=digest)


def _is_sound(directory: Path, digest: str) -> bool:
    """Whether *directory* holds the whole artifact of that digest, undamaged."""
    try:
        artifact = Artifact.open(directory, digest=digest)
        for pinned in artifact.manifest.files:
            pinned.verify(directory)
    except (ArtifactError, ManifestError, ModelNotFoundError):
        return False
    return True
