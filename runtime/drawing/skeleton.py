"""Which keypoints of a body are joined by a bone."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COCO_KEYPOINTS", "bones"]

COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The 17 of COCO, in its order: https://cocodataset.org/#format-data."""

SIDES = ("left", "right")
BONES: Sequence[tuple[str, str]] = (
    ("left_eye", "right_eye"),
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    *(("nose", f"{side}_eye") for side in SIDES),
    *(
        (f"{side}_{one}", f"{side}_{other}")
        for side in SIDES
        for one, other in (
            ("eye", "ear"),
            ("ear", "shoulder"),
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("shoulder", "hip"),
            ("hip", "knee"),
            ("knee", "ankle"),
        )
    ),
)
"""COCO's skeleton: 19 bones."""


def bones(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of keypoints, by their place in *names*, that COCO's skeleton joins; none of other bodies."""
    place = {name.strip().lower().replace(" ", "_").replace("-", "_"): index for index, name in enumerate(names)}
    return [(place[one], place[other]) for one, other in BONES if one in place and other in place]
