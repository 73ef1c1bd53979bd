from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.schedule import Wave, parse_duration, parse_rate, parse_waves, parse_window
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1,10%,100%", [1, 1, 3]), ("2", [2]), ("50%,100%", [2, 3]), ("100%", [3]), ("5,100%", [3, 3])],
)
def test_waves_are_cumulative_and_percentages_round_up(text, sizes):
    assert [wave.size(3) for wave in parse_waves(text)] == sizes


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0%", "101%", "nan%", "10%,5%", "5,1", "a", "1,,2", "1 2", "²"])
def test_waves_that_make_no_sense_are_refused_by_what_was_written(text):
    with pytest.raises(UsageError, match="waves"):
        parse_waves(text)


@given(percent=st.floats(min_value=0.01, max_value=100), total=st.integers(1, 100_000))
def test_a_percentage_of_a_fleet_is_at_least_one_device_and_never_more_than_all(percent, total):
    assert 1 <= Wave(percent=percent).size(total) <= total


def test_whole_percentages_are_exact():
    assert [Wave(percent=p).size(100) for p in range(1, 101)] == list(range(1, 101))


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("10m", 600), ("1h30m", 5400), ("0", 0), ("1.5h", 5400), ("2d", 172_800)]
)
def test_durations_are_read_as_written(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "5 m", "1w", "9" * 30 + "d"])
def test_a_wrong_duration_is_refused(text):
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)


def test_a_rate_is_devices_per_minute():
    assert parse_rate("20/min") == 20


@pytest.mark.parametrize("text", ["20", "20/s", "0/min", "x/min", "/min"])
def test_a_wrong_rate_is_refused(text):
    with pytest.raises(UsageError, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("window", "local", "closes"),
    [
        ("Mon-Fri 01:00-05:00", "2026-11-23T01:00", "2026-11-23T05:00"),  # a Monday
        ("Mon-Fri 01:00-05:00", "2026-11-23T05:00", None),
        ("Mon-Fri 01:00-05:00", "2026-11-22T03:00", None),
        ("Sat,Sun 22:00-04:00", "2026-11-23T03:59", "2026-11-23T04:00"),
        ("Sat,Sun 22:00-04:00", "2026-11-21T03:59", None),
        ("Fri-Mon 00:00-12:00", "2026-11-23T11:00", "2026-11-23T12:00"),
        ("Fri-Mon 00:00-12:00", "2026-11-24T11:00", None),
        ("1:00-5:00", "2026-11-25T04:00", "2026-11-25T05:00"),
    ],
)
def test_a_window_is_open_in_the_devices_own_time(window, local, closes):
    zone = ZoneInfo("Asia/Tokyo")
    found = parse_window(window).closes(datetime.fromisoformat(local).replace(tzinfo=zone))
    assert found == (datetime.fromisoformat(closes).replace(tzinfo=zone) if closes else None)


def test_a_window_follows_the_zone_not_utc():
    window = parse_window("Mon 09:00-10:00")
    moment = datetime(2026, 11, 23, 0, 30, tzinfo=UTC)
    assert window.closes(moment) is None
    assert window.closes(moment.astimezone(ZoneInfo("Asia/Tokyo"))) is not None


@pytest.mark.parametrize("text", ["", "Mon", "Mon 1-5", "Xyz 01:00-02:00", "Mon 25:00-26:00", "01:00"])
def test_a_wrong_window_is_refused(text):
    with pytest.raises(UsageError, match="window"):
        parse_window(text)
