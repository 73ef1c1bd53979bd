"""The language of ``--filter``: ``COLUMN OP LITERAL [and COLUMN OP LITERAL ...]``.

Rules:
    * OP is one of ``== = != < <= > >=``; a literal is an integer, a float, a quoted string, or
      ``true`` / ``false``; a column name that is no identifier stands in backticks.
    * Text becomes a value of this grammar or an error; nothing is ever evaluated as code.
    * A row whose compared value is null does not match, as in SQL.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa

from cluster.errors import FilterError

if TYPE_CHECKING:
    import pyarrow.compute as pc

__all__ = ["Comparison", "Filter"]

Literal = bool | int | float | str

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<float>[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?)
      | (?P<int>[+-]?\d+)
      | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | `(?P<quoted>[^`]+)`
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<op>==|!=|<=|>=|=|<|>)
    )\s*""",
    re.VERBOSE,
)

_LITERALS: Mapping[str, Callable[[str], Literal]] = {
    "int": int,
    "float": float,
    "string": lambda text: re.sub(r"\\(.)", r"\1", text[1:-1]),
}
_BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}


class _Token(NamedTuple):
    kind: str  # a group of _TOKEN
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ``column op literal``."""

    column: str
    op: str
    literal: Literal

    def expression(self, column_type: pa.DataType) -> pc.Expression:
        """Return it as an Arrow expression against a column of *column_type*.

        Raises:
            FilterError: The literal cannot be compared with that type.
        """
        import pyarrow.compute as pc  # 70 ms and 9 MB of memory, which jobs without a filter do without

        try:
            literal = pa.scalar(self.literal)
            if isinstance(self.literal, str) and not _is_text(column_type):
                literal = literal.cast(column_type)  # dates and times are written as strings
            return _OPERATORS[self.op](pc.field(self.column), literal)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError):
            raise FilterError(
                f"--filter compares column {self.column!r} of type {column_type} with {self.literal!r}; "
                f"write a literal of that type"
            ) from None


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of comparisons.

    Attributes:
        comparisons: At least one; a row must fulfil all.
    """

    comparisons: tuple[Comparison, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the filter that *text* spells.

        Raises:
            FilterError: The text is not of the grammar; the message points at the place.
        """
        tokens = _tokens(text)
        comparisons = [_comparison(text, tokens[:3])]
        rest = tokens[3:]
        while rest:
            if rest[0].kind != "word" or rest[0].text.lower() != "and":
                raise _syntax(text, rest[0].at, "'and'")
            comparisons.append(_comparison(text, rest[1:4]))
            rest = rest[4:]
        return cls(tuple(comparisons))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at, each once, in order of appearance."""
        return tuple(dict.fromkeys(comparison.column for comparison in self.comparisons))

    def expression(self, schema: pa.Schema) -> pc.Expression:
        """Return the filter as an Arrow expression that was tried on an empty table of *schema*.

        Raises:
            FilterError: A literal does not fit its column.
        """
        first, *others = (c.expression(schema.field(c.column).type) for c in self.comparisons)
        for other in others:
            first = first & other
        try:
            schema.empty_table().select(list(self.columns)).filter(first)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            types = ", ".join(f"{name}: {schema.field(name).type}" for name in self.columns)
            raise FilterError(f"--filter does not fit the columns' types ({types}): {_first_line(error)}") from None
        return first


def _tokens(text: str) -> list[_Token]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _syntax(text, position, "a column, an operator or a literal")
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        position = match.end()
    return tokens


def _comparison(text: str, tokens: list[_Token]) -> Comparison:
    """Return the comparison that the three *tokens* are; fewer are an early end of *text*."""
    expected = ("a column name", f"one of {' '.join(_OPERATORS)}", "a number, a quoted string, true or false")
    if len(tokens) < 3:
        raise _syntax(text, len(text), expected[len(tokens)])
    column, op, literal = tokens
    if column.kind not in {"word", "quoted"}:
        raise _syntax(text, column.at, expected[0])
    if op.kind != "op":
        raise _syntax(text, op.at, expected[1])
    if literal.kind == "word" and literal.text.lower() in _BOOLEANS:
        return Comparison(column.text, op.text, _BOOLEANS[literal.text.lower()])
    if literal.kind not in _LITERALS:
        raise _syntax(text, literal.at, expected[2])
    return Comparison(column.text, op.text, _LITERALS[literal.kind](literal.text))


def _syntax(text: str, position: int, expected: str) -> FilterError:
    found = repr(text[position : position + 20]) if position < len(text) else "the end"
    return FilterError(f"--filter {text!r}: at character {position + 1} found {found}, expected {expected}")


def _is_text(data_type: pa.DataType) -> bool:
    inner = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
