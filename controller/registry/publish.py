"""Publishing: files first, then the card, the manifest last.

Rules:
    * A version is published when its manifest exists, and not before; a crash in between leaves
      files that nothing refers to.
    * The version is the latest plus one. Who loses the race for a number takes the next one.
    * What was published never changes: manifests and blobs are put if absent, never replaced.
    * The manifest is checked strictly, and every file against it, before anything is written; every
      blob that the manifest will refer to is read back before the manifest is put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from controller.errors import RegistryError
from controller.registry.cards import put_card
from runtime.manifest import Manifest, PinnedFile
from runtime.objects import put_if_absent
from runtime.store import ModelStore, blob_path, manifest_path

__all__ = ["publish"]

MOST_RACES = 100  # lost in a row; by then something else is wrong


def publish(
    store: ModelStore, directory: Path, draft: Manifest, card: Callable[[Manifest], bytes] | None = None
) -> Manifest:
    """Publish the artifact in *directory* as the next version of its model.

    Args:
        store: Where to.
        directory: Holds the files that *draft* pins.
        draft: What to publish; its version does not count.
        card: Makes the model card of the manifest as it will be published; ``None``: it gets none.

    Returns:
        The manifest as published.

    Raises:
        ManifestError: *draft* does not say what it must.
        ArtifactError: A file in *directory* is absent or not the one that *draft* pins.
        RegistryError: A file in the store is damaged.
        OSError: The disk is full, or the store cannot be written.
    """
    draft = Manifest.parse(draft.to_bytes(), strict=True)
    for pinned in draft.files:
        pinned.verify(directory)
    for pinned in draft.files:
        key = blob_path(pinned.sha256)
        put_if_absent(store.objects, key, directory / pinned.file)
        _check_blob(store, key, pinned)
    for _ in range(MOST_RACES):
        version = max(store.versions(draft.name), default=0) + 1
        manifest = Manifest.parse(draft.model_copy(update={"version": version}).to_bytes(), strict=True)
        if card is not None:
            put_card(store, manifest.digest, card(manifest))
        if put_if_absent(store.objects, manifest_path(draft.name, version), manifest.to_bytes()):
            return manifest
    raise RegistryError(f"{draft.name}: {MOST_RACES} versions in a row were taken by others while publishing")


def _check_blob(store: ModelStore, key: str, pinned: PinnedFile) -> None:
    """See that the blob at *key*, new or there before, holds what the manifest will pin."""
    digest = hashlib.sha256()
    for chunk in store.objects.get(key).stream():
        digest.update(chunk)
    if digest.hexdigest() != pinned.sha256:
        raise RegistryError(
            f"{store.uri}: {key} is damaged: its SHA-256 is {digest.hexdigest()}; "
            f"delete it and publish {pinned.file} again"
        )
