"""Runner processes and their supervisor, with a small program in the runner's place that can misbehave."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import psutil
import pytest

import edge_agent.process
from edge_agent.config import Settings
from edge_agent.errors import RunnerError
from edge_agent.process import RunnerProcess
from edge_agent.slots import Slot
from edge_agent.supervisor import Supervisor

PROGRAM = """
import json, sys, time
spec = json.loads(sys.argv[1])
behaviour = spec["model"]["model"]
def say(**report):
    print(json.dumps(report), flush=True)
if behaviour == "dies-cold":
    say(kind="failed", message="the driver is too old")
    sys.exit(1)
if behaviour == "crashes-cold":
    print("Segmentation fault, really", file=sys.stderr)
    sys.exit(3)
if behaviour == "never-warm":
    time.sleep(60)
say(kind="ready")
for line in sys.stdin:
    command = json.loads(line)
    if command["kind"] == "stop":
        if behaviour == "deaf":
            time.sleep(60)
        say(kind="stopped", position=command.get("position", 0) + 5)
        sys.exit(0)
    if behaviour == "deaf-to-serve":
        continue
    say(kind="serving")
    say(kind="stats", frames=4, errors=1, bad_frames=2, latency_ms=2.5, waiting=False)
    if behaviour == "dies-serving":
        sys.exit(7)
    if behaviour == "babbles":
        print("I am a library", flush=True)
"""
QUICK = Settings(
    start_timeout=1.5, stop_timeout=0.3, stall_timeout=5, restart_delay=0.01, restart_delay_most=0.02, fps=1
)


@pytest.fixture(autouse=True)
def small_program(monkeypatch):
    monkeypatch.setattr(edge_agent.process, "_PROGRAM", (sys.executable, "-c", PROGRAM))


@pytest.fixture
def slot(tmp_path, model_state):
    def make(behaviour: str, version: int = 1) -> Slot:
        model = model_state(version).model_copy(update={"model": behaviour})
        return Slot(path=tmp_path / behaviour, model=model)

    return make


@pytest.fixture
async def supervisor(tmp_path):
    supervisor = Supervisor(QUICK, tmp_path / "results.jsonl", changed=lambda: None, died=lambda _why: None)
    task = asyncio.create_task(supervisor.run())
    yield supervisor
    task.cancel()
    await asyncio.wait([task])
    assert not [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the conditions are other objects' plain attributes
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("behaviour", "named"),
    [
        ("dies-cold", "the driver is too old"),
        ("crashes-cold", "exit code 3: Segmentation fault, really"),
        ("never-warm", "was not warm within 1.5 s"),
    ],
)
async def test_a_runner_that_does_not_get_warm_is_gone_and_says_why(supervisor, slot, behaviour, named):
    broken = slot(behaviour)
    with pytest.raises(RunnerError, match=named) as caught:
        await supervisor.prepare(broken.path, broken.model)
    assert caught.value.code == "runner"


async def test_what_is_served_is_what_answered(supervisor, slot):
    assert supervisor.serving is None
    await supervisor.serve(slot("good"))
    await until(lambda: supervisor.serving)
    assert supervisor.serving.model == "good"
    await supervisor.serve(None)
    assert supervisor.serving is None
    assert supervisor.idle


async def test_a_switch_leaves_one_runner_that_goes_on_where_the_other_stopped(supervisor, slot):
    await supervisor.serve(slot("good", 1))
    assert await supervisor.until_serving(5)
    await until(lambda: supervisor.totals.frames == 4)
    second = slot("good", 2)
    runner = await supervisor.prepare(second.path, second.model)
    assert supervisor.serving.version == 1  # the first serves while the second gets warm
    await supervisor.switch(second, runner)
    assert supervisor.serving.version == 2
    assert runner._began == 5  # where the first said that it stopped
    await until(lambda: supervisor.totals.frames == 8)  # totals go on
    assert supervisor.restarts == 0
    assert len(psutil.Process().children()) == 1


async def test_a_runner_that_does_not_begin_to_serve_fails_the_switch(supervisor, slot, monkeypatch):
    monkeypatch.setattr("edge_agent.supervisor._ANSWER", 0.3)
    await supervisor.serve(slot("good"))
    assert await supervisor.until_serving(5)
    deaf = slot("deaf-to-serve", 2)
    runner = await supervisor.prepare(deaf.path, deaf.model)
    with pytest.raises(RunnerError, match="was not serving within"):
        await supervisor.switch(deaf, runner)
    await supervisor.serve(slot("good"))
    assert await supervisor.until_serving(5)
    assert supervisor.serving.model == "good"


async def test_a_runner_that_dies_is_started_again_and_counted(supervisor, slot):
    await supervisor.serve(slot("dies-serving"))
    await until(lambda: supervisor.restarts >= 3)
    assert supervisor.last_death == "exit code 7"
    assert supervisor.totals.frames >= 8  # what the dead had counted is not forgotten
    await supervisor.serve(slot("good"))
    await until(lambda: supervisor.serving and supervisor.serving.model == "good")


async def test_a_slot_that_cannot_be_started_is_tried_again_and_can_be_replaced(supervisor, slot):
    await supervisor.serve(slot("dies-cold"))
    await until(lambda: supervisor.restarts >= 2)
    assert "the driver is too old" in supervisor.last_death
    await supervisor.serve(slot("good"))
    assert await supervisor.until_serving(10)


async def test_what_does_not_listen_is_killed(supervisor, slot):
    await supervisor.serve(slot("deaf"))
    assert await supervisor.until_serving(5)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await supervisor.serve(None)
    assert loop.time() - start < 2
    assert not psutil.Process().children()


async def test_a_runner_that_says_nothing_is_hung(tmp_path, slot):
    told: list[str] = []
    quick = replace(QUICK, stall_timeout=0.2)
    supervisor = Supervisor(quick, tmp_path / "results.jsonl", changed=lambda: None, died=told.append)
    task = asyncio.create_task(supervisor.run())
    await supervisor.serve(slot("good"))  # it gives one report and no more
    await until(lambda: supervisor.restarts)
    assert "it said nothing for 0.2 s" in supervisor.last_death
    assert told[-1] == supervisor.last_death
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_not_understood_ends_a_runner(supervisor, slot):
    await supervisor.serve(slot("babbles"))
    await until(lambda: supervisor.restarts)
    assert supervisor.last_death


async def test_a_cancelled_start_leaves_no_process(supervisor, slot):
    cold = slot("never-warm")
    task = asyncio.create_task(supervisor.prepare(cold.path, cold.model))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.Process().children()


async def test_progress_is_a_frame_more_or_nothing_to_wait_for(supervisor, slot):
    before = supervisor.progress
    await supervisor.serve(slot("good"))
    await until(lambda: supervisor.progress[1] == 1)
    assert supervisor.progress != before
    assert isinstance(supervisor._runner, RunnerProcess)
