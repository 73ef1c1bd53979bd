"""The models of a job: all answer each picture, which is read and decoded once.

Rules:
    * One model fills the columns of its task. Several fill them under a prefix each, ``NAME_``; it tells two versions
      of one model apart, too: ``NAME_1_`` and ``NAME_2_``. What is no letter, digit or ``_`` of a name becomes ``_``.
    * A model that is given twice is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.artifact import Artifact
from runtime.errors import UsageError
from runtime.manifest import Manifest
from runtime.store import ModelStore, resolve_artifact

__all__ = ["JobModel", "joined", "named", "open_models"]

_NOT_IN_NAMES = re.compile(r"\W", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobModel:
    """A model of a job.

    Attributes:
        artifact: What it is.
        prefix: Of the names of the columns that it fills; empty if it is the only one.
    """

    artifact: Artifact
    prefix: str = ""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return self.artifact.manifest


def open_models(references: Sequence[str], store: str | None) -> tuple[JobModel, ...]:
    """Return the models that *references* mean, in their order.

    Args:
        references: At least one: ``NAME``, ``NAME@VERSION``, or the path of an artifact.
        store: URI of the artifact store; the default one if ``None``.

    Raises:
        ModelNotFoundError: There is no such model.
        UsageError: One is given twice.
    """
    opened = ModelStore.open(store) if store else None
    return named([resolve_artifact(reference, opened) for reference in references])


def named(artifacts: Sequence[Artifact]) -> tuple[JobModel, ...]:
    """Return *artifacts* as the models of one job.

    Raises:
        UsageError: One is given twice, or two cannot be told apart by their names.
    """
    if len(artifacts) == 1:
        return (JobModel(artifact=artifacts[0]),)
    counts = Counter(artifact.manifest.name for artifact in artifacts)
    prefixes = [
        _NOT_IN_NAMES.sub("_", f"{one.name}_{one.version}_" if counts[one.name] > 1 else f"{one.name}_")
        for one in (artifact.manifest for artifact in artifacts)
    ]
    for prefix, number in Counter(prefixes).items():
        if number > 1:
            alike = [a.manifest.reference for a, p in zip(artifacts, prefixes, strict=True) if p == prefix]
            raise UsageError(
                f"--model {', '.join(alike)}: their columns would all begin with {prefix!r}; give each model once"
            )
    return tuple(JobModel(artifact=a, prefix=p) for a, p in zip(artifacts, prefixes, strict=True))


def joined(several: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what *several* models say under the same names as one: different values one after the other."""
    names = dict.fromkeys(name for one in several for name in one)
    return {name: ", ".join(dict.fromkeys(one[name] for one in several if name in one)) for name in names}
