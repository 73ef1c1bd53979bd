"""Does what `edge_agent.update` decides: the disk, the bus and the processes of one update.

Rules:
    * The runner that serves is not touched before SWITCH.
    * The standby slot is emptied only when everything for its successor is on the disk.
    * Cancelled at any point, the device is left with the old slot active and no second runner, unless
      the commit had happened.
    * Rivals of what is proven already are tried for `_RIVALS` seconds at most, and for half of what is left until the
      deadline. What was not chosen is deleted before START.
    * No error gets out of `Updater.run`: an update fails, a device does not.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from edge_agent.chunks import ChunkStore, chunks_of
from edge_agent.errors import FailureCode, UpdateError
from edge_agent.fetch import Fetcher
from edge_agent.probation import Rules, Seen, passed
from edge_agent.process import RunnerProcess
from edge_agent.slots import Slots
from edge_agent.supervisor import Supervisor, Totals
from edge_agent.trials import candidates, variant_proofs
from edge_agent.update import Action, Capabilities, Problem, Update, check_requirements
from runtime.artifact import Artifact
from runtime.choice import fallback
from runtime.errors import VedetteError
from runtime.files import replace_bytes
from runtime.hardware import this_machine
from runtime.logs import get_logger
from runtime.manifest import MANIFEST_FILE, Manifest, PinnedFile
from runtime.proof import Proof
from runtime.protocol.messages import MAX_MESSAGE, Assignment, ModelState

__all__ = ["Parts", "Updater"]

_log = get_logger("vedette.agent.update")
_RIVALS = 300.0  # seconds in which rivals of a proven variant are fetched and measured
_POLL = 0.1  # seconds between two looks at a model on probation
_RESTORE = 30.0  # seconds that a roll-back waits for the old model to serve before it reports

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an update works with."""

    slots: Slots
    chunks: ChunkStore
    fetcher: Fetcher
    supervisor: Supervisor
    prove: Callable[[Path, str, str], Awaitable[Proof]]  # artifact directory, variant, provider
    capabilities: Callable[[], Awaitable[Capabilities]]
    clock: Callable[[], datetime]


