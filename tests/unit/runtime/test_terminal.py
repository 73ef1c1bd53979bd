"""What commands print: aligned tables, valid JSON, progress that suits a terminal and a log file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import terminal
from runtime.terminal import emit, progress, table


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal, "time", made)
    return made


def test_text_is_left_and_numbers_are_right() -> None:
    assert table(("name", "rows"), [("a", 5), ("long name", 1234)]) == (
        "name       rows\n---------  ----\na             5\nlong name  1234"
    )


def test_a_generator_is_as_good_as_a_list() -> None:
    rows = [("a", 5), ("b", 1234)]
    assert table(("name", "n"), (row for row in rows)) == table(("name", "n"), rows)


def test_a_table_without_rows_is_its_head() -> None:
    assert table(("name", "n"), []) == "name  n\n----  -"


def test_yes_and_no_are_no_numbers_and_a_cell_stays_on_its_line() -> None:
    assert table(("proven", "why"), [(True, "two\nlines"), (False, "")]).splitlines()[2:] == [
        "True    two lines",
        "False",
    ]


@given(st.lists(st.lists(st.one_of(st.integers(), st.text(max_size=10)), min_size=3, max_size=3), max_size=6))
def test_every_table_has_one_line_a_row(rows: list[list[Any]]) -> None:
    lines = table(("a", "b", "c"), rows).split("\n")
    assert len(lines) == len(rows) + 2


def test_a_result_is_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"path": Path("/x"), "loss": float("nan"), "all": (1.5, float("inf")), "größe": True}
    emit(value, as_json=True, text="unused")
    assert json.loads(capsys.readouterr().out) == {"path": "/x", "loss": None, "all": [1.5, None], "größe": True}
    emit(value, as_json=False, text="plain")
    emit(value, as_json=False, text=lambda: "made when needed")
    assert capsys.readouterr().out == "plain\nmade when needed\n"


def test_plain_progress_is_a_line_now_and_then_on_stderr(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "convert", "rows") as bar:
        for _ in range(20):
            clock.now += 1
            bar.advance(2, bad=3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "convert: 10/100 rows, 2.0 rows/s, 45 s left, bad 3",
        "convert: 20/100 rows, 2.0 rows/s, 40 s left, bad 3",
        "convert: 30/100 rows, 2.0 rows/s, 35 s left, bad 3",
        "convert: 40/100 rows, 2.0 rows/s, 30 s left, bad 3",
    ]


def test_without_a_total_there_is_no_rest(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(None, "read", "rows") as bar:
        clock.now += 10
        bar.advance(5)
        clock.now += 10
        bar.advance(0)
    assert capsys.readouterr().err.splitlines() == ["read: 5 rows, 0.5 rows/s", "read: 5 rows, 0.2 rows/s"]


def test_progress_of_nothing_divides_by_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "read", "rows") as bar:
        clock.now += 10
        bar.advance(0)
    assert capsys.readouterr().err == "read: 0/10 rows, 0.0 rows/s\n"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_but_not_for_a_moments_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Screen())
    with progress(10, "predict", "images") as bar:
        bar.advance(10, bad=1)
    assert screen.getvalue() == ""
    monkeypatch.setattr(terminal, "BAR_DELAY", 0.0)
    with progress(10, "predict", "images") as bar:
        bar.advance(10, bad=1)
    assert "predict: 100%" in screen.getvalue()
    assert "bad=1" in screen.getvalue()
