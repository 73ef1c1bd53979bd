"""A model of the job on its way to a Ray actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from cluster.errors import FilesMissingError
from cluster.models import JobModel
from cluster.pool.shipping import Package, contents, pack, unpack

__all__ = ["Shipment", "ship"]


@dataclass(frozen=True, slots=True)
class Shipment:
    """A model of the job on its way to a worker.

    Attributes:
        package: Of its artifact.
        prefix: Of the names of its columns.
        contents: The reference of the package's files, so that Ray does not bring them unasked; nothing where they
            did not come along.
    """

    package: Package
    prefix: str
    contents: tuple[Any, ...]

    def open(self) -> JobModel:
        """Return the model, on this machine's disk and verified.

        Raises:
            ArtifactError: A file is not the one that the manifest pins.
            FilesMissingError: The files are not at hand, and did not come along.
        """

        def fetch() -> Mapping[str, bytes]:
            if not self.contents:
                raise FilesMissingError(f"{self.package.root} is not to be had here")
            fetched: Mapping[str, bytes] = ray.get(self.contents[0])
            return fetched

        return JobModel(artifact=unpack(self.package, fetch), prefix=self.prefix)


def ship(models: Sequence[JobModel], *, whole: bool) -> tuple[Shipment, ...]:
    """Return *models* as they travel to actors.

    Args:
        models: Of the job.
        whole: Whether their files come along, through Ray's object store: it keeps them as long as the job runs.
    """
    packages = [(pack(model.artifact), model.prefix) for model in models]
    return tuple(
        Shipment(package, prefix, (ray.put(contents(package)),) if whole else ()) for package, prefix in packages
    )
