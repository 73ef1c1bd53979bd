"""Updates from end to end with doubles at the borders: bus, proof and runners; disk and slots are real."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.assignments import Assignments
from edge_agent.chunks import ChunkStore
from edge_agent.errors import FetchError, RunnerError
from edge_agent.ledger import Ledger
from edge_agent.report import Reporter
from edge_agent.runner_protocol import Stats
from edge_agent.slots import Slots
from edge_agent.spool import Spool
from edge_agent.supervisor import Totals
from edge_agent.update import Capabilities
from edge_agent.updater import Parts, Updater
from runtime.hardware import Part, this_machine
from runtime.proof import Proof
from runtime.protocol.messages import Event, Phase

CPU = "CPUExecutionProvider"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class World:
    """What the doubles do, and what was done to them."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # variant: why its proof fails
    latency: dict[str, float] = field(default_factory=dict)  # variant: milliseconds, in its proof
    hang_at: str = ""  # fetch | prove | start | serve | observe
    runner_fails: bool = False
    errors_on_probation: int = 0
    providers: tuple[str, ...] = (CPU,)
    proofs: tuple[Proof, ...] = ()  # of providers
    now: datetime = NOW
    alive: list[FakeRunner] = field(default_factory=list)

    async def hang(self, where: str) -> None:
        if self.hang_at == where:
            await asyncio.sleep(3600)


class FakeRunner:
    def __init__(self, world: World, model) -> None:
        self.world, self.model = world, model
        world.alive.append(self)

    async def kill(self) -> None:
        if self in self.world.alive:
            self.world.alive.remove(self)