class Updater:
    """One update, to the model of *assignment*; *report* is told before every step."""

    def __init__(self, parts: Parts, assignment: Assignment, report: Callable[[Update], None]) -> None:
        self._parts = parts
        self._assignment = assignment
        self._report = report
        self._rules = Rules()
        self._manifest: Manifest | None = None
        self._root: Path | None = None  # of the slot that is filled
        self._runner: RunnerProcess | None = None  # warm, not serving yet
        self._provider_proofs: tuple[Proof, ...] = ()  # with the probe artifact
        self._proofs: list[Proof] = []  # of the candidates so far
        self._rivals_until: float | None = None  # the loop's time
        self._totals_before = Totals()  # the switch
        self._crashes_before = 0
        self._steps: dict[Action, Callable[[Update], Awaitable[Update]]] = {
            Action.FETCH_MANIFEST: self._fetch_manifest,
            Action.DOWNLOAD: self._download,
            Action.VERIFY: self._verify,
            Action.PROVE: self._prove,
            Action.START: self._start,
            Action.SWITCH: self._switch,
            Action.OBSERVE: self._observe,
            Action.COMMIT: self._commit,
            Action.DISCARD: self._discard,
            Action.ROLL_BACK: self._roll_back,
        }

    async def run(self) -> Problem | None:
        """Bring the update to its end; returns why it failed, or None when it is committed."""
        if self._already_active():
            return None
        update = Update()
        try:
            while update.action is not Action.DONE:
                self._report(update)
                update = await self._step(update)
        except asyncio.CancelledError:
            if update.switched:
                self._parts.slots.roll_back()
            if self._runner is not None:
                await self._runner.kill()
            raise
        return update.problem

    def _already_active(self) -> bool:
        active = self._parts.slots.active
        return active is not None and active.model.manifest_sha256 == self._assignment.manifest_sha256

    async def _step(self, update: Update) -> Update:
        """Do the update's action; whatever goes wrong is the update's failure."""
        limit = asyncio.timeout(self._seconds_left(update))
        try:
            async with limit:
                return await self._steps[update.action](update)
        except UpdateError as error:
            return update.failed(error.code, str(error))
        except OSError as error:
            if limit.expired():
                late = "not measured in time" if update.trying_rivals else f"not done by {self._assignment.deadline}"
                return update.failed("deadline", f"{late}: still at '{update.action}'")
            full = error.errno == errno.ENOSPC
            code: FailureCode = "requirements" if full else "internal"
            return update.failed(code, f"no space left on the device: {error}" if full else str(error))
        except VedetteError as error:
            return update.failed("internal", str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours fails one update, not the device
            _log.exception("update failed", action=update.action)
            return update.failed("internal", f"{type(error).__name__}: {error}")

    def _seconds_left(self, update: Update) -> float | None:
        """Return the seconds that the action may take; None: any."""
        if update.trying_rivals and self._rivals_until is not None:
            return max(0.0, self._rivals_until - asyncio.get_running_loop().time())
        return self._until_deadline(update)

    def _until_deadline(self, update: Update) -> float | None:
        """Return the seconds until the deadline, which counts only while the old model serves."""
        deadline = self._assignment.deadline
        if deadline is None or update.switched or update.problem is not None:
            return None
        return max(0.0, (deadline - self._parts.clock()).total_seconds())

    async def _fetch_manifest(self, update: Update) -> Update:
        parts, digest = self._parts, self._assignment.manifest_sha256
        if self._assignment.manifest_size > MAX_MESSAGE:
            raise UpdateError(
                "integrity", f"the manifest has {self._assignment.manifest_size} bytes; at most {MAX_MESSAGE} are read"
            )
        self._rules = Rules.from_config(self._assignment.config)
        await parts.fetcher.fetch([digest])
        manifest = Manifest.parse(parts.chunks.read(digest))
        if manifest.reference != self._assignment.reference:
            raise UpdateError(
                "integrity", f"the manifest is of {manifest.reference}; {self._assignment.reference} was assigned"
            )
        self._manifest = manifest
        have = await parts.capabilities()
        self._provider_proofs = have.proofs
        chosen = candidates(manifest, have.providers, this_machine())
        largest = max((manifest.variant(candidate.variant).size for candidate in chosen), default=0)
        needed = 2 * (largest + manifest.golden.size)  # as chunks and as files
        check_requirements(manifest.requires, have, needed_mb=needed // 2**20)
        parts.chunks.prune({digest, *(chunk for pinned in manifest.files for chunk in chunks_of(pinned))})
        return update.planned(chosen)

    async def _download(self, update: Update) -> Update:
        wanted = [chunk for pinned in self._wanted(update) for chunk in chunks_of(pinned)]
        reused = await _in_thread(self._harvest, set(wanted))
        fetched = await self._parts.fetcher.fetch(wanted)
        _log.info("downloaded", candidate=str(update.candidate), chunks=len(wanted), fetched=fetched, reused=reused)
        return update.succeeded()

    async def _verify(self, update: Update) -> Update:
        if self._root is None:
            self._root = self._parts.slots.prepare()
            data = self._parts.chunks.read(self._assignment.manifest_sha256)
            replace_bytes(self._root / MANIFEST_FILE, data)
        for pinned in self._wanted(update):
            await _in_thread(self._parts.chunks.assemble, pinned, self._root)
        return update.succeeded()

    async def _prove(self, update: Update) -> Update:
        candidate = update.candidate
        proof = await self._parts.prove(self._filled(), candidate.variant, candidate.provider)
        self._proofs.append(proof)
        if not proof.passed:
            return update.failed("proof", proof.reason)
        _log.info("proven", candidate=str(candidate), max_abs=proof.max_abs, latency_ms=proof.latency_ms)
        if self._rivals_until is None:
            left = self._until_deadline(update)
            seconds = _RIVALS if left is None else min(_RIVALS, left / 2)
            self._rivals_until = asyncio.get_running_loop().time() + seconds
        return update.proven(proof.latency_ms)

    def _fallback(self, update: Update) -> str:
        """Return why this machine's preferred provider does not run the model; empty if it does."""
        serves = update.candidate.variant, update.candidate.provider
        chosen = next(proof for proof in self._proofs if (proof.variant, proof.reference) == serves)
        refused = [proof for proof in self._provider_proofs if not proof.passed]
        return fallback(this_machine(), chosen, [*refused, *self._proofs]) or ""

    async def _start(self, update: Update) -> Update:
        update = replace(update, fallback=self._fallback(update))
        for variant in self._known().variants:
            if variant.id != update.candidate.variant:
                (self._filled() / variant.file).unlink(missing_ok=True)
        self._runner = await self._parts.supervisor.prepare(self._filled(), self._model(update))
        return update.succeeded()

    async def _switch(self, update: Update) -> Update:
        if self._runner is None:
            raise RuntimeError("SWITCH before START")
        supervisor = self._parts.supervisor
        slot = self._parts.slots.switch(self._model(update))
        self._crashes_before = supervisor.restarts
        self._totals_before = await supervisor.switch(slot, self._runner)
        self._runner = None  # the supervisor's from now on
        return update.succeeded()

    async def _observe(self, update: Update) -> Update:
        supervisor, loop = self._parts.supervisor, asyncio.get_running_loop()
        since, before = loop.time(), self._totals_before
        while True:
            now = supervisor.totals
            seen = Seen(
                seconds=loop.time() - since,
                frames=now.frames - before.frames,
                errors=now.errors - before.errors,
                crashes=supervisor.restarts - self._crashes_before,
                waiting=supervisor.stats.waiting,
                reason=supervisor.last_death,
            )
            if passed(self._rules, seen) and supervisor.serving == self._model(update):
                return update.succeeded()
            await asyncio.sleep(_POLL)

    async def _commit(self, update: Update) -> Update:
        self._parts.slots.commit()
        self._parts.chunks.clear()
        return update.succeeded()

    async def _discard(self, update: Update) -> Update:
        if self._runner is not None:
            await self._runner.kill()
        if update.problem is None or update.problem.code not in {"download", "deadline"}:
            self._parts.chunks.clear()  # what is still good for another attempt stays
        return update.succeeded()

    async def _roll_back(self, update: Update) -> Update:
        slots, supervisor = self._parts.slots, self._parts.supervisor
        slots.roll_back()
        if self._runner is not None:
            await self._runner.kill()
        await supervisor.serve(slots.active)
        self._parts.chunks.clear()
        if slots.active is not None and not await supervisor.until_serving(_RESTORE):
            _log.warning("the old model does not serve yet")
        return update.succeeded()

    def _wanted(self, update: Update) -> Iterator[PinnedFile]:
        """Yield the files that the candidate needs."""
        yield self._known().golden
        yield self._known().variant(update.candidate.variant)

    def _known(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError("DOWNLOAD before FETCH_MANIFEST")
        return self._manifest

    def _filled(self) -> Path:
        if self._root is None:
            raise RuntimeError("PROVE before VERIFY")
        return self._root

    def _model(self, update: Update) -> ModelState:
        return ModelState(
            model=self._assignment.model,
            version=self._assignment.version,
            manifest_sha256=self._assignment.manifest_sha256,
            variant=update.candidate.variant,
            provider=update.candidate.provider,
            fallback=update.fallback,
            proofs=variant_proofs(self._known(), self._proofs, this_machine().device_class),
        )

    def _harvest(self, wanted: set[str]) -> int:
        """Take chunks from the models in the slots; returns how many."""
        taken = 0
        for slot in filter(None, (self._parts.slots.active, self._parts.slots.standby)):
            try:
                files = Artifact.open(slot.path).manifest.files
            except VedetteError as error:  # its manifest rotted on the disk: nothing to be had there
                _log.warning("no chunks to reuse", slot=slot.name, reason=str(error))
                continue
            taken += sum(self._parts.chunks.harvest(file, slot.path, wanted) for file in files)
        return taken


async def _in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call *function* in a thread; when cancelled, wait for its end: two updates must not write to one slot."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
