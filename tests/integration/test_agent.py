"""The agent as a process of its own, with a real broker, real ONNX models and a controller played by the test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runtime.manifest import Golden, Manifest, PinnedFile, Postprocess, Preprocess, Resize, Tensor, Variant
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Assignment, BlobRequest, Event, Phase, Reported, Telemetry
from runtime.protocol.topics import Channel, FleetTopics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FLEET, DEVICE, PASSWORD = "lab", "cam1", "correct horse"
TOPICS = FleetTopics(FLEET)
CHUNK = 16_384
HIDDEN = 20_000  # 2 x 3 x 20,000 float32: about 30 chunks, four windows
DONE = {Phase.COMMITTED, Phase.FAILED}
PATIENCE = 40.0


# --- models --------------------------------------------------------------------------------------


def _onnx(seed: int, *, fails_on_colour: bool) -> bytes:
    """A classifier of 3 classes, uint8 NHWC in; the first weights are the same for every *seed*.

    With *fails_on_colour* inference fails on a picture of one saturated colour, and on no other.
    """
    shared = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32) / HIDDEN**0.5
    own = np.random.default_rng(seed).normal(size=(HIDDEN, 3)).astype(np.float32) / HIDDEN**0.5
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "first"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["logits"]),
    ]
    if fails_on_colour:  # picks row 0 of one row, or row 1, which is not there
        nodes[-1].output[0] = "row"
        nodes += [
            helper.make_node("ReduceMax", ["means"], ["most"], keepdims=0),
            helper.make_node("Div", ["most", "limit"], ["over"]),
            helper.make_node("Cast", ["over"], ["index"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["row", "front"], ["rows"]),
            helper.make_node("Gather", ["rows", "index"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
            numpy_helper.from_array(shared, "first"),
            numpy_helper.from_array(own, "second"),
            *(
                [
                    numpy_helper.from_array(np.array(250, dtype=np.float32), "limit"),
                    numpy_helper.from_array(np.array([0], dtype=np.int64), "front"),
                ]
                if fails_on_colour
                else []
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def build(root: Path, version: int, *, fault: str = "") -> tuple[Manifest, dict[str, bytes]]:
    """Write version *version* of a tiny model below *root*; returns its manifest and all blobs by digest."""
    root.mkdir(parents=True)
    (root / "model.fp32.onnx").write_bytes(_onnx(version, fails_on_colour=fault == "frames"))
    session = onnxruntime.InferenceSession(root / "model.fp32.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    (logits,) = session.run(None, {"images": images})
    if fault == "golden":
        logits = logits + 1
    np.savez(root / "golden.npz", **{"input": images, "output/fp32/logits": logits})
    manifest = Manifest(
        name="tiny",
        version=version,
        task="classification",
        labels=("red", "green", "blue"),
        preprocess=Preprocess(resize=Resize(mode="exact", size=(8, 8)), embedded=True),
        postprocess=Postprocess(kind="classification", top_k=1),
        variants=(
            Variant(
                **PinnedFile.measure(root / "model.fp32.onnx", CHUNK),
                id="fp32",
                precision="fp32",
                opset=20,
                ir=10,
                inputs=(Tensor(name="images", dtype="uint8", shape=("N", 8, 8, 3)),),
                outputs=(Tensor(name="logits", dtype="float32", shape=("N", 3)),),
            ),
        ),
        golden=Golden(**PinnedFile.measure(root / "golden.npz", CHUNK)),
        provenance={"framework": "onnx.helper", "created": datetime(2026, 1, 1, tzinfo=UTC)},
    )
    blobs = {manifest.digest: manifest.to_bytes()}
    for pinned in manifest.files:
        data = (root / pinned.file).read_bytes()
        parts = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        blobs |= {hashlib.sha256(part).hexdigest(): part for part in parts}
    return manifest, blobs


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Versions 1 and 2, good; version 3, whose golden output is wrong; version 4, which fails on the frames."""
    root = tmp_path_factory.mktemp("models")
    faults = {1: "", 2: "", 3: "golden", 4: "frames"}
    return {version: build(root / str(version), version, fault=fault) for version, fault in faults.items()}


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A directory of four pictures, one of which is none."""
    root = tmp_path_factory.mktemp("images")
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (16, 12), colour).save(root / f"{number}.png")
    (root / "3.png").write_bytes(b"not a picture")
    return root


# --- brokers -------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A broker process on a port of its own, with one user a device and one for the controller."""

    def __init__(self, root: Path, program: str) -> None:
        self.port = _free_port()
        self._root = root
        self._command = getattr(self, f"_{program.replace('-', '_')}")(program)
        self._process: subprocess.Popen | None = None

    def _nats_server(self, program: str) -> list[str]:
        configuration = {
            "server_name": "test",
            "host": "127.0.0.1",
            "port": -1,
            "jetstream": {"store_dir": str(self._root / "jetstream")},
            "mqtt": {"host": "127.0.0.1", "port": self.port},
            "accounts": {
                "test": {
                    "jetstream": "enabled",
                    "users": [{"user": user, "password": PASSWORD} for user in ("controller", DEVICE)],
                }
            },
        }
        (self._root / "nats.conf").write_text(json.dumps(configuration))
        beside = Path(sys.executable).with_name(program)
        return [str(beside if beside.exists() else shutil.which(program)), "-c", str(self._root / "nats.conf")]

    def _mosquitto(self, program: str) -> list[str]:
        (self._root / "mosquitto.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        return [program, "-c", str(self._root / "mosquitto.conf")]

    def start(self) -> None:
        with (self._root / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise TimeoutError((self._root / "broker.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture(params=["nats-server"])
def broker(tmp_path, request):
    (tmp_path / "broker").mkdir()
    broker = Broker(tmp_path / "broker", request.param)
    broker.start()
    yield broker
    broker.stop()


# --- the controller, played ------------------------------------------------------------------------


class Controller:
    """Answers for chunks, sends assignments, and writes down what the device says."""

    def __init__(self, port: int) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []  # every digest asked for, in order
        self.silent_after: int | None = None  # answer so many chunks, then no more
        self.reported: list[Reported] = []
        self.events: list[Event] = []
        self.telemetry: list[Telemetry] = []
        self.statuses: list[str] = []
        self._port = port
        self._client: aiomqtt.Client | None = None
        self._news = asyncio.Condition()

    async def run(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", self._port, username="controller", password=PASSWORD, identifier="controller"
                ) as client:
                    await client.subscribe([(TOPICS.every_device(c), 1) for c in Channel if c is not Channel.DESIRED])
                    await client.subscribe(TOPICS.blob_requests)
                    self._client = client
                    async for message in client.messages:
                        await self._take(client, str(message.topic), bytes(message.payload))
            self._client = None
            await asyncio.sleep(0.2)

    async def _take(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        match topic.rpartition("/")[2]:
            case "get":
                for digest in BlobRequest.parse(payload).digests:
                    self.asked.append(digest)
                    if self.silent_after is None or len(self.asked) <= self.silent_after:
                        await client.publish(TOPICS.blob(digest), self.blobs.get(digest, b""))
            case "status":
                self.statuses.append(payload.decode())
            case "reported":
                self.reported.append(Reported.parse(payload))
            case "events":
                self.events.append(Event.parse(payload))
            case "telemetry":
                self.telemetry.append(Telemetry.parse(payload))
        async with self._news:
            self._news.notify_all()

    async def until(self, condition, what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(condition)
        except TimeoutError:
            last = self.reported[-1:] or ["nothing reported"]
            pytest.fail(f"never: {what}; last: {last[0]}; events: {[(e.kind, e.phase, e.code) for e in self.events]}")

    async def assign(self, sequence: int, manifest: Manifest, **config: str) -> None:
        assignment = Assignment(
            device=DEVICE,
            sequence=sequence,
            model=manifest.name,
            version=manifest.version,
            manifest_sha256=manifest.digest,
            manifest_size=len(manifest.to_bytes()),
            config={"probation_seconds": "1", "probation_frames": "2"} | config,
        )
        await self.desire(assignment.to_bytes())

    async def desire(self, payload: bytes) -> None:
        await until(lambda: self._client is not None, "the controller's connection")
        await self._client.publish(TOPICS.device(DEVICE, Channel.DESIRED), payload, qos=1, retain=True)

    async def until_done(self, sequence: int) -> Reported:
        await self.until(
            lambda: self.reported and self.last.sequence == sequence and self.last.phase in DONE,
            f"assignment {sequence} done",
        )
        return self.last

    @property
    def last(self) -> Reported:
        return self.reported[-1]

    def serves(self, version: int) -> bool:
        return bool(self.reported) and self.last.active is not None and self.last.active.version == version

    def phases(self, sequence: int) -> list[Phase]:
        return [event.phase for event in self.events if event.kind == "phase" and event.sequence == sequence]


@pytest.fixture
async def controller(broker, models):
    controller = Controller(broker.port)
    for _, blobs in models.values():
        controller.blobs |= blobs
    task = asyncio.create_task(controller.run())
    yield controller
    task.cancel()
    await asyncio.wait([task])


# --- the agent -------------------------------------------------------------------------------------


class AgentProcess:
    """`vedette-agent run` on a home of its own."""

    def __init__(self, home: Path, port: int, *arguments: str) -> None:
        self.home = home
        self._arguments = arguments
        self._process: subprocess.Popen | None = None
        bundle = Bundle(
            fleet=FLEET, device=DEVICE, broker=f"mqtt://127.0.0.1:{port}", username=DEVICE, password=PASSWORD
        )
        bundle.write(home.parent / "bundle.json")
        self.command("enroll", str(home.parent / "bundle.json"))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        line = [
            sys.executable,
            "-c",
            "from edge_agent.cli import main; main()",
            verb,
            *arguments,
            "--home",
            str(self.home),
        ]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=check)

    def start(self, **environment: str) -> None:
        line = [sys.executable, "-c", "from edge_agent.cli import main; main()", "run", "--home", str(self.home)]
        with (self.home / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*line, *self._arguments], stdout=log, stderr=log, env=os.environ | environment
            )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """End it politely; returns exit code and seconds."""
        assert self._process is not None
        start = time.monotonic()
        self._process.send_signal(number)
        code = self._process.wait(15)
        return code, time.monotonic() - start

    def clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def runners(self) -> list[psutil.Process]:
        return runners_of(self.home)

    def log(self) -> str:
        return (self.home / "agent.log").read_text()

    def results(self) -> list[dict]:
        path = self.home / "results.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def runners_of(home: Path) -> list[psutil.Process]:
    """Runner processes that work on *home*, whoever their parent is."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "edge_agent.runner" in line and any(str(home) in part for part in line):
            found.append(process)
    return found


async def until(condition, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.05)


@pytest.fixture
def agent(tmp_path, broker, images):
    (tmp_path / "device").mkdir()
    arguments = ("--source", f"file://{images}/*.png", "--fps", "20", "--telemetry-interval", "0.5")
    agent = AgentProcess(tmp_path / "device" / "home", broker.port, *arguments)
    agent.start()
    yield agent
    agent.clean_up()
    if "PYTEST_SHOW_AGENT_LOG" in os.environ:
        print(agent.log())  # noqa: T201 - asked for


# --- what is shown ---------------------------------------------------------------------------------


async def test_a_model_is_rolled_out_a_broken_one_is_refused_and_a_better_one_takes_over(agent, controller, models):
    """From desired to committed; a wrong golden output; a swap that reuses chunks; a clean end."""
    await controller.until(lambda: controller.statuses[-1:] == ["online"], "online")

    (v1, v1_blobs), (v2, v2_blobs), (v3, _) = models[1], models[2], models[3]
    await controller.assign(1, v1)
    first = await controller.until_done(1)
    assert first.phase is Phase.COMMITTED
    assert (first.active.version, first.active.manifest_sha256) == (1, v1.digest)
    assert first.active.provider in first.providers
    assert set(controller.asked) == set(v1_blobs)
    await controller.until(lambda: Phase.COMMITTED in controller.phases(1), "the event of it")
    assert controller.phases(1) == [
        Phase.DOWNLOADING, Phase.VERIFYING, Phase.PROVING, Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED,
    ]  # fmt: skip

    controller.asked.clear()
    (runner,) = agent.runners()
    await controller.assign(2, v3)
    refused = await controller.until_done(2)
    assert (refused.phase, refused.failure.code, refused.failure.sequence) == (Phase.FAILED, "proof", 2)
    assert refused.failure.manifest_sha256 == v3.digest
    assert "golden" in refused.failure.message
    assert refused.active.version == 1
    assert [one.pid for one in agent.runners()] == [runner.pid]  # it was never disturbed

    controller.asked.clear()
    await controller.assign(3, v2)
    second = await controller.until_done(3)
    assert (second.phase, second.active.version) == (Phase.COMMITTED, 2)
    shared = set(v2_blobs) & set(v1_blobs)
    assert len(shared) > 10
    assert set(controller.asked) == set(v2_blobs) - shared

    versions = [result["model"] for result in agent.results()]
    assert sorted(set(versions)) == ["tiny@1", "tiny@2"]
    assert versions == sorted(versions)  # one serves at a time
    frames = [result["frame"] for result in agent.results()]
    assert frames == sorted(set(frames))  # the second goes on where the first stopped
    assert all(frame % 4 != 3 for frame in frames)  # the picture that is none

    await controller.until(lambda: len(controller.telemetry) > 1, "telemetry")
    names = {sample.name for batch in controller.telemetry for sample in batch.samples}
    assert {"system.cpu.utilization", "vedette.inference.frames", "vedette.inference.duration"} <= names

    code, seconds = agent.stop()
    assert (code, agent.runners()) == (0, [])
    assert seconds < 5
    await controller.until(lambda: controller.statuses[-1] == "offline", "offline")


async def test_a_killed_runner_is_replaced_and_a_killed_agent_leaves_no_runner(agent, controller, models):
    await controller.assign(1, models[1][0])
    await controller.until_done(1)

    (runner,) = agent.runners()
    runner.kill()
    await controller.until(lambda: controller.last.active is None, "a report that nothing serves")
    await controller.until(lambda: controller.serves(1), "a new runner")
    assert [one.pid for one in agent.runners()] != [runner.pid]
    await controller.until(lambda: any(event.code == "runner" for event in controller.events), "an event that says so")
    assert json.loads(agent.command("status", "--json").stdout)["restarts"] == 1

    before = len(agent.results())
    agent.kill()
    await until(lambda: not agent.runners(), "the runner ends with the agent", 10)
    await controller.until(lambda: controller.statuses[-1] == "offline", "the last will")
    agent.start()
    await until(lambda: len(agent.results()) > before, "the active slot is served again")
    await controller.until(lambda: controller.statuses[-1] == "online" and controller.serves(1), "back")
    assert controller.last.phase is Phase.COMMITTED


async def test_a_download_that_was_cut_fetches_only_what_is_missing(agent, controller, models):
    manifest, blobs = models[1]
    controller.silent_after = 1 + 16  # the manifest, and two windows
    await controller.assign(1, manifest)
    await controller.until(lambda: len(controller.asked) > controller.silent_after, "the third window")
    agent.kill()
    kept = {path.name for path in (agent.home / "chunks").iterdir()}
    assert len(kept & set(blobs)) == 17

    controller.asked.clear()
    controller.silent_after = None
    agent.start()
    assert (await controller.until_done(1)).phase is Phase.COMMITTED
    assert set(controller.asked) == set(blobs) - kept


async def test_inference_and_telemetry_go_on_while_the_broker_is_away(agent, controller, broker, models):
    await controller.assign(1, models[1][0])
    await controller.until_done(1)
    await controller.until(lambda: controller.telemetry, "telemetry")
    broker.stop()
    await until(lambda: not json.loads(agent.command("status", "--json").stdout)["connected"], "the loss is known")
    before = len(agent.results())
    await asyncio.sleep(2)
    assert len(agent.results()) > before + 10
    broker.start()
    reports = len(controller.reported)
    await controller.until(lambda: len(controller.reported) > reports and controller.serves(1), "a new report")
    last = controller.telemetry[-1].number
    await controller.until(lambda: controller.telemetry[-1].number > last, "telemetry again")
    numbers = [batch.number for batch in controller.telemetry]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))  # nothing lost
    first_seen = list(dict.fromkeys(numbers))
    assert first_seen == sorted(first_seen)  # in order


async def test_systemd_hears_of_an_agent_only_while_inference_goes_on(agent, controller, models, tmp_path):
    await controller.assign(1, models[1][0])
    await controller.until_done(1)
    agent.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        heard: list[str] = []

        def hears(text: str) -> bool:
            with suppress(BlockingIOError):
                while True:
                    heard.append(systemd.recv(1000).decode())
            return text in heard

        agent.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="4000000")
        await until(lambda: hears("READY=1"), "ready")
        await until(lambda: hears("WATCHDOG=1"), "the watchdog fed")
        (runner,) = agent.runners()
        runner.suspend()
        await asyncio.sleep(2.5)  # what was under way when it was suspended
        hears("")
        heard.clear()
        await asyncio.sleep(4.5)
        assert not hears("WATCHDOG=1")
        runner.resume()
        await until(lambda: hears("WATCHDOG=1"), "the watchdog fed again")
        assert agent.stop()[0] == 0
        assert hears("STOPPING=1")


async def test_a_model_that_fails_on_probation_is_taken_back(agent, controller, models):
    await controller.assign(1, models[1][0])
    await controller.until_done(1)
    await controller.assign(2, models[4][0])
    failed = await controller.until_done(2)
    assert (failed.phase, failed.failure.code) == (Phase.FAILED, "probation")
    assert "inferences failed" in failed.failure.message
    assert failed.active.version == 1  # it serves again by the time the failure is told
    assert Phase.PROBATION in controller.phases(2)
    assert (agent.home / "slots" / "active" / "manifest.json").read_bytes() == models[1][0].to_bytes()


async def test_an_agent_killed_on_probation_serves_the_old_model_and_tries_once_more(agent, controller, models):
    await controller.assign(1, models[1][0])
    await controller.until_done(1)
    for attempt in (1, 2):
        if attempt == 1:
            await controller.assign(2, models[2][0], probation_seconds="60")
        await controller.until(lambda: controller.serves(2) and controller.last.phase is Phase.PROBATION, "probation")
        agent.kill()
        controller.reported.clear()
        agent.start()
        await controller.until(lambda: any(r.active and r.active.version == 1 for r in controller.reported), "v1")
    failed = await controller.until_done(2)  # a model that takes the agent down twice is not tried again
    assert (failed.phase, failed.failure.code) == (Phase.FAILED, "probation")
    await controller.until(lambda: controller.serves(1), "v1 goes on")


async def test_a_newer_assignment_takes_the_place_of_a_running_update(agent, controller, models):
    controller.silent_after = 5
    await controller.assign(1, models[1][0])
    await controller.until(lambda: len(controller.asked) > 5, "a download that hangs")
    controller.silent_after = None
    await controller.assign(2, models[2][0])
    assert (await controller.until_done(2)).active.version == 2
    codes = [(event.sequence, event.code) for event in controller.events if event.phase is Phase.FAILED]
    assert codes == [(1, "superseded")]


async def test_bad_messages_and_commands_are_answered_with_events(agent, controller, models):
    await controller.desire(b"{not json")
    await controller.until(lambda: any(event.code == "protocol" for event in controller.events), "a protocol error")
    await controller.assign(5, models[1][0])
    await controller.until_done(5)
    await controller.assign(4, models[2][0])
    await controller.until(lambda: any(event.code == "stale" for event in controller.events), "a stale assignment")
    assert controller.serves(1)
    missing = models[2][0].model_copy(update={"version": 9})
    await controller.assign(6, missing)  # nobody has its manifest
    failed = await controller.until_done(6)
    assert (failed.phase, failed.failure.code, failed.active.version) == (Phase.FAILED, "download", 1)


async def test_a_wrong_password_is_one_line_an_attempt_and_a_second_agent_is_refused(
    agent, controller, tmp_path, broker
):
    await controller.until(lambda: controller.statuses[-1:] == ["online"], "online")
    second = agent.command("run", check=False)
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert f"in use by process {agent.pid}" in second.stderr
    assert "error" not in agent.log()

    (tmp_path / "other").mkdir()
    other = AgentProcess(tmp_path / "other" / "home", broker.port)
    bundle = Bundle.read(other.home / "bundle.json")
    wrong = bundle.model_copy(update={"password": type(bundle.password)("hunter2"), "device": "cam2"})
    wrong.write(other.home / "bundle.json")
    other.start()
    try:
        await until(lambda: other.log().count("broker not reached") >= 2, "two attempts")
        lines = [json.loads(line) for line in other.log().splitlines()]
        assert "hunter2" not in other.log()
        reasons = {line["reason"] for line in lines if line["event"] == "broker not reached"}
        assert len(reasons) == 1
        assert "uthor" in reasons.pop()  # not authorized
        code, seconds = other.stop(signal.SIGINT)
        assert code == 0
        assert seconds < 5
    finally:
        other.clean_up()


@pytest.mark.skipif(shutil.which("mosquitto") is None, reason="there is no mosquitto on the PATH")
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
async def test_the_same_goes_through_mosquitto(agent, controller, models):
    await controller.assign(1, models[1][0])
    assert (await controller.until_done(1)).phase is Phase.COMMITTED
