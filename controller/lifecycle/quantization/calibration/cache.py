"""What a calibration measured, kept on disk: `.npz`, found by what it depends on.

Rules:
    * The key is a hash of the graph, the data's fingerprint, the preprocessing and the number of images: whatever
      changes one of them measures anew. Histograms serve every method, so no method is part of it.
    * A file that cannot be read is measured anew and replaced.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controller.lifecycle.quantization.calibration.histogram import SIDE, Histogram
from controller.lifecycle.quantization.calibration.ranges import Range
from runtime.files import make_directory, replace_bytes

__all__ = ["Cache", "cache_key"]

FORMAT = "1"


def cache_key(*parts: bytes) -> str:
    """Return the hash of what a measurement depends on."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The measurements of one key.

    Attributes:
        directory: Of all keys.
        key: Of `cache_key`.
    """

    directory: Path
    key: str

    def read_extremes(self) -> tuple[dict[str, Range], int] | None:
        """Return the lowest and highest values, and the number of pictures; ``None`` if they are not there."""
        arrays = self._read("extremes")
        if arrays is None:
            return None
        limits = {str(n): (float(lo), float(hi)) for n, (lo, hi) in zip(arrays["names"], arrays["limits"], strict=True)}
        return limits, int(arrays["pictures"])

    def write_extremes(self, extremes: Mapping[str, Range], pictures: int) -> None:
        """Keep what `read_extremes` returns."""
        limits = np.array(list(extremes.values()), np.float64).reshape(-1, 2)
        self._write("extremes", {"names": np.array(list(extremes)), "limits": limits, "pictures": np.array(pictures)})

    def read_histograms(self) -> dict[str, Histogram] | None:
        """Return the histograms; ``None`` if they are not there."""
        arrays = self._read("histograms")
        if arrays is None or arrays["counts"].shape[1:] != (2 * SIDE,):
            return None
        rows = zip(arrays["names"], arrays["limits"], arrays["counts"], strict=True)
        return {str(name): Histogram(float(low), float(high), counts) for name, (low, high), counts in rows}

    def write_histograms(self, histograms: Mapping[str, Histogram]) -> None:
        """Keep what `read_histograms` returns."""
        found = list(histograms.values())
        self._write(
            "histograms",
            {
                "names": np.array(list(histograms)),
                "limits": np.array([(h.low, h.high) for h in found], np.float64).reshape(-1, 2),
                "counts": np.array([h.counts for h in found], np.int64).reshape(-1, 2 * SIDE),
            },
        )

    def _read(self, what: str) -> dict[str, np.ndarray] | None:
        try:
            with np.load(io.BytesIO(self._path(what).read_bytes()), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def _write(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        make_directory(self.directory)
        replace_bytes(self._path(what), buffer.getvalue())

    def _path(self, what: str) -> Path:
        return self.directory / f"{self.key}.{what}.npz"
