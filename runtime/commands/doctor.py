"""`vedette doctor`: what this machine can do."""

from __future__ import annotations

from typing import Any

import click

from runtime.terminal import emit, json_option, table

__all__ = ["doctor", "findings"]


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Say what this machine can do: versions, and which execution providers really run."""
    from runtime.diagnosis import examine

    report = examine()
    emit(report, as_json=as_json, text=lambda: _render(report))


def _render(report: dict[str, Any]) -> str:
    facts = [(name, value) for section in ("machine", "versions") for name, value in report[section].items()]
    return "\n\n".join([table(("fact", "value"), facts), *findings(report)])


def findings(report: dict[str, Any]) -> list[str]:
    """Return, as text for people, what `runtime.diagnosis.examine` says of providers, problems and advice."""
    providers = [
        (
            f"{p['provider']}{':' + p['device'] if p['device'] else ''}",
            f"{p['status']}{' (legacy)' if p['legacy'] else ''}",
            _number(p["latency_ms"], ".3f"),
            _number(p["node_share"], ".0%"),
            p["reason"],
        )
        for p in report["providers"]
    ]
    return [
        table(("execution provider", "verdict", "ms", "nodes", "reason"), providers),
        *(f"problem: {text}" for text in report["problems"]),
        *report["advice"],
    ]


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
