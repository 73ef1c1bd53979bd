"""An artifact: a directory with a manifest and the files that it pins.

Rules:
    * Nothing of an artifact is used before its size and SHA-256 matched.
    * An artifact may hold some of its variants only (a device pulls the one it runs).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runtime.errors import ArtifactError, ModelNotFoundError
from runtime.manifest import MANIFEST_FILE, Manifest, PinnedFile

__all__ = ["Artifact"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published model on this disk.

    Attributes:
        root: The directory that holds the manifest and the files.
        manifest: What the manifest says.
        digest: SHA-256 of the manifest file's bytes, lowercase hex.
    """

    root: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, root: Path, *, digest: str | None = None) -> Self:
        """Open the artifact in directory *root*, without reading its big files yet.

        Args:
            root: Directory with a ``manifest.json``.
            digest: SHA-256 that the manifest file must have, if it is known.

        Raises:
            ModelNotFoundError: There is no manifest in *root*.
            ManifestError: The manifest is not valid.
            ArtifactError: The manifest's SHA-256 is not *digest*.
        """
        path = root / MANIFEST_FILE
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFoundError(f"no artifact in {root}: there is no {MANIFEST_FILE}") from None
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and found != digest:
            raise ArtifactError(f"{path} has SHA-256 {found}; expected {digest}")
        return cls(root=root, manifest=Manifest.parse(data), digest=found)

    def verified_path(self, pinned: PinnedFile) -> Path:
        """Return the path of *pinned* after its content was checked.

        Raises:
            ArtifactError: The file is absent or not the one that the manifest pins.
        """
        pinned.verify(self.root)
        return self.root / pinned.file

    def has(self, pinned: PinnedFile) -> bool:
        """Whether a file of *pinned*'s name is in the artifact (its content is not checked)."""
        return (self.root / pinned.file).is_file()

    def verify(self) -> None:
        """Check the golden file and every variant that is here.

        Raises:
            ArtifactError: A file is not the one that the manifest pins, or there is no golden file or
                no variant at all.
        """
        present = [variant for variant in self.manifest.variants if self.has(variant)]
        for pinned in (*(present or self.manifest.variants), self.manifest.golden):
            pinned.verify(self.root)
