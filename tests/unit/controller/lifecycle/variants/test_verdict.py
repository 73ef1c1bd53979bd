"""Whether a variant earns its place."""

from __future__ import annotations

import pytest

from controller.lifecycle.variants.verdict import Speed, why_rejected

FASTER = Speed(latency_ms=1.0, reference_ms=2.0)


@pytest.mark.parametrize(
    ("value", "speed", "max_drop", "says"),
    [
        (0.896, FASTER, 0.5, None),
        (0.95, FASTER, 0.0, None),
        (0.89, FASTER, 1.0, None),  # exactly as much as is allowed
        (0.89, FASTER, 0.5, "top-1 is 1.00 points below fp32; at most 0.5 are allowed"),
        (0.89, FASTER, 1.5, None),
        (float("nan"), FASTER, 1.5, "top-1 is nan points below fp32; at most 1.5 are allowed"),
        (0.9, Speed(latency_ms=2.0, reference_ms=2.0), 0.5, "not faster than fp32: 2.000 ms against 2.000 ms"),
        (0.9, None, 0.5, None),  # no device of the class is at hand: speed cannot be judged
        (0.89, None, 0.5, "top-1 is 1.00 points below fp32; at most 0.5 are allowed"),
    ],
)
def test_variant_earns_its_place_by_accuracy_and_speed(
    value: float, speed: Speed | None, max_drop: float, says: str | None
) -> None:
    found = why_rejected(figure="top1", value=value, reference=0.9, speed=speed, max_drop=max_drop)
    assert found == says


def test_figure_is_named_as_in_tables() -> None:
    found = why_rejected(figure="map50_95", value=0.3, reference=0.4, speed=None, max_drop=0.5)
    assert found == "mAP 50-95 is 10.00 points below fp32; at most 0.5 are allowed"
