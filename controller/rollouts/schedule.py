"""When and how many: waves, durations, rates and maintenance windows, as an operator writes them.

Rules:
    * Everything is parsed once, here; an error says what was written and what is expected.
    * A percentage of a fleet is rounded up, so that a wave of 1 % of 3 devices is one device.
    * A window that ends before it starts goes over midnight and belongs to the day it starts on.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import pairwise

from runtime.errors import UsageError

__all__ = ["Wave", "Window", "parse_duration", "parse_rate", "parse_waves", "parse_window"]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}  # seconds
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+|0")
_WINDOW = re.compile(r"(?:(?P<days>[A-Za-z,-]+)\s+)?(?P<start>\d{1,2}:\d{2})-(?P<end>\d{1,2}:\d{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """How many devices have the model once this wave is full: *count*, or *percent* of all."""

    count: int | None = None
    percent: float | None = None

    def size(self, total: int) -> int:
        """Return the number of devices out of *total*."""
        if self.count is not None:
            return min(self.count, total)
        return min(math.ceil(total * (self.percent or 0.0) / 100 - 1e-9), total)

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent:g}%"


def parse_waves(text: str) -> tuple[Wave, ...]:
    """Return the waves of ``1,10%,100%``: cumulative counts and percentages; the last is where the rollout ends.

    Raises:
        UsageError: A wave is no count above 0 and no percentage up to 100, or is smaller than one before it.
    """
    waves = tuple(_parse_wave(part.strip(), text) for part in text.split(","))
    for values in ([w.count for w in waves if w.count], [w.percent for w in waves if w.percent]):
        if any(after < before for before, after in pairwise(values)):
            raise UsageError(f"waves {text!r} shrink; they are cumulative, like 1,10%,100%")
    return waves


def _parse_wave(part: str, text: str) -> Wave:
    if part.isascii() and part.isdecimal() and int(part) > 0:
        return Wave(count=int(part))
    try:
        percent = float(part.removesuffix("%")) if part.endswith("%") else math.nan
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise UsageError(f"waves {text!r}: {part!r} is neither a number of devices nor a percentage up to 100%")
    return Wave(percent=percent)


def parse_duration(text: str) -> timedelta:
    """Return the duration that ``45s``, ``10m``, ``1h30m`` or ``0`` says.

    Raises:
        UsageError: It is none.
    """
    if not _DURATION.fullmatch(text):
        raise UsageError(f"duration {text!r} is not usable: expected something like 45s, 10m, 1h30m or 0")
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise UsageError(f"duration {text!r} is longer than time") from None


def parse_rate(text: str) -> int:
    """Return the N of ``N/min``.

    Raises:
        UsageError: It is not of that form, or N is 0.
    """
    number, slash, unit = text.partition("/")
    if not (slash and unit == "min" and number.isascii() and number.isdecimal() and int(number) > 0):
        raise UsageError(f"rate {text!r} is not usable: expected devices per minute, like 20/min")
    return int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A weekly maintenance window in a device's own time.

    Attributes:
        days: On which it starts; 0 is Monday.
        start: Time of day; included.
        end: Time of day; excluded. Not after *start*: on the next day.
    """

    days: frozenset[int]
    start: time
    end: time

    def closes(self, local: datetime) -> datetime | None:
        """Return when the window that is open at *local* closes; ``None`` if it is not open."""
        for days_ago in (0, 1):
            day = local.date() - timedelta(days=days_ago)
            opens = datetime.combine(day, self.start, local.tzinfo)
            end_day = day if self.end > self.start else day + timedelta(days=1)
            closes = datetime.combine(end_day, self.end, local.tzinfo)
            if day.weekday() in self.days and opens <= local < closes:
                return closes
        return None


def parse_window(text: str) -> Window:
    """Return the window of ``Mon-Fri 01:00-05:00``, ``Sat,Sun 22:00-04:00`` or ``01:00-05:00``.

    Raises:
        UsageError: It is no window.
    """
    match = _WINDOW.fullmatch(text.strip())
    refused = UsageError(f"window {text!r} is not usable: expected something like 'Mon-Fri 01:00-05:00'")
    if match is None:
        raise refused
    try:
        start, end = (time.fromisoformat(match[part].rjust(5, "0")) for part in ("start", "end"))
        days = _parse_days(match["days"]) if match["days"] else frozenset(range(7))
    except ValueError:
        raise refused from None
    return Window(days=days, start=start, end=end)


def _parse_days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = DAYS.index(first.title())
        end = DAYS.index(last.title()) if dash else begin
        days.update(day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))
    return frozenset(days)
