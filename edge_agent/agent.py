"""The agent: puts the parts together and keeps them going (DESIGN.md §7).

Rules:
    * This process loads neither NumPy nor ONNX Runtime nor OpenCV: what can crash lives in children.
    * The active slot is served from the first second on, broker or not.
    * Nothing that the disk, the broker or a message does ends the agent; SIGTERM and SIGINT do, within
      seconds: runners ended, `offline` published.
    * The watchdog is fed only when inference went on since the last time, or nothing is to be served.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.assignments import Assignments
from edge_agent.chunks import ChunkStore
from edge_agent.config import AgentHome, Settings
from edge_agent.connection import Connection
from edge_agent.errors import DisconnectedError
from edge_agent.fetch import Fetcher, Patience
from edge_agent.ledger import Ledger
from edge_agent.metrics import device_samples, inference_samples
from edge_agent.proving import capabilities, prove, prove_providers
from edge_agent.report import Reporter
from edge_agent.slots import Slots
from edge_agent.spool import Spool
from edge_agent.status import LocalState
from edge_agent.supervisor import Supervisor
from edge_agent.systemd import Notifier
from edge_agent.update import Capabilities
from edge_agent.updater import Parts
from runtime.errors import ProtocolError
from runtime.files import exclusive_lock
from runtime.logs import get_logger
from runtime.proof import Proof
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Command, Reported
from runtime.protocol.topics import Channel, FleetTopics
from runtime.providers import find

__all__ = ["Agent", "run_agent"]

_log = get_logger("vedette.agent")
_BREATH = 0.2  # seconds after a failed publish
_DISK_BREATH = 10.0  # seconds after a failed write


def _now() -> datetime:
    return datetime.now(UTC)


class Agent:
    """One device of a fleet.

    Args:
        home: Where its state is; the caller holds its lock.
        bundle: Who it is.
        settings: What it was told on the command line.
        spool: Takes events and telemetry.
    """

    def __init__(self, home: AgentHome, bundle: Bundle, settings: Settings, spool: Spool) -> None:
        self._home = home
        self._bundle = bundle
        self._settings = settings
        self._spool = spool
        self._topics = FleetTopics(bundle.fleet)
        self._notifier = Notifier()
        self._identity = LocalState.identity()
        self._proofs: list[Proof] = []
        self._proving = asyncio.Lock()
        self._reporter = Reporter(bundle.device, spool, _now)
        self._slots = Slots(home.slots)
        self._supervisor = Supervisor(
            settings,
            settings.results or home.results,
            changed=self._reporter.changed.set,
            died=lambda why: self._reporter.event("error", code="runner", message=f"the runner ended unasked: {why}"),
        )
        self._connection = Connection(bundle, settings, received=self._receive, changed=self._reporter.changed.set)
        self._assignments = Assignments(
            bundle.device, self._parts(), self._recover(), lambda ledger: ledger.save(home.ledger), self._reporter
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set."""
        await self._supervisor.serve(self._slots.active)
        async with asyncio.TaskGroup() as group:
            parts = (
                self._supervisor.run(),
                self._connection.run(),
                self._assignments.run(),
                self._publish_state(),
                self._drain_spool(),
                self._measure(),
                self._feed_watchdog(),
                self._prove_providers(),
            )
            tasks = [group.create_task(part) for part in parts]
            self._notifier.ready()
            self._reporter.changed.set()
            await stop.wait()
            self._notifier.stopping()
            for task in tasks:
                task.cancel()

    def _parts(self) -> Parts:
        settings, chunks = self._settings, ChunkStore(self._home.chunks)
        patience = Patience(
            timeout=settings.chunk_timeout,
            timeout_most=settings.chunk_timeout_most,
            attempts=settings.fetch_attempts,
        )

        async def prove_variant(root: Path, variant: str, provider: str) -> Proof:
            seconds = max(settings.proof_timeout, find(provider).proof_seconds)
            return await prove(root, variant, provider, seconds=seconds)

        return Parts(
            slots=self._slots,
            chunks=chunks,
            fetcher=Fetcher(
                self._connection, chunks, topics=self._topics, device=self._bundle.device, patience=patience
            ),
            supervisor=self._supervisor,
            prove=prove_variant,
            capabilities=self._capabilities,
            clock=_now,
        )

    def _recover(self) -> Ledger:
        """Return the last run's ledger, after a switch that it left undecided was undone."""
        ledger = Ledger.load(self._home.ledger)
        if self._slots.recover():
            _log.warning("the agent died while a model was on probation: the old one serves on")
            ledger = ledger.trial_broken()
            ledger.save(self._home.ledger)
        return ledger

    def _receive(self, channel: Channel, payload: bytes) -> None:
        if channel is Channel.DESIRED:
            self._assignments.desire(payload)
            return
        try:
            command = Command.parse(payload)
        except ProtocolError as error:
            self._reporter.event("error", code="protocol", message=str(error))
        else:
            self._reporter.event("command", code=command.id, message="pong")

    async def _capabilities(self) -> Capabilities:
        await self._prove_providers()
        return capabilities(self._proofs, self._home.root)

    async def _prove_providers(self) -> None:
        """Find out which execution providers work here; once, unless none did."""
        async with self._proving:
            if any(proof.passed for proof in self._proofs):
                return
            self._proofs = await prove_providers(seconds=self._settings.proof_timeout)
        for proof in self._proofs:
            _log.info("execution provider", provider=proof.reference, passed=proof.passed, reason=proof.reason)
        self._reporter.providers = tuple(proof.reference for proof in self._proofs if proof.passed)
        self._reporter.changed.set()

    async def _publish_state(self) -> None:
        """Say what is true now, whenever it changed: to the state file, and to the broker if there is one."""
        topic = self._topics.device(self._bundle.device, Channel.REPORTED)
        while True:
            await self._reporter.changed.wait()
            self._reporter.changed.clear()
            standby = self._slots.standby
            reported = self._reporter.reported(self._supervisor.serving, standby.model if standby else None)
            self._write_state(reported)
            with suppress(DisconnectedError):  # the next connect sets `changed`
                await self._connection.publish(topic, reported.to_bytes(), qos=1, retain=True)

    def _write_state(self, reported: Reported) -> None:
        state = LocalState(
            **self._identity,
            fleet=self._bundle.fleet,
            broker=self._bundle.broker,
            connected=self._connection.is_connected,
            restarts=self._supervisor.restarts,
            last_death=self._supervisor.last_death,
            waiting=len(self._spool),
            reported=reported,
        )
        try:
            state.write(self._home.state)
        except OSError as error:
            _log.warning("state file not written", reason=str(error))

    async def _drain_spool(self) -> None:
        """Bring the spool to the broker, oldest first."""
        while True:
            await self._connection.connected()
            waiting = self._spool.oldest()
            if not waiting:
                self._reporter.spooled.clear()
                await self._reporter.spooled.wait()
                continue
            try:
                for message in waiting:
                    topic = self._topics.device(self._bundle.device, message.channel)
                    await self._connection.publish(topic, message.payload, qos=1)
                    self._spool.remove([message.id])
            except DisconnectedError:
                await asyncio.sleep(_BREATH)
            except sqlite3.Error as error:  # a full disk; what was sent twice is recognized by its number
                _log.warning("spool not emptied", reason=str(error))
                await asyncio.sleep(_DISK_BREATH)

    async def _measure(self) -> None:
        device_samples(self._home.root, _now())  # the first CPU reading has no interval yet
        while True:
            await asyncio.sleep(self._settings.telemetry_interval)
            samples = device_samples(self._home.root, _now())
            samples += inference_samples(self._supervisor, self._spool.take_dropped(), _now())
            self._reporter.telemetry(samples)

    async def _feed_watchdog(self) -> None:
        interval = self._notifier.watchdog_interval
        seen = self._supervisor.progress
        while interval is not None:
            await asyncio.sleep(interval)
            progress = self._supervisor.progress
            if self._supervisor.idle or progress != seen:
                self._notifier.feed_watchdog()
            seen = progress


def run_agent(home: AgentHome, settings: Settings) -> None:
    """Run the agent of *home* until SIGTERM or SIGINT.

    Raises:
        EnrolmentError: The device is not enrolled.
        HomeError: Another agent uses this home.
        VedetteError: A file of the home is not what it must be.
    """
    bundle = home.load_bundle()
    os.environ["VEDETTE_HOME"] = str(home.root)  # proofs are kept beside the rest, also by the children
    with exclusive_lock(home.lock, f"agent home {home.root}"), Spool(home.spool, rows=settings.spool_rows) as spool:
        asyncio.run(_run(home, bundle, settings, spool))


async def _run(home: AgentHome, bundle: Bundle, settings: Settings, spool: Spool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _log.info("agent starts", device=bundle.device, fleet=bundle.fleet, home=str(home.root))
    await Agent(home, bundle, settings, spool).run(stop)
    _log.info("agent ended")
