"""What figures are called, for people: in tables, on model cards, in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["PRIMARIES", "TITLES", "Title", "primary_of", "title_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """How a figure is shown.

    Attributes:
        name: In a table.
        what: In a sentence.
        form: Of `format`.
        less_is_better: Whether a smaller one is the better one.
    """

    name: str
    what: str
    form: str = ".2%"
    less_is_better: bool = False

    def show(self, value: float) -> str:
        """Return *value* as text; a dash for NaN."""
        return "-" if value != value else format(value, self.form)  # noqa: PLR0124 - NaN alone differs from itself


TITLES: Mapping[str, Title] = {
    "top1": Title(name="top-1", what="the best class is the right one"),
    "top5": Title(name="top-5", what="the right class is among the best five"),
    "macro_f1": Title(name="macro F1", what="mean over the classes of F1"),
    "macro_recall": Title(name="macro recall", what="mean over the classes of the share that is found"),
    "map50_95": Title(name="mAP 50-95", what="mean average precision at overlaps from 0.50 to 0.95", form=".4f"),
    "map50": Title(name="mAP 50", what="mean average precision at an overlap of 0.50", form=".4f"),
    "map75": Title(name="mAP 75", what="mean average precision at an overlap of 0.75", form=".4f"),
    "ar100": Title(name="AR 100", what="mean best recall with 100 answers an image", form=".4f"),
    "box_map50_95": Title(name="box mAP 50-95", what="as mAP 50-95, of boxes instead of masks", form=".4f"),
    "box_map50": Title(name="box mAP 50", what="as mAP 50, of boxes instead of masks", form=".4f"),
    "box_map75": Title(name="box mAP 75", what="as mAP 75, of boxes instead of masks", form=".4f"),
    "box_ar100": Title(name="box AR 100", what="as AR 100, of boxes instead of masks", form=".4f"),
    "miou": Title(name="mIoU", what="mean over the classes of intersection over union", form=".4f"),
    "pixel_accuracy": Title(name="pixel accuracy", what="share of pixels of the right class"),
    "mean_recall": Title(name="mean recall", what="mean over the classes of the share of pixels that is found"),
    "oks_ap": Title(name="OKS AP", what="average precision by keypoint similarity from 0.50 to 0.95", form=".4f"),
    "oks_ap50": Title(name="OKS AP 50", what="average precision at a keypoint similarity of 0.50", form=".4f"),
    "oks_ap75": Title(name="OKS AP 75", what="average precision at a keypoint similarity of 0.75", form=".4f"),
    "oks_ar": Title(name="OKS AR", what="mean best recall by keypoint similarity", form=".4f"),
    "max_f": Title(name="max F", what="F measure at the best threshold, beta squared 0.3", form=".4f"),
    "mae": Title(name="MAE", what="mean absolute error of the matte", form=".4f", less_is_better=True),
    "iou": Title(name="IoU", what="intersection over union at one half", form=".4f"),
    "recall1": Title(name="recall@1", what="the nearest other image is of the same class"),
    "agreement_fp32": Title(name="as fp32", what="share of the answers that are those of fp32"),
    "latency_ms": Title(name="ms, 1 thread", what="median of a batch of one on one thread", form=".3f"),
    "speedup_fp32": Title(name="times fp32", what="how many times as fast as fp32", form=".2f"),
    "parity_max_abs": Title(name="parity", what="largest absolute difference from the source", form=".3g"),
}
"""By name of the figure, the most important ones of a task first."""

PRIMARIES: Sequence[str] = ("top1", "map50_95", "miou", "oks_ap", "max_f", "recall1")
"""The figures that variants are compared by, one a kind of answer; more is better."""


def primary_of(metrics: Mapping[str, float]) -> str | None:
    """Return which of `PRIMARIES` is in *metrics*; ``None`` if accuracy was not measured."""
    return next((name for name in PRIMARIES if name in metrics), None)


def title_of(name: str) -> Title:
    """Return how the figure *name* is shown; by its name if nothing is known of it."""
    return TITLES.get(name, Title(name=name.replace("_", " "), what="", form=".4g"))
