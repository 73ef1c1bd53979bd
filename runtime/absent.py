"""Keep libraries out of our own processes that are there by chance, and that others would load for nothing.

Rules:
    * Only what is optional for who would load it: it goes on without.
    * Only in processes that are ours from their beginning (a command, a worker), never in one that imports us.
    * What was loaded already stays, and what is asked for later is found as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

__all__ = ["absent"]


class _Refusal(MetaPathFinder):
    """Says of some modules that there are none such, before anybody looks for them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:  # noqa: ARG002 - the import system's signature
        if fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Let an import of the top-level modules *names* fail while inside, but for those that are loaded already."""
    refusal = _Refusal(names)
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)
