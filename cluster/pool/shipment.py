"""A model of the job on its way to a Ray actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from cluster.models import JobModel
from cluster.pool.shipping import Package, contents, pack, unpack

__all__ = ["Shipment", "ship"]


@dataclass(frozen=True, slots=True)
class Shipment:
    """A model of the job on its way to a worker.

    Attributes:
        package: Of its artifact.
        prefix: Of the names of its columns.
        contents: The reference of the package's files, so that Ray does not bring them unasked; nothing where every
            worker sees the directory.
    """

    package: Package
    prefix: str
    contents: tuple[Any, ...]

    def open(self) -> JobModel:
        """Return the model, on this machine's disk and verified.

        Raises:
            ArtifactError: A file is not the one that the manifest pins.
        """

        def fetch() -> Mapping[str, bytes]:
            fetched: Mapping[str, bytes] = ray.get(self.contents[0]) if self.contents else {}
            return fetched

        return JobModel(artifact=unpack(self.package, fetch), prefix=self.prefix)


def ship(models: Sequence[JobModel], *, shared: bool = False) -> tuple[Shipment, ...]:
    """Put *models* where actors get them from; needs a connection to Ray.

    Args:
        models: Of the job.
        shared: Whether every actor sees this machine's disk, so that nothing need travel.
    """
    packages = [(pack(model.artifact), model.prefix) for model in models]
    return tuple(
        Shipment(package, prefix, () if shared else (ray.put(contents(package)),)) for package, prefix in packages
    )
