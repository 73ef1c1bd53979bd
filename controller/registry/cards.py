"""Model cards in the store: one HTML file a version, by the digest of its manifest.

    cards/<manifest sha256>.html     put if absent, before the manifest

Rules:
    * A card is put before the manifest that it is about, so that a published version has its card from the first moment
      on. Who loses the race for a number leaves a card of a manifest that never was; nothing refers to it.
    * It is no part of the artifact: no device downloads it, and no digest pins it. Nothing is decided by it.
"""

from __future__ import annotations

from runtime.objects import put_if_absent
from runtime.store import ModelStore

__all__ = ["card_path", "put_card", "read_card"]


def card_path(digest: str) -> str:
    """Return where in the store the card of the version is whose manifest has that digest."""
    return f"cards/{digest}.html"


def put_card(store: ModelStore, digest: str, card: bytes) -> None:
    """Put the *card* of the version whose manifest has that digest, unless it has one."""
    put_if_absent(store.objects, card_path(digest), card)


def read_card(store: ModelStore, digest: str) -> bytes | None:
    """Return the card of the version whose manifest has that digest; ``None``: it was published without."""
    try:
        return bytes(store.objects.get(card_path(digest)).bytes())
    except FileNotFoundError:
        return None