class FakeSupervisor:
    """Serves what it is told to, at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.serving = None
        self.restarts, self.last_death = 0, ""
        self.totals, self.stats, self.progress = Totals(), Stats(waiting=False), (1, 1)
        self._runner: FakeRunner | None = None

    async def serve(self, slot) -> None:
        if (slot.model if slot else None) == self.serving:
            return
        if self._runner:
            await self._runner.kill()
        self._runner = FakeRunner(self.world, slot.model) if slot else None
        self.serving = slot.model if slot else None

    async def until_serving(self, _seconds) -> bool:
        return self.serving is not None

    async def prepare(self, _path, model) -> FakeRunner:
        await self.world.hang("start")
        if self.world.runner_fails:
            raise RunnerError("it did not get warm")
        return FakeRunner(self.world, model)

    async def switch(self, slot, runner) -> Totals:
        if self._runner:
            await self._runner.kill()
        self._runner, self.serving, before = runner, None, self.totals
        await self.world.hang("serve")
        self.serving = slot.model
        if self.world.hang_at != "observe":
            errors = self.world.errors_on_probation
            self.totals = Totals(frames=before.frames + 5, errors=before.errors + errors)
        return before


class FakeFetcher:
    def __init__(self, world: World, chunks: ChunkStore) -> None:
        self.world, self.chunks = world, chunks

    async def fetch(self, digests) -> int:
        await self.world.hang("fetch")
        lacking = self.chunks.lacking(digests)
        for digest in lacking:
            if digest not in self.world.blobs:
                raise FetchError("download", f"chunk {digest} does not exist")
            self.chunks.put(digest, self.world.blobs[digest])
        self.world.fetched += lacking
        return len(lacking)


class Device:
    """The parts of an agent that an update works with."""

    def __init__(self, root) -> None:
        self.world = World()
        self.slots, self.chunks = Slots(root / "slots"), ChunkStore(root / "chunks")
        self.supervisor = FakeSupervisor(self.world)
        self.phases: list[Phase] = []
        self.parts = Parts(
            slots=self.slots,
            chunks=self.chunks,
            fetcher=FakeFetcher(self.world, self.chunks),
            supervisor=self.supervisor,
            prove=self._prove,
            capabilities=self._capabilities,
            clock=lambda: self.world.now,
        )

    async def _prove(self, root, variant, provider) -> Proof:
        await self.world.hang("prove")
        assert (root / f"model.{variant}.onnx").exists()
        assert (root / "golden.npz").exists()
        reason = self.world.refused.get(variant)
        latency = self.world.latency.get(variant)
        why = reason or "it matched"
        return Proof(variant=variant, provider=provider, passed=reason is None, reason=why, latency_ms=latency)

    async def _capabilities(self) -> Capabilities:
        return Capabilities(
            ort="1.32.0", memory_mb=1000, disk_mb=1000, providers=self.world.providers, proofs=self.world.proofs
        )

    def updater(self, assignment) -> Updater:
        return Updater(self.parts, assignment, lambda update: self.phases.append(update.phase))

    def publish(self, manifest) -> None:
        self.world.blobs[manifest.digest] = manifest.to_bytes()
        for pinned in manifest.files:
            self.world.blobs[pinned.sha256] = pinned.file.encode()  # the file's content is its name

    @property
    def version(self) -> int | None:
        return self.slots.active.model.version if self.slots.active else None


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


@pytest.fixture
def desired(device, manifest, assignment):
    """Publish a version with the given variants and return an assignment to it."""

    def make(version: int, *variants: str, config=None, fields=None, **more):
        chosen = [(name, "fp32" if name == "fp32" else "int8", None, ("*",)) for name in variants or ("fp32",)]
        made = manifest(*chosen, version=version, **(fields or {}))
        device.publish(made)
        config = {"probation_seconds": "0"} | (config or {})
        size = len(made.to_bytes())
        return assignment(version, version, manifest_sha256=made.digest, manifest_size=size, config=config, **more)

    return make


async def test_from_desired_to_committed(device, desired):
    assert await device.updater(desired(1)).run() is None
    assert (device.version, device.supervisor.serving.version) == (1, 1)
    assert device.phases[0] is Phase.DOWNLOADING
    assert device.phases[-1] is Phase.PROBATION
    assert not device.slots.on_trial
    assert list((device.slots.active.path).glob("*.onnx"))
    assert device.chunks.lacking(device.world.blobs) == list(device.world.blobs)  # the cache is empty again


async def test_the_model_that_serves_already_needs_no_update(device, desired):
    await device.updater(desired(1)).run()
    device.world.fetched.clear()
    assert await device.updater(desired(1)).run() is None
    assert device.world.fetched == []


async def test_what_the_slots_hold_is_not_fetched(device, desired):
    for version in (1, 2):
        await device.updater(desired(version)).run()
    device.world.fetched.clear()
    third = desired(3)
    await device.updater(third).run()
    assert device.world.fetched == [third.manifest_sha256]  # the files are those of the others


async def test_a_variant_that_fails_its_proof_gives_way_to_the_next(device, desired):
    device.world.refused = {"int8": "it saturates"}
    assert await device.updater(desired(1, "fp32", "int8")).run() is None
    assert device.slots.active.model.variant == "fp32"


@pytest.fixture
def promised(device, manifest, assignment):
    """Publish a version with fp32, int8 and the unproven s8s8, and return an assignment to it."""

    def make(**more):
        chosen = [("fp32", "fp32", 9.0, ("*",)), ("int8", "int8", 3.0, ("*",)), ("s8s8", "int8", None, ("*",))]
        made = manifest(*chosen)
        last = made.variants[2].model_copy(update={"unproven": True})
        made = made.model_copy(update={"variants": (*made.variants[:2], last)})
        device.publish(made)
        size, config = len(made.to_bytes()), {"probation_seconds": "0"}
        return assignment(1, 1, manifest_sha256=made.digest, manifest_size=size, config=config, **more)

    return make


@pytest.mark.parametrize(("unproven_ms", "serves"), [(2.0, "s8s8"), (4.0, "int8")])
async def test_an_unproven_variant_is_measured_told_of_and_serves_if_it_is_faster(
    device, promised, unproven_ms, serves
):
    device.world.latency = {"int8": 3.0, "s8s8": unproven_ms, "fp32": 8.0}
    assert await device.updater(promised()).run() is None
    model = device.slots.active.model
    assert model.variant == serves
    (told,) = model.proofs
    assert (told.variant, told.passed, told.speedup) == ("s8s8", True, 8.0 / unproven_ms)
    files = {path.name for path in device.slots.active.path.glob("*.onnx")}
    assert files == {f"model.{serves}.onnx"}  # what was only measured is not kept


async def test_a_rival_that_cannot_be_fetched_costs_only_itself(device, promised):
    device.world.latency = {"int8": 3.0}
    assigned = promised()
    del device.world.blobs[hashlib.sha256(b"model.s8s8.onnx").hexdigest()]
    assert await device.updater(assigned).run() is None
    assert device.slots.active.model.variant == "int8"


async def test_a_rival_that_hangs_is_given_up_before_the_deadline(device, promised, monkeypatch):
    device.world.latency = {"int8": 3.0}
    prove = device.parts.prove

    async def prove_or_hang(root, variant, provider):
        if variant == "s8s8":
            await asyncio.sleep(3600)
        return await prove(root, variant, provider)

    monkeypatch.setattr("edge_agent.updater._RIVALS", 0.2)
    updater = Updater(replace(device.parts, prove=prove_or_hang), promised(), lambda _: None)
    assert await updater.run() is None
    assert device.slots.active.model.variant == "int8"


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda world: world.blobs.clear(), "download"),
        (lambda world: world.refused.update(fp32="another output"), "proof"),
        (lambda world: setattr(world, "providers", ()), "requirements"),
        (lambda world: setattr(world, "runner_fails", True), "runner"),
        (lambda world: setattr(world, "errors_on_probation", 1), "probation"),
    ],
    ids=["download", "proof", "requirements", "runner", "probation"],
)
async def test_whatever_fails_the_old_model_serves_on(device, desired, break_it, code):
    await device.updater(desired(1)).run()
    second = desired(2)
    break_it(device.world)
    problem = await device.updater(second).run()
    assert problem.code == code
    assert (device.version, device.supervisor.serving.version) == (1, 1)
    assert [runner.model.version for runner in device.world.alive] == [1]
    assert not device.slots.on_trial


async def test_a_failed_download_leaves_the_standby_and_what_came(device, desired):
    for version in (1, 2):
        await device.updater(desired(version)).run()
    third = desired(3, "other")
    del device.world.blobs[hashlib.sha256(b"model.other.onnx").hexdigest()]
    assert (await device.updater(third).run()).code == "download"
    assert device.slots.standby.model.version == 1
    assert device.chunks.has(third.manifest_sha256)


@pytest.mark.parametrize(
    ("fields", "config", "named"),
    [
        ({"requires": {"ort": ">=9"}}, {}, "ORT 1.32.0, needs >=9"),
        ({"requires": {"memory_mb": 5000}}, {}, "5000"),
        ({}, {"probation_seconds": "soon"}, "probation_seconds"),
    ],
)
async def test_what_cannot_run_here_is_refused_before_its_files_are_fetched(device, desired, fields, config, named):
    assignment = desired(1, fields=fields, config=config)
    problem = await device.updater(assignment).run()
    assert problem.code == "requirements"
    assert named in problem.message
    assert set(device.world.fetched) <= {assignment.manifest_sha256}


async def test_a_manifest_of_another_model_is_refused(device, desired):
    problem = await device.updater(desired(1).model_copy(update={"version": 5})).run()
    assert problem.code == "integrity"
    assert "tiny@1; tiny@5 was assigned" in problem.message


async def test_a_manifest_that_is_too_large_is_not_fetched(device, desired):
    problem = await device.updater(desired(1).model_copy(update={"manifest_size": 10**9})).run()
    assert problem.code == "integrity"
    assert device.world.fetched == []


async def test_a_full_disk_fails_the_update_and_not_the_device(device, desired, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    assignment = desired(1)
    monkeypatch.setattr(device.chunks, "assemble", full)
    problem = await device.updater(assignment).run()
    assert problem.code == "requirements"
    assert "no space left" in problem.message


async def test_a_bug_fails_the_update_and_not_the_device(device, desired):
    def bug(*_):
        raise ZeroDivisionError("division by zero")

    assignment = desired(1)
    parts = replace(device.parts, prove=bug)
    problem = await Updater(parts, assignment, lambda _: None).run()
    assert (problem.code, "ZeroDivisionError" in problem.message) == ("internal", True)


async def test_the_deadline_ends_what_hangs(device, desired):
    device.world.hang_at = "prove"
    problem = await device.updater(desired(1, deadline=NOW + timedelta(seconds=0.2))).run()
    assert problem.code == "deadline"
    assert "still at '" in problem.message
    assert device.version is None


@pytest.mark.parametrize("where", ["fetch", "prove", "start", "serve", "observe"])
async def test_cancelled_anywhere_the_old_slot_is_active_and_no_second_runner_is_left(device, desired, where):
    await device.updater(desired(1)).run()
    device.world.hang_at = where
    task = asyncio.create_task(device.updater(desired(2, config={"probation_frames": "9"})).run())
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert device.version == 1
    assert not device.slots.on_trial
    await device.supervisor.serve(device.slots.active)
    assert [runner.model.version for runner in device.world.alive] == [1]


class Desk:
    """`Assignments` at work, and what it reports."""

    def __init__(self, device: Device, spool: Spool, ledger: Ledger | None = None) -> None:
        self.saved: list[Ledger] = []
        self.reporter = Reporter("cam1", spool, lambda: device.world.now)
        self.spool = spool
        self.assignments = Assignments("cam1", device.parts, ledger or Ledger(), self.saved.append, self.reporter)
        self.task = asyncio.create_task(self.assignments.run())

    async def until(self, phase: Phase, sequence: int) -> None:
        async with asyncio.timeout(5):
            while True:
                reported = self.reporter.reported(None, None)
                if (reported.phase, reported.sequence) == (phase, sequence):
                    return
                await asyncio.sleep(0.01)

    def events(self) -> list[Event]:
        return [Event.parse(message.payload) for message in self.spool.oldest(1000)]


@pytest.fixture
async def desk(device, tmp_path):
    with Spool(tmp_path / "spool.sqlite") as spool:
        desks = []

        def make(ledger: Ledger | None = None) -> Desk:
            desks.append(Desk(device, spool, ledger))
            return desks[-1]

        yield make
        for one in desks:
            one.task.cancel()
        await asyncio.wait([one.task for one in desks])


async def test_an_assignment_is_kept_before_it_is_carried_out_and_its_outcome_too(desk, desired):
    at_work = desk()
    at_work.assignments.desire(desired(1).to_bytes())
    await at_work.until(Phase.COMMITTED, 1)
    assert [(ledger.sequence, ledger.outcome) for ledger in at_work.saved] == [(1, "pending"), (1, "committed")]
    numbers = [event.number for event in at_work.events()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture
def without_its_gpu(device, monkeypatch):
    """The device has an NVIDIA GPU, and an ONNX Runtime that cannot use it."""
    with_gpu = replace(this_machine(), parts=frozenset({Part.CPU, Part.GPU, Part.NVIDIA_GPU}), nvidia_driver="580")
    monkeypatch.setattr("edge_agent.updater.this_machine", lambda: with_gpu)
    reason = "TensorrtExecutionProvider is not installed: pip install what it is in"
    missing = Proof(variant="fp32", provider="TensorrtExecutionProvider", passed=False, reason=reason, installed=False)
    works = Proof(variant="fp32", provider=CPU, passed=True, reason="it matched")
    device.world.proofs = (missing, works)
    return f"TensorrtExecutionProvider was preferred on this machine: {reason}"


async def test_a_model_that_misses_the_preferred_provider_says_so_in_what_is_reported(device, desired, without_its_gpu):
    assert await device.updater(desired(1)).run() is None
    assert device.supervisor.serving.fallback == without_its_gpu
    assert device.slots.active.model.fallback == without_its_gpu  # also after a restart


async def test_a_model_on_the_preferred_provider_reports_no_fallback(device, desired):
    device.world.proofs = (Proof(variant="fp32", provider=CPU, passed=True, reason="it matched"),)
    assert await device.updater(desired(1)).run() is None
    assert device.supervisor.serving.fallback == ""


async def test_a_fallback_is_one_event(device, desk, desired, without_its_gpu):
    at_work = desk()
    at_work.assignments.desire(desired(1).to_bytes())
    await at_work.until(Phase.COMMITTED, 1)
    told = [event for event in at_work.events() if event.kind == "provider_fallback"]
    assert [(event.code, event.message, event.sequence) for event in told] == [("preferred", without_its_gpu, 1)]


async def test_a_variant_that_was_refused_is_an_event(device, desk, desired):
    device.world.refused = {"int8": "it saturates"}
    at_work = desk()
    at_work.assignments.desire(desired(1, "fp32", "int8").to_bytes())
    await at_work.until(Phase.COMMITTED, 1)
    (fallback,) = [event for event in at_work.events() if event.kind == "provider_fallback"]
    assert (fallback.sequence, fallback.message) == (1, f"int8 on {CPU}: it saturates")


async def test_the_same_message_again_is_silence_an_older_one_an_event(desk, desired):
    at_work = desk()
    second = desired(2)
    at_work.assignments.desire(second.to_bytes())
    await at_work.until(Phase.COMMITTED, 2)
    count = len(at_work.events())
    at_work.assignments.desire(second.to_bytes())
    at_work.assignments.desire(b"")
    await asyncio.sleep(0.05)
    assert len(at_work.events()) == count
    at_work.assignments.desire(desired(1).to_bytes())
    await asyncio.sleep(0.05)
    assert at_work.events()[-1].code == "stale"


async def test_a_newer_assignment_supersedes_at_any_point(device, desk, desired):
    at_work = desk()
    for version, where in enumerate(("fetch", "prove", "start", "serve", "observe"), start=1):
        device.world.hang_at = where
        at_work.assignments.desire(desired(2 * version, config={"probation_frames": "9"}).to_bytes())
        await asyncio.sleep(0.2)
        device.world.hang_at = ""
        at_work.assignments.desire(desired(2 * version + 1).to_bytes())
        await at_work.until(Phase.COMMITTED, 2 * version + 1)
        assert device.version == 2 * version + 1
        assert len(device.world.alive) == 1
    codes = [(event.sequence, event.code) for event in at_work.events() if event.phase is Phase.FAILED]
    assert codes == [(sequence, "superseded") for sequence in (2, 4, 6, 8, 10)]


async def test_what_the_last_run_left_pending_is_taken_up_without_a_message(device, desk, desired):
    at_work = desk(Ledger().accept(desired(3), "cam1"))
    await at_work.until(Phase.COMMITTED, 3)
    assert device.version is not None


async def test_what_the_last_run_concluded_is_still_reported(desk, desired):
    done = Ledger().accept(desired(3), "cam1").committed()
    at_work = desk(done)
    await at_work.until(Phase.COMMITTED, 3)
    assert at_work.events() == []


async def test_before_its_time_an_assignment_waits(device, desk, desired):
    at_work = desk()
    at_work.assignments.desire(desired(1, not_before=NOW + timedelta(seconds=0.3)).to_bytes())
    await at_work.until(Phase.WAITING, 1)
    assert device.version is None
    device.world.now += timedelta(seconds=1)
    await at_work.until(Phase.COMMITTED, 1)
    assert device.version == 1


async def test_an_assignment_that_the_disk_does_not_take_is_not_carried_out(device, desk, desired, monkeypatch):
    at_work = desk()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(at_work.assignments, "_save", full)
    at_work.assignments.desire(desired(1).to_bytes())
    await asyncio.sleep(0.1)
    assert device.version is None
    assert "No space left" in at_work.events()[-1].message
