"""A runner process: ``python -m edge_agent.runner SPEC``, one model, one session, frames to results.

Rules:
    * It runs what was proven for the device: the variant and the execution provider of its slot.
    * It serves only after it was told to; until then it is warm and touches no frame.
    * A bad frame, a failed inference, a result that the sink did not take: each is counted, none ends the process.
      `MAX_ERRORS` failed inferences in a row do: a driver in that state recovers by a new process.
    * It ends at the end of stdin, on SIGTERM, and with its parent.

The protocol is in `edge_agent.runner_protocol`.
"""

from __future__ import annotations

import os
import queue
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import BinaryIO

import psutil
from pydantic import ValidationError

from edge_agent.camera.sources import Frame, open_source
from edge_agent.lifeline import bind_to_parent
from edge_agent.runner_protocol import (
    COMMANDS,
    Failed,
    Ready,
    Report,
    RunnerSpec,
    Serve,
    Serving,
    Stats,
    Stop,
    Stopped,
)
from edge_agent.sinks import JsonLines, Sink, result_of
from runtime.artifact import Artifact
from runtime.errors import ImageError, VedetteError
from runtime.predictor import Predictor
from runtime.tasks import Prediction

__all__ = ["Runner"]

MAX_ERRORS = 10  # failed inferences in a row


class Runner:
    """The loop of a runner process.

    Args:
        spec: What to run.
        predictor: Built and warm.
        frames: The source's frames from a number on; ``None``: there is no source.
        sink: Takes the results.
        say: Sends a report to the agent.
    """

    def __init__(
        self,
        spec: RunnerSpec,
        predictor: Predictor,
        frames: Callable[[int], Iterator[Frame]] | None,
        sink: Sink,
        say: Callable[[Report], None],
    ) -> None:
        self._spec = spec
        self._predictor = predictor
        self._open_frames = frames
        self._sink = sink
        self._say = say
        self._frames: Iterator[Frame] | None = None
        self._position = 0
        self._done = self._errors = self._errors_in_row = self._bad = self._lost = 0
        self._latencies: list[float] = []
        self._next_stats = time.monotonic() + spec.stats_interval
        self._process = psutil.Process()

    def run(self, commands: queue.SimpleQueue[Serve | Stop]) -> None:
        """Follow *commands* until `Stop`.

        Raises:
            ModelError: Inference failed too often in a row.
        """
        due = time.monotonic()
        while True:
            command = self._wait(commands, due)
            if isinstance(command, Stop):
                self._say(Stopped(position=self._position))
                return
            if isinstance(command, Serve):
                self._begin(command.position)
                due = time.monotonic()
            if self._frames is not None and time.monotonic() >= due:
                self._step()
                due = max(due + 1 / self._spec.fps, time.monotonic() - 1 / self._spec.fps)  # late frames do not pile up
            if time.monotonic() >= self._next_stats:
                self._report()

    def _wait(self, commands: queue.SimpleQueue[Serve | Stop], due: float) -> Serve | Stop | None:
        """Return the next command, or None when a frame or a report is due."""
        until = self._next_stats if self._frames is None else min(due, self._next_stats)
        pause = until - time.monotonic()
        try:
            return commands.get(timeout=pause) if pause > 0 else commands.get_nowait()
        except queue.Empty:
            return None

    def _begin(self, position: int) -> None:
        self._position = position
        self._frames = self._open_frames(position) if self._open_frames else None
        self._say(Serving())

    def _step(self) -> None:
        frame = next(self._frames, None) if self._frames is not None else None
        if frame is None:
            self._frames = None  # the source ended
            return
        start = time.perf_counter()
        try:
            (prediction,) = self._predictor.predict([frame.image])
        except ImageError:
            self._bad += 1
        except VedetteError:
            self._errors += 1
            self._errors_in_row += 1
            if self._errors_in_row >= MAX_ERRORS:
                raise
        else:
            self._latencies.append(1000 * (time.perf_counter() - start))
            self._errors_in_row = 0
            self._done += 1
            self._keep(frame, prediction)
        self._position = frame.number + 1

    def _keep(self, frame: Frame, prediction: Prediction) -> None:
        try:
            self._sink.write(result_of(frame, prediction, self._spec.model))
        except OSError:
            self._lost += 1

    def _report(self) -> None:
        self._next_stats = time.monotonic() + self._spec.stats_interval
        stats = Stats(
            frames=self._done,
            errors=self._errors,
            bad_frames=self._bad,
            lost_results=self._lost,
            latency_ms=statistics.median(self._latencies) if self._latencies else None,
            rss_bytes=self._process.memory_info().rss,
            waiting=self._frames is None,
        )
        self._latencies.clear()
        self._say(stats)


def _build(spec: RunnerSpec) -> Predictor:
    """Return the predictor of the slot, after one inference so that the first frame is no slower than the rest."""
    import numpy as np

    artifact = Artifact.open(spec.slot, digest=spec.model.manifest_sha256)
    predictor = Predictor(artifact, provider=spec.model.provider, variant=spec.model.variant)
    predictor.predict([np.zeros((64, 64, 3), dtype=np.uint8)])
    return predictor


def _read_commands(commands: queue.SimpleQueue[Serve | Stop]) -> None:
    """Put what comes on stdin into *commands*; the end of it, and what is no command, is a `Stop`.

    Unbuffered: the interpreter could not end while a thread holds the lock of a buffered stdin.
    """
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        for line in stdin:
            try:
                commands.put(COMMANDS.validate_json(line))
            except ValidationError:
                break
    commands.put(Stop())


def _take_stdout() -> BinaryIO:
    """Return stdout for the protocol alone; whoever else prints, prints to stderr from now on."""
    ours = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return ours


def _main(argument: str) -> int:
    spec = RunnerSpec.model_validate_json(argument)
    commands: queue.SimpleQueue[Serve | Stop] = queue.SimpleQueue()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the agent decides
    bind_to_parent(spec.parent)
    stdout = _take_stdout()

    def say(report: Report) -> None:
        stdout.write(report.line())

    try:
        source = open_source(spec.source) if spec.source else None
        predictor = _build(spec)
        signal.signal(signal.SIGTERM, lambda *_: commands.put(Stop()))  # `SimpleQueue.put` may be called from a handler
        threading.Thread(target=_read_commands, args=[commands], daemon=True).start()
        say(Ready())
        with closing(JsonLines(spec.results)) as sink:
            Runner(spec, predictor, source.frames if source else None, sink, say).run(commands)
    except BrokenPipeError:  # the agent is gone
        return 1
    except (VedetteError, OSError) as error:
        say(Failed(message=" ".join(str(error).split())))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
