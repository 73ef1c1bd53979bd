"""The runner's loop, with a predictor that answers at once; the process around it is the integration tests'."""

from __future__ import annotations

import json
import queue
import threading
import time
from contextlib import closing

import pytest

from edge_agent.camera.sources import Frame
from edge_agent.runner import MAX_ERRORS, Runner
from edge_agent.runner_protocol import COMMANDS, REPORTS, RunnerSpec, Serve, Serving, Stats, Stop, Stopped
from edge_agent.sinks import JsonLines
from runtime.errors import ImageError, ModelError
from runtime.tasks import Classification


class Predictor:
    """Answers; raises for pictures that say so."""

    def predict(self, sources):
        match sources[0]:
            case b"bad picture":
                raise ImageError("truncated", "it ends early")
            case b"bad inference":
                raise ModelError("the driver is gone")
        return [Classification(label_id=1, label="cat", score=0.5, top_k=())]


class Harness:
    """A runner in a thread, over frames with the given contents."""

    def __init__(self, tmp_path, model, contents: list[bytes] | None, fps: float = 1000.0) -> None:
        self.said: list = []
        self.commands: queue.SimpleQueue = queue.SimpleQueue()
        self.error: Exception | None = None
        self.path = tmp_path / "results.jsonl"
        spec = RunnerSpec(
            slot=tmp_path, model=model, source=None, fps=fps, results=self.path, stats_interval=0.02, parent=1
        )

        def frames(start: int):
            for number in range(start, len(contents)):
                yield Frame(number=number, name=f"file#{number}", image=contents[number])

        self._sink = JsonLines(self.path)
        source = frames if contents is not None else None
        self._runner = Runner(spec, Predictor(), source, self._sink, self.said.append)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with closing(self._sink):
            try:
                self._runner.run(self.commands)
            except ModelError as error:
                self.error = error

    @property
    def stats(self) -> Stats:
        return next((report for report in reversed(self.said) if isinstance(report, Stats)), Stats())

    def until(self, condition) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, self.said[-3:]
            time.sleep(0.005)

    def stop(self) -> Stopped:
        self.commands.put(Stop())
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.said[-1]

    def results(self) -> list[dict]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def test_it_touches_no_frame_before_it_is_told_to_serve(tmp_path, model_state):
    harness = Harness(tmp_path, model_state(1), [b"picture"] * 3)
    harness.until(lambda: len(harness.said) > 2)
    assert all(isinstance(report, Stats) and report.waiting and not report.frames for report in harness.said)
    assert harness.stop() == Stopped(position=0)
    assert harness.results() == []


def test_frames_become_results_from_the_position_on(tmp_path, model_state):
    harness = Harness(tmp_path, model_state(7, "int8"), [b"picture"] * 6)
    harness.commands.put(Serve(position=2))
    harness.until(lambda: harness.stats.frames == 4)
    harness.until(lambda: harness.stats.waiting)  # the source ended; the runner did not
    assert Serving() in harness.said
    assert harness.stop() == Stopped(position=6)
    assert [result["frame"] for result in harness.results()] == [2, 3, 4, 5]
    first = harness.results()[0]
    assert (first["model"], first["variant"], first["label"], first["source"]) == ("tiny@7", "int8", "cat", "file#2")


def test_bad_pictures_and_failed_inferences_are_counted_apart(tmp_path, model_state):
    contents = [b"picture", b"bad picture", b"bad inference", b"picture", b"bad picture"]
    harness = Harness(tmp_path, model_state(1), contents)
    harness.commands.put(Serve())
    harness.until(lambda: harness.stats.frames == 2 and harness.stats.waiting)
    harness.until(lambda: (harness.stats.errors, harness.stats.bad_frames) == (1, 2))
    assert harness.stop() == Stopped(position=5)
    assert [result["frame"] for result in harness.results()] == [0, 3]


def test_a_driver_that_only_fails_ends_the_process(tmp_path, model_state):
    harness = Harness(tmp_path, model_state(1), [b"bad inference"] * (MAX_ERRORS + 5))
    harness.commands.put(Serve())
    harness.until(lambda: harness.error is not None)
    assert "the driver is gone" in str(harness.error)


def test_the_rate_is_kept(tmp_path, model_state):
    harness = Harness(tmp_path, model_state(1), [b"picture"] * 1000, fps=50)
    harness.commands.put(Serve())
    time.sleep(1)
    harness.stop()
    assert 10 <= len(harness.results()) <= 52  # late frames do not pile up


def test_stopping_does_not_wait_for_a_slow_source(tmp_path, model_state):
    harness = Harness(tmp_path, model_state(1), [b"picture"] * 5, fps=0.01)
    harness.commands.put(Serve())
    harness.until(lambda: harness.stats.frames == 1)
    start = time.monotonic()
    assert harness.stop() == Stopped(position=1)
    assert time.monotonic() - start < 1


def test_results_that_the_disk_does_not_take_are_counted(tmp_path, model_state, monkeypatch):
    def full(_self, _result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonLines, "write", full)
    harness = Harness(tmp_path, model_state(1), [b"picture"] * 3)
    harness.commands.put(Serve())
    harness.until(lambda: harness.stats.lost_results == 3)
    assert harness.stats.frames == 3
    harness.stop()


@pytest.mark.parametrize("report", [Serving(), Stats(frames=3, latency_ms=1.5), Stopped(position=9)])
def test_reports_round_trip(report):
    assert REPORTS.validate_json(report.line()) == report


@pytest.mark.parametrize("command", [Serve(position=4), Stop()])
def test_commands_round_trip(command):
    assert COMMANDS.validate_json(command.line()) == command


def test_the_results_file_is_bounded(tmp_path):
    sink = JsonLines(tmp_path / "results.jsonl", max_bytes=1000)
    for number in range(200):
        sink.write({"number": number, "text": "ä" * 20})
    sink.close()
    old, new = tmp_path / "results.jsonl.1", tmp_path / "results.jsonl"
    assert old.stat().st_size <= 1000
    assert new.stat().st_size <= 1000
    numbers = [json.loads(line)["number"] for path in (old, new) for line in path.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 200))
