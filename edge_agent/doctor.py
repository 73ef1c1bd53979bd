"""What ``vedette-agent doctor`` finds: the machine, the execution providers, and whether the broker answers."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiomqtt

from edge_agent.config import AgentHome
from edge_agent.connection import client_for
from edge_agent.status import read_state
from runtime import __version__
from runtime.diagnosis import examine
from runtime.errors import VedetteError
from runtime.protocol.bundle import Bundle

__all__ = ["diagnose"]

_PATIENCE = 5.0  # seconds for the broker to answer


def diagnose(home: AgentHome) -> dict[str, Any]:
    """Return the runtime's report with the sections ``agent`` and ``broker`` added."""
    os.environ["VEDETTE_HOME"] = str(home.root)  # where the agent keeps its proofs
    return {"agent": _agent(home), "broker": _broker(home)} | examine()


def _agent(home: AgentHome) -> dict[str, Any]:
    state = read_state(home.state)
    return {
        "version": __version__,
        "home": str(home.root),
        "enrolled": home.bundle.exists(),
        "running": state is not None and state.running,
    }


def _broker(home: AgentHome) -> dict[str, Any]:
    """Return whether the broker lets the device in.

    While the agent runs, its own word is taken: a second connection under its id would throw it out.
    """
    try:
        bundle = home.load_bundle()
    except (VedetteError, OSError) as error:
        return {"url": None, "reachable": False, "reason": str(error)}
    state = read_state(home.state)
    if state is not None and state.running:
        reason = "the agent is connected" if state.connected else "the agent runs and is not connected"
        return {"url": bundle.broker, "reachable": state.connected, "reason": reason}
    return {"url": bundle.broker} | asyncio.run(_knock(bundle))


async def _knock(bundle: Bundle) -> dict[str, Any]:
    try:
        async with client_for(bundle, timeout=_PATIENCE):
            return {"reachable": True, "reason": "it let the device in"}
    except (aiomqtt.MqttError, VedetteError) as error:
        return {"reachable": False, "reason": str(error)}
