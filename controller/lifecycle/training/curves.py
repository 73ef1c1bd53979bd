"""The learning curves of a run, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.files import replace_bytes

__all__ = ["draw_curves"]


def draw_curves(history: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """Draw loss and held-out accuracy by epoch into the PNG *path*, atomically.

    Args:
        history: One mapping per epoch with ``epoch``, ``train_loss``, ``loss`` and ``accuracy``.
        title: Above the picture.
        path: Where to.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    losses.plot(epochs, [row["train_loss"] for row in history], marker=marker, label="training")
    losses.plot(epochs, [row["loss"] for row in history], marker=marker, label="held out")
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend()
    accuracies.plot(epochs, [100 * row["accuracy"] for row in history], marker=marker, color="tab:green")
    accuracies.set(xlabel="epoch", ylabel="held-out accuracy, %")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    replace_bytes(path, buffer.getvalue())
