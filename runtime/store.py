"""The read side of the artifact store: which models are published, and their files.

Layout, content addressed, on a directory or any object store that `obstore` knows:

    blobs/<sha256>                           every file of every artifact, once
    models/<name>/<version>/manifest.json    put if absent, last: its existence is the publication

Rules:
    * What was published never changes; so a pulled copy in the cache stays right.
    * `pull` is atomic: the directory is there whole and verified, or not at all.
    * The write side is `controller.registry.publish`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runtime.artifact import Artifact
from runtime.errors import HomeError, ModelNotFoundError, UsageError
from runtime.home import Home
from runtime.manifest import MANIFEST_FILE, MODEL_NAME, Manifest

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ModelStore", "blob_path", "manifest_path", "parse_reference", "resolve_artifact"]


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
    if not version.isdecimal() or int(version) < 1:
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
        """
        from obstore.store import LocalStore, from_url

        if uri is None:
            uri = Home.from_environment().store
        if isinstance(uri, str) and "://" in uri:
            return cls(uri, from_url(uri))
        directory = Path(uri).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(f"artifact store {directory} cannot be made: {error.strerror}") from None
        return cls(str(directory), LocalStore(directory))

    def names(self) -> list[str]:
        """Return the names of all published models, sorted."""
        listing = self.objects.list_with_delimiter("models/")
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"])

    def versions(self, name: str) -> list[int]:
        """Return the published versions of model *name*, ascending; none if it is unknown."""
        found = [meta["path"].split("/") for batch in self.objects.list(f"models/{name}/") for meta in batch]
        return sorted(int(parts[2]) for parts in found if len(parts) == 4 and parts[3] == MANIFEST_FILE)

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
        path = blob_path(sha256)
        try:
            if length is None:
                return self._read(path)[start:]
            return bytes(self.objects.get_range(path, start=start, length=length))
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
            ModelNotFoundError: There is no such model or version.
            UsageError: *directory* exists.
            ArtifactError: A file in the store is not the one that the manifest pins.
        """
        if directory.exists():
            raise UsageError(f"{directory} exists; pull writes a new directory")
        data = self.manifest_bytes(name, version)
        manifest = Manifest.parse(data)
        chosen = manifest.variants if variants is None else tuple(manifest.variant(v) for v in sorted(variants))
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-pull-", dir=directory.parent))
        try:
            (temporary / MANIFEST_FILE).write_bytes(data)
            for pinned in (*chosen, manifest.golden):
                self._copy_blob(pinned.sha256, temporary / pinned.file)
                pinned.verify(temporary)
            temporary.chmod(0o755)
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Artifact.open(directory)

    def _read(self, path: str) -> bytes:
        return bytes(self.objects.get(path).bytes())

    def _copy_blob(self, sha256: str, target: Path) -> None:
        try:
            content = self.objects.get(blob_path(sha256))
        except FileNotFoundError:
            raise ModelNotFoundError(f"{target.name}: no file {sha256} in {self.uri}") from None
        with target.open("wb") as file:
            for chunk in content.stream():
                file.write(chunk)


def resolve_artifact(reference: str, store: ModelStore | None = None) -> Artifact:
    """Return the artifact that *reference* means, on this disk.

    Args:
        reference: ``NAME``, ``NAME@VERSION``, ``NAME@latest``, or the path of an artifact directory.
        store: Where published models are; the default store if ``None``.

    Raises:
        ModelNotFoundError: There is no such model, version or directory.
        UsageError: *reference* is no such thing.
        ArtifactError: A file is not the one that the manifest pins.
    """
    if os.sep in reference or reference in {".", ".."} or Path(reference).is_dir():
        artifact = Artifact.open(Path(reference).absolute())
        artifact.verify()
        return artifact
    name, version = parse_reference(reference)
    store = store or ModelStore.open()
    version = store.latest(name) if version is None else version
    digest = hashlib.sha256(store.manifest_bytes(name, version)).hexdigest()
    cached = Home.from_environment().cache / "artifacts" / digest
    if not cached.exists():
        try:
            return store.pull(name, version, cached)
        except (OSError, UsageError):
            if not cached.exists():  # otherwise another process was faster
                raise
    return Artifact.open(cached, digest=digest)
