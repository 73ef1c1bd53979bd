"""What a training run is: its configuration, and the record that it leaves.

A run directory holds:

    run.json          this record: all that export and provenance need
    best.pt           weights of the best epoch (by held-out accuracy, then loss); torch calls them so,
                      `frameworks` says how the others do
    last.pt           everything that the next epoch depends on, for `--resume`
    metrics.jsonl     one object per epoch
    curves.png        loss and accuracy by epoch

Rules:
    * `run.json` is strict: an unknown key is an error, since nothing but this code writes it.
    * Two runs of equal `TrainingConfig`, data and machine give equal weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from controller.errors import TrainingError
from runtime.errors import UsageError
from runtime.files import replace_bytes
from runtime.manifest import Preprocess, describe_validation

__all__ = [
    "CURVES_FILE",
    "METRICS_FILE",
    "RUN_FILE",
    "BestEpoch",
    "DataRecord",
    "PruningRecord",
    "RunRecord",
    "TrainingConfig",
]

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What was asked of a training run."""

    data: str  # URI of the dataset
    arch: str
    epochs: int
    out: Path
    framework: str = "torch"  # a key of `controller.lifecycle.training.frameworks.FRAMEWORKS`
    image_size: int | None = None  # pixels, height and width; None: chosen by the data
    batch_size: int = 64
    learning_rate: float = 2e-3  # at the start; it falls to 0 along a cosine
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    seed: int = 0
    validation: str | None = None  # URI of the held-out data; None: see `controller.lifecycle.heldout`
    image_column: str | None = None  # of Parquet; None: found out
    label_column: str | None = None  # likewise
    weights: str | None = None  # file to begin with; None: as the architecture makes them
    augment: str = "auto"  # as `controller.lifecycle.training.augment.choose` takes it

    def __post_init__(self) -> None:
        lowest = {"epochs": 1, "batch_size": 2, "image_size": 4, "seed": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name.replace('_', ' ')} is {value}; the least is {least}")
        if not self.learning_rate > 0:
            raise UsageError(f"learning rate is {self.learning_rate}; it must be above 0")

    def described(self) -> dict[str, Any]:
        """Return everything but the place of the run, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "out"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecord(_Strict):
    """One dataset of a run."""

    uri: str
    fingerprint: str
    rows: int  # used
    skipped: dict[str, int] = {}  # unusable images, by reason code


class BestEpoch(_Strict):
    """The epoch whose weights are kept, counted from 1."""

    epoch: int
    accuracy: float  # on the held-out data
    loss: float


class PruningRecord(_Strict):
    """How a run's model was made smaller than its architecture, before it was trained on."""

    parent_sha256: str  # of the weights that were pruned
    method: Literal["structured", "unstructured"]
    ratio: float  # share that was asked to go
    importance: str  # a key of `controller.lifecycle.training.pruning.IMPORTANCE`
    steps: int
    round_to: int  # what the channels left are a multiple of
    widths: dict[str, dict[str, int | tuple[int, ...]]] = {}  # see `controller.lifecycle.training.widths`


class RunRecord(_Strict):
    """What a run was, and how far it came."""

    run_schema: Literal[1] = 1
    trainer: str = "torch"  # a key of `controller.lifecycle.training.frameworks.FRAMEWORKS`
    arch: str
    labels: tuple[str, ...]
    image_size: int  # pixels, height and width
    preprocess: Preprocess
    train: DataRecord
    held_out: DataRecord
    augmentation: tuple[str, ...]
    config: dict[str, Any]
    epochs_done: int
    best: BestEpoch | None
    best_sha256: str | None  # of the file of the best weights
    device: str
    framework: str
    git: str | None
    created: datetime
    pruning: PruningRecord | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs that were asked for are done."""
        return self.epochs_done >= int(self.config["epochs"])

    def save(self, directory: Path) -> None:
        """Write the record into run directory *directory*, atomically."""
        replace_bytes(directory / RUN_FILE, self.model_dump_json(indent=1).encode() + b"\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record of the run in *directory*.

        Raises:
            TrainingError: There is none, or it is not valid.
        """
        path = directory / RUN_FILE
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise TrainingError(
                f"{directory} is no training run: there is no {RUN_FILE}; `vedette train` makes one"
            ) from None
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise TrainingError(f"{path} is not valid: {describe_validation(error)}") from None
