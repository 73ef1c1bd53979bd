"""Pictures and parameters that histograms of oriented gradients are compared on, and what scikit-image makes of them.

`hog_reference.json` beside this file holds scikit-image's numbers; it is no dependency of ours. To make them again:

    python3 -m venv build/skimage
    build/skimage/bin/pip install scikit-image==0.26.0
    build/skimage/bin/python tests/support/hog_cases.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = Path(__file__).with_name("hog_reference.json")


def pictures() -> dict[str, np.ndarray]:
    """Return pictures by name: uint8, (H, W)."""
    rows, columns = np.mgrid[0:21, 0:18]
    waves = 127 + 90 * np.sin(columns / 3) + 35 * np.cos(rows / 2)
    return {
        "waves": waves.astype(np.uint8),
        "noise": np.random.default_rng(5).integers(0, 256, (16, 16), dtype=np.uint8),
        "diagonal": (12 * np.minimum(*np.mgrid[0:16, 0:16])).astype(np.uint8),  # angles of exactly 0 and 90 degrees
        "ramp": np.add(*np.mgrid[0:16, 0:16]).astype(np.uint8) * 8,  # 45 degrees everywhere: the edge of a bin of 8
        "flat": np.full((16, 16), 77, np.uint8),
    }


# By name: a picture's name, and the descriptor's parameters.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults of Dalal and Triggs": ("noise", {"pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}),
    "overlapping blocks": ("noise", {"orientations": 4, "pixels_per_cell": (5, 5), "cells_per_block": (2, 2)}),
    "cells that do not fill the picture": (
        "waves",
        {"orientations": 6, "pixels_per_cell": (7, 5), "cells_per_block": (2, 3)},
    ),
    "angles at the edges of bins": (
        "diagonal",
        {"orientations": 8, "pixels_per_cell": (8, 8), "cells_per_block": (1, 1)},
    ),
    "one angle, at an edge": (
        "ramp",
        {"orientations": 8, "pixels_per_cell": (4, 8), "cells_per_block": (1, 2)},
    ),
    "no gradient at all": ("flat", {"orientations": 3, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}),
    "square root": (
        "waves",
        {"orientations": 5, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2), "transform_sqrt": True},
    ),
    **{
        f"block norm {norm}": (
            "waves",
            {"orientations": 5, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2), "block_norm": norm},
        )
        for norm in ("L1", "L1-sqrt", "L2", "L2-Hys")
    },
}


def main() -> None:
    """Write scikit-image's numbers."""
    from skimage.feature import hog

    known = pictures()
    numbers = {name: hog(known[picture], **parameters) for name, (picture, parameters) in CASES.items()}
    written = {name: [round(float(value), 7) for value in values] for name, values in numbers.items()}
    REFERENCE.write_text("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in written.items()) + "\n}\n")


if __name__ == "__main__":
    main()
