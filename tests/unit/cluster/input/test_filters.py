from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import FilterError
from cluster.input.filters import Comparison, Filter

TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, 4], pa.int32()),
        "x": [0.5, -1.0, 2.0, 1e3],
        "name": ["a", "b c", "it's", None],
        "ok": [True, False, True, None],
        "odd name": [1, 1, 2, 2],
        "day": [date(2026, 1, 1), date(2026, 6, 1), None, date(2027, 1, 1)],
        "kind": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
    }
)


def rows(text: str) -> list[int]:
    numbered = TABLE.append_column("row", pa.array(range(4)))
    return numbered.filter(Filter.parse(text).expression(TABLE.schema)).column("row").to_pylist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n == 2", [1]),
        ("n = 2", [1]),
        ("n != 2", [0, 3]),
        ("n>=2", [1, 3]),
        ("n < 2.5 and x > 0", [0]),
        ("x == -1", [1]),
        ("x > 1e2", [3]),
        ("name == 'b c'", [1]),
        ('name == "it\'s"', [2]),
        (r"name == 'it\'s'", [2]),
        ("ok == true AND n <= 1", [0]),
        ("ok == False", [1]),
        ("`odd name` == 2", [2, 3]),
        ("day >= '2026-06-01'", [1, 3]),
        ("kind == 'u'", [0, 2]),
        ("n > 100", []),
    ],
)
def test_rows_that_match(text, expected):
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the end"),
        ("n", "the end"),
        ("n ==", "the end"),
        ("n == 1 and", "the end"),
        ("n == 1 or n == 2", "'or n == 2'"),
        ("n == m", "'m'"),
        ("1 == n", "'1 == n'"),
        ("n ~ 1", "'~ 1'"),
        ("__import__('os')", r"\(\'os\'\)"),
        ("n == 1; drop", "'; drop'"),
    ],
)
def test_a_text_outside_the_grammar_is_refused_where_it_leaves_it(text, found):
    with pytest.raises(FilterError, match=found):
        Filter.parse(text)


@pytest.mark.parametrize("text", ["n == 'a'", "name == 1", "day == 'soon'", "ok > 'x'", "n == 99999999999999999999"])
def test_a_literal_of_another_type_than_its_column_is_refused(text):
    with pytest.raises(FilterError):
        Filter.parse(text).expression(TABLE.schema)


def test_columns_are_named_once():
    assert Filter.parse("n > 1 and x < 2 and n < 9").columns == ("n", "x")


literals = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))),
)


def spell(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@given(st.lists(st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), literals), min_size=1, max_size=4))
def test_what_is_spelled_is_what_is_parsed(parts):
    text = " and ".join(f"col {op} {spell(value)}" for op, value in parts)
    assert Filter.parse(text) == Filter(tuple(Comparison("col", op, value) for op, value in parts))
