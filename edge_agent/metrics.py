"""Samples of the device and of its inference; names and units as OpenTelemetry has them.

system.cpu.utilization        0 to 1, since the last batch
system.memory.utilization     0 to 1
system.filesystem.utilization 0 to 1, of the file system that the agent's home is on
hw.temperature                degrees Celsius, the hottest sensor; absent where there is none
vedette.inference.frames      frames that gave a result, since the agent started
vedette.inference.errors      failed inferences, since the agent started
vedette.inference.bad_frames  frames that were no usable picture, since the agent started
vedette.inference.duration    seconds, median from picture to prediction of late
vedette.runner.restarts       runners that ended unasked, since the agent started
vedette.runner.memory         bytes, resident in the runner that serves
vedette.telemetry.dropped     messages dropped from the spool since the last batch
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import psutil

from edge_agent.supervisor import Supervisor
from runtime.protocol.messages import Sample

__all__ = ["device_samples", "inference_samples"]


def device_samples(home: Path, now: datetime) -> list[Sample]:
    """Return what the device measures of itself; *home* is where the agent's files are."""
    values = {
        "system.cpu.utilization": psutil.cpu_percent(interval=None) / 100,
        "system.memory.utilization": psutil.virtual_memory().percent / 100,
        "system.filesystem.utilization": psutil.disk_usage(str(home)).percent / 100,
        "hw.temperature": _temperature(),
    }
    return _samples(values, now)


def inference_samples(supervisor: Supervisor, dropped: int, now: datetime) -> list[Sample]:
    """Return what the runners did; *dropped* messages were lost from the spool."""
    totals, stats = supervisor.totals, supervisor.stats
    values = {
        "vedette.inference.frames": totals.frames,
        "vedette.inference.errors": totals.errors,
        "vedette.inference.bad_frames": totals.bad_frames,
        "vedette.inference.duration": None if stats.latency_ms is None else stats.latency_ms / 1000,
        "vedette.runner.restarts": supervisor.restarts,
        "vedette.runner.memory": stats.rss_bytes or None,
        "vedette.telemetry.dropped": dropped or None,
    }
    return _samples(values, now)


def _samples(values: dict[str, float | None], now: datetime) -> list[Sample]:
    return [Sample(name=name, value=value, time=now) for name, value in values.items() if value is not None]


def _temperature() -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    readings = [entry.current for entries in sensors.values() for entry in entries if entry.current]
    return max(readings, default=None)
