"""Samples: names, units and what is left out where there is nothing to measure."""

from __future__ import annotations

from datetime import UTC, datetime

import psutil
import pytest

from edge_agent.metrics import device_samples, inference_samples
from edge_agent.runner_protocol import Stats
from edge_agent.supervisor import Totals

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Supervisor:
    def __init__(self, stats: Stats) -> None:
        self.restarts, self.stats = 3, stats
        self.totals = Totals(frames=10, errors=2, bad_frames=1)


def values(samples) -> dict[str, float]:
    assert all(sample.time == NOW for sample in samples)
    return {sample.name: sample.value for sample in samples}


def test_utilization_is_a_fraction(tmp_path):
    found = values(device_samples(tmp_path, NOW))
    for name in ("system.cpu.utilization", "system.memory.utilization", "system.filesystem.utilization"):
        assert 0 <= found[name] <= 1


@pytest.mark.parametrize(("sensors", "hottest"), [({}, None), ({"a": [41.5, 0.0], "b": [55.0]}, 55.0)])
def test_the_hottest_sensor_counts_if_there_is_one(tmp_path, monkeypatch, sensors, hottest):
    class Reading:
        def __init__(self, current: float) -> None:
            self.current = current

    found = {name: [Reading(value) for value in readings] for name, readings in sensors.items()}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found, raising=False)
    assert values(device_samples(tmp_path, NOW)).get("hw.temperature") == hottest


def test_inference_is_counted_and_timed_in_seconds():
    found = values(inference_samples(Supervisor(Stats(latency_ms=12.5, rss_bytes=1000)), 4, NOW))
    assert found == {
        "vedette.inference.frames": 10,
        "vedette.inference.errors": 2,
        "vedette.inference.bad_frames": 1,
        "vedette.inference.duration": 0.0125,
        "vedette.runner.restarts": 3,
        "vedette.runner.memory": 1000,
        "vedette.telemetry.dropped": 4,
    }


def test_what_was_not_measured_is_left_out():
    found = values(inference_samples(Supervisor(Stats()), 0, NOW))
    assert not {"vedette.inference.duration", "vedette.runner.memory", "vedette.telemetry.dropped"} & set(found)
