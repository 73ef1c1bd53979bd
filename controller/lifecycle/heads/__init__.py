"""Which head a model has: recognized from its outputs, one run of it, and what the file says of itself.

Rules:
    * Pure: `recognize` sees `Evidence` and runs nothing.
    * Every head of the task is tried by its rule; the surest fit wins. Where two are equally sure, or none
      fits, the import is refused, and the text says what was found, what was expected, and how to go on.
    * A head that a person names is tried alone, and refused if it does not fit.
    * A file's own class names yield to what the graph gives, with a note; names that a person gives do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controller.lifecycle.heads import boxes, pixels, yolo
from controller.lifecycle.heads.base import Certainty, Evidence, Fit, Rule, Seen
from controller.lifecycle.heads.metadata import Facts, parse_metadata
from runtime.errors import UsageError
from runtime.manifest import Postprocess, Task
from runtime.tasks import HEADS

__all__ = ["RULES", "Certainty", "Evidence", "Facts", "Fit", "Recognized", "Seen", "parse_metadata", "recognize"]

RULES: Mapping[str, Rule] = {**yolo.RULES, **boxes.RULES, **pixels.RULES}
"""By head; as many as there are heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognized:
    """What a model was recognized as.

    Attributes:
        postprocess: For the manifest, thresholds as by default.
        classes: How many, ``None`` if nothing says.
        said: One line: which head, from which outputs, by what.
        notes: What was assumed or left out.
    """

    postprocess: Postprocess
    classes: int | None
    said: str
    notes: tuple[str, ...] = ()


def recognize(evidence: Evidence, task: Task, *, head: str | None = None, names_given: bool = False) -> Recognized:
    """Return what the *evidence* says.

    Args:
        evidence: Of one run.
        task: What the model does.
        head: The head that a person named.
        names_given: Whether `Evidence.classes` comes from a person, not from the file.

    Raises:
        UsageError: No head fits, several fit alike, or *head* does not.
    """
    fits = _fits(evidence, task, head)
    notes: tuple[str, ...] = ()
    if not fits and evidence.classes is not None:
        others = _fits(replace(evidence, classes=None, facts=replace(evidence.facts, labels=None)), task, head)
        if others and names_given:
            raise UsageError(
                f"--labels names {evidence.classes} classes; the outputs fit " + _described(others, " or ")
            )
        if others:
            notes = (f"the file names {evidence.classes} classes, which its outputs do not have: they are left out",)
        fits = others
    if not fits:
        raise UsageError(_nothing_fits(evidence, task, head))
    surest = max(fit.certainty for fit in fits.values())
    best = {kind: fit for kind, fit in fits.items() if fit.certainty == surest}
    if len(best) > 1:
        raise UsageError(
            f"the outputs fit several heads alike: {_described(best, '; or ')}; say which with --head "
            f"{'|'.join(best)}, or how many classes there are with --labels"
        )
    kind, fit = next(iter(best.items()))
    return Recognized(
        postprocess=Postprocess(kind=kind, outputs=dict(fit.outputs), **fit.fields),
        classes=fit.classes,
        said=f"head {kind}: {fit}" if head is None else f"head {kind}: {fit.seen}, as --head says",
        notes=(*evidence.facts.notes, *notes, *fit.notes),
    )


def _fits(evidence: Evidence, task: Task, head: str | None) -> dict[str, Fit]:
    kinds = [kind for kind, row in HEADS.items() if row.task == task] if head is None else [head]
    tried = {kind: RULES[kind](evidence) for kind in kinds}
    return {kind: fit for kind, fit in tried.items() if fit is not None}


def _described(fits: Mapping[str, Fit], between: str) -> str:
    return between.join(f"{kind} ({fit.seen}, {fit.classes or '?'} classes)" for kind, fit in fits.items())


def _nothing_fits(evidence: Evidence, task: Task, head: str | None) -> str:
    found = ", ".join(f"{seen.name} {seen.values.dtype} {list(seen.shape)}" for seen in evidence.outputs) or "none"
    where = f"for {evidence.batch} pictures of {evidence.height}x{evidence.width}"
    if head is not None:
        return f"--head {head} does not fit: it expects {HEADS[head].what}; the outputs {where} are {found}"
    known = "; ".join(f"{kind}: {row.what}" for kind, row in HEADS.items() if row.task == task)
    return f"no {task} head fits: the outputs {where} are {found}; expected {known}"
