"""MoveNet: the keypoints of one body, whoever stands out.

Rules:
    * ``keypoints`` is the output that the manifest names, or the first floating one of shape (N, 1, K, 3): y, x
      and score, as shares of the model's input (https://www.kaggle.com/models/google/movenet).
    * There is always one pose, since the model does not say whether there is a body; its score is the mean of the
      keypoints' scores.
    * Its box encloses the keypoints at or above ``score_threshold`` (all of them, if none is), clipped to the picture.
    * Keypoints are not clipped: a foot below the picture's edge is below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.outputs import find_output
from runtime.tasks.results import Keypoint, Pose, Poses

__all__ = ["HEADS", "decode_movenet"]


def decode_movenet(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Poses]:
    """Return `Poses` of one pose an image.

    Args:
        outputs: Of the graph; the keypoints are (N, 1, K, 3) as y, x, score, normalized.
        sizes: (height, width) of the N upright originals.
        manifest: Preprocessing, ``score_threshold``, and the names of the keypoints if it has them.

    Raises:
        ModelError: No output fits, or the manifest names another number of keypoints.
    """

    def fits(output: npt.NDArray[Any]) -> bool:
        shaped = output.ndim == 4 and output.shape[:2] == (len(sizes), 1) and output.shape[3] == 3
        return shaped and np.issubdtype(output.dtype, np.floating)

    _, raw = find_output(outputs, manifest, "keypoints", fits, f"floating ({len(sizes)}, 1, keypoints, 3)")
    names = manifest.postprocess.keypoints
    if names and len(names) != raw.shape[2]:
        raise ModelError(f"{manifest.reference}: {raw.shape[2]} keypoints in the output, {len(names)} names")
    return [Poses(poses=(_pose(one, size, manifest),)) for one, size in zip(raw[:, 0], sizes, strict=True)]


def _pose(raw: npt.NDArray[Any], size: tuple[int, int], manifest: Manifest) -> Pose:
    """Return the pose of *raw*, (K, 3) as y, x, score, in a picture of *size* (height, width)."""
    placed = Placement.of(manifest.preprocess, *size)
    scores = raw[:, 2].astype(np.float64)
    points = placed.points_to_original(raw[:, 1::-1] * np.array([placed.input_width, placed.input_height], np.float64))
    sure = scores >= manifest.postprocess.score_threshold
    enclosed = np.clip(points[sure] if sure.any() else points, 0, [placed.width, placed.height])
    (x1, y1), (x2, y2) = enclosed.min(axis=0).tolist(), enclosed.max(axis=0).tolist()
    keypoints = tuple(Keypoint(x, y, score) for (x, y), score in zip(points.tolist(), scores.tolist(), strict=True))
    return Pose(score=float(scores.mean()), x1=x1, y1=y1, x2=x2, y2=y2, keypoints=keypoints)


HEADS: Mapping[str, Head] = {
    "movenet": Head(
        task="pose",
        result=Poses,
        decode=decode_movenet,
        what="keypoints (N, 1, K, 3): y, x, score, normalized; one body",
    ),
}
