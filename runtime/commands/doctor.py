"""`vedette doctor`: what this machine can do."""

from __future__ import annotations

from typing import Any

import click

from runtime.terminal import emit, json_option, table

__all__ = ["doctor"]


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Say what this machine can do: versions, and which execution providers really run."""
    from runtime.diagnosis import examine

    report = examine()
    emit(report, as_json=as_json, text=lambda: _render(report))


def _render(report: dict[str, Any]) -> str:
    facts = [(name, value) for section in ("machine", "versions") for name, value in report[section].items()]
    providers = [
        (p["provider"], "proven" if p["passed"] else "refused", _milliseconds(p["latency_ms"]), p["reason"])
        for p in report["providers"]
    ]
    parts = [
        table(("fact", "value"), facts),
        table(("execution provider", "verdict", "ms", "reason"), providers),
        *report["advice"],
    ]
    return "\n\n".join(parts)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
