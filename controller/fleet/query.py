"""Label queries: which devices a rollout means.

    all                           every device
    site=lab                      a label has a value
    site!=lab                     it has another, or is not there
    site in (lab, roof)           one of these values
    camera                        the label is there
    !camera                       it is not there
    id=cam1   id in (cam1, cam2)  these devices; `id` is a label that every device has

Several terms are joined by a comma or `and`; all must hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from runtime.errors import UsageError

__all__ = ["LABEL_KEY", "LABEL_VALUE", "Query", "parse_labels"]

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
_VALUE = r"[A-Za-z0-9_.:/+-]{1,128}"
LABEL_KEY = re.compile(_NAME)
LABEL_VALUE = re.compile(_VALUE)
RESERVED = "id"  # no label may be called so: it is the device's own id

Labels = Mapping[str, str]
Term = Callable[[Labels], bool]


def _equals(match: re.Match[str]) -> Term:
    key, value = match["key"], match["value"]
    return lambda labels: labels.get(key) == value


def _differs(match: re.Match[str]) -> Term:
    key, value = match["key"], match["value"]
    return lambda labels: labels.get(key) != value


def _one_of(match: re.Match[str]) -> Term:
    key = match["key"]
    values = frozenset(value.strip() for value in match["values"].split(","))
    return lambda labels: labels.get(key) in values


def _present(match: re.Match[str]) -> Term:
    key = match["key"]
    return lambda labels: key in labels


def _absent(match: re.Match[str]) -> Term:
    key = match["key"]
    return lambda labels: key not in labels


_TERMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Term]], ...] = (
    (re.compile(rf"(?P<key>{_NAME})\s*=\s*(?P<value>{_VALUE})"), _equals),
    (re.compile(rf"(?P<key>{_NAME})\s*!=\s*(?P<value>{_VALUE})"), _differs),
    (re.compile(rf"(?P<key>{_NAME})\s+in\s*\((?P<values>\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*)\)"), _one_of),
    (re.compile(rf"!\s*(?P<key>{_NAME})"), _absent),
    (re.compile(rf"(?P<key>{_NAME})"), _present),
)
_JOINT = re.compile(r"\s+and\s+|,(?![^()]*\))")  # a comma within parentheses joins values, not terms


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query."""

    text: str
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the query that *text* says.

        Raises:
            UsageError: A term is of no known form; the text names it.
        """
        if text.strip() == "all":
            return cls(text, ())
        return cls(text, tuple(_parse_term(part.strip(), text) for part in _JOINT.split(text)))

    def matches(self, device: str, labels: Labels) -> bool:
        """Whether the query means *device*, which has *labels*."""
        known = {**labels, RESERVED: device}
        return all(term(known) for term in self.terms)


def _parse_term(part: str, text: str) -> Term:
    for pattern, build in _TERMS:
        if match := pattern.fullmatch(part):
            return build(match)
    raise UsageError(f"target {text!r}: {part!r} is no term; expected site=lab, site in (a,b), !x, id=cam1 or all")


def parse_labels(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return *pairs* if they can be labels.

    Raises:
        UsageError: A key or value has characters that a query could not name, or the key is reserved.
    """
    for key, value in pairs.items():
        if not LABEL_KEY.fullmatch(key) or key in {RESERVED, "all", "and", "in"}:
            raise UsageError(f"label {key!r} is not usable: expected letters, digits, _ . - and no reserved word")
        if not LABEL_VALUE.fullmatch(value):
            raise UsageError(f"label {key}={value!r} is not usable: expected 1 to 128 letters, digits, _ . : / + -")
    return dict(pairs)
