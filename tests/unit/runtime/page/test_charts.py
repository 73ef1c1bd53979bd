"""Figures as SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.page.charts import bar_table, duration, rate_chart, share_chart, ticks


@given(st.floats(1e-6, 1e12))
def test_ticks_reach_the_top_in_few_even_steps(top: float):
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * (1 - 1e-6)
    assert 2 <= len(found) <= 6
    assert found[-1] - top <= found[1] * (1 + 1e-6)


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_of_nothing(top: float):
    assert ticks(top) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.25, "0.25 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (86400, "1 d")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str):
    assert duration(seconds) == said


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [10.0, 0.0, 30.0]])
def test_a_rate_stays_in_its_frame(values: list[float]):
    root = ET.fromstring(rate_chart(values, 2.0, unit="rows/s", mean=4.0))
    heights = [float(y) for path in root.iter("path") for y in re.findall(r"V([\d.]+)", path.get("d", ""))]
    assert all(0 <= y <= 210 for y in heights)
    assert "4.0 rows/s in the mean" in root.findtext("title", "")


def test_shares_fill_the_bar_and_are_named():
    drawn = share_chart([("read", 1.0), ("<decode>", 3.0)], lambda seconds: f"{seconds} s")
    assert re.findall(r'x="([\d.]+)" width="([\d.]+)"', drawn) == [("0.00", "25.00"), ("25.00", "75.00")]
    assert "&lt;decode&gt;" in drawn
    assert "3.0 s · 75%" in drawn


def test_bars_have_their_numbers_beside_them():
    drawn = bar_table(("class", "images"), [("cat", 1500), ("dog", 500)], whole=2000)
    assert "1,500" in drawn
    assert "25.0%" in drawn
    assert re.findall(r'<rect width="([\d.]+)"', drawn) == ["100.0", "33.3"]
