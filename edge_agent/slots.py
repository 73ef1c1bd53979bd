"""Two slots for models, ``a`` and ``b``, and the link ``active`` that names the one to serve.

    slots/
    ├── active -> a
    ├── trial.json            only between switch and commit: which slot was left, which is on trial
    ├── a/  manifest.json  model.int8.onnx  golden.npz  slot.json
    └── b/  ...

Rules:
    * ``slot.json`` exists only in a slot whose model was proven; it is what makes a slot servable.
    * A switch opens a trial *before* it moves the link; `commit` ends the trial for good,
      `roll_back` undoes it. Both, and `recover`, may be repeated after a crash at any point.
    * An open trial at start means that the agent died before it could judge: the old slot serves on.
    * The slot that serves is never written to.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from runtime.files import fsync_directory, replace_bytes, replace_symlink
from runtime.protocol.messages import ModelState

__all__ = ["Slot", "Slots"]

_NAMES: Final = ("a", "b")
_RECORD: Final = "slot.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A slot with a proven model in it."""

    path: Path
    model: ModelState

    @property
    def name(self) -> str:
        """``a`` or ``b``."""
        return self.path.name


class Slots:
    """The slots below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._link = root / "active"
        self._trial = root / "trial.json"
        root.mkdir(parents=True, exist_ok=True)

    @property
    def active(self) -> Slot | None:
        """The slot to serve, or None while there was no model yet."""
        name = self._active_name()
        return self._read(name) if name else None

    @property
    def standby(self) -> Slot | None:
        """The other slot, if it holds a proven model; never one that is on trial."""
        return None if self.on_trial else self._read(self._free_name())

    @property
    def on_trial(self) -> bool:
        """Whether a switch has been neither committed nor rolled back."""
        return self._trial.exists()

    def prepare(self) -> Path:
        """Empty the slot that does not serve and return its directory.

        Raises:
            RuntimeError: A trial is open; it must be decided first.
        """
        self._refuse_trial()
        path = self._root / self._free_name()
        if path.exists():
            self._remove_record(path)  # first: a half-emptied slot must not look servable
            shutil.rmtree(path)
        path.mkdir()
        fsync_directory(self._root)
        return path

    def switch(self, model: ModelState) -> Slot:
        """Open a trial of *model* in the prepared slot and point the link at it.

        Raises:
            RuntimeError: A trial is open already.
        """
        self._refuse_trial()
        following = self._free_name()
        trial = {"left": self._active_name(), "trial": following}
        replace_bytes(self._trial, json.dumps(trial).encode())
        replace_bytes(self._root / following / _RECORD, model.to_bytes())
        replace_symlink(self._link, following)
        return Slot(path=self._root / following, model=model)

    def commit(self) -> None:
        """End the trial: the slot on trial stays the active one."""
        self._trial.unlink(missing_ok=True)
        fsync_directory(self._root)

    def roll_back(self) -> None:
        """Undo the trial: the slot that was left is the active one again. Nothing to do without a trial."""
        trial = self._read_trial()
        if trial is None:
            return
        left, tried = trial
        if left is None:
            self._link.unlink(missing_ok=True)
            fsync_directory(self._root)
        else:
            replace_symlink(self._link, left)
        self._remove_record(self._root / tried)
        self.commit()

    def recover(self) -> bool:
        """At start: decide a trial that the last agent left open. Returns whether there was one."""
        if not self.on_trial:
            return False
        self.roll_back()
        return True

    def _refuse_trial(self) -> None:
        if self.on_trial:
            raise RuntimeError(f"a trial is open ({self._trial}); commit it or roll it back first")

    def _active_name(self) -> str | None:
        if not self._link.is_symlink():
            return None
        name = str(self._link.readlink())
        return name if name in _NAMES else None

    def _free_name(self) -> str:
        return next(name for name in _NAMES if name != self._active_name())

    def _read(self, name: str) -> Slot | None:
        path = self._root / name
        try:
            return Slot(path=path, model=ModelState.model_validate_json((path / _RECORD).read_bytes()))
        except (FileNotFoundError, ValidationError):
            return None

    def _read_trial(self) -> tuple[str | None, str] | None:
        try:
            trial = json.loads(self._trial.read_bytes())
        except FileNotFoundError:
            return None
        return trial["left"], trial["trial"]

    def _remove_record(self, path: Path) -> None:
        (path / _RECORD).unlink(missing_ok=True)
        if path.exists():
            fsync_directory(path)
