"""The processes that run trials: started, watched, and started again when a trial was their last.

Rules:
    * A process that dies within a trial names it in its journal; the trial is judged *crash*, or *hang* if it
      was ended for its processor time or did not write for long, and the next process goes on behind it.
    * A process that was large ends by itself, and another goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from journal import Journal, unfinished
from trial import Verdict

__all__ = ["Worker", "run"]

HERE = Path(__file__).parent
SILENCE = 120.0  # seconds on the clock without a trial ending, until a process is taken for dead
PAUSE = 0.05  # seconds between looks at the processes


@dataclass(kw_only=True)
class Worker:
    """A child process, and what it works on.

    Attributes:
        seed: Of the random numbers.
        numbers: (start, stop, step) of the trials.
        journal: Where it writes what came of them.
        command: What is run, with the task as JSON behind it.
    """

    seed: int
    numbers: tuple[int, int, int]
    journal: Path
    command: tuple[str, ...] = (sys.executable, str(HERE / "worker.py"))
    process: subprocess.Popen[bytes] | None = None
    size: int = -1  # of the journal when it was last looked at, in bytes
    heard: float = 0.0  # when it last grew, on the monotonic clock

    def start(self) -> None:
        """Start the process, or start it again."""
        task = {"seed": self.seed, "numbers": self.numbers, "journal": str(self.journal)}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        with self.journal.with_suffix(".stderr").open("ab") as printed:
            self.process = subprocess.Popen([*self.command, json.dumps(task)], stderr=printed, env=environment)
        self.heard = time.monotonic()

    def poll(self) -> bool:
        """Look after the process; say whether there is still something to do.

        Raises:
            SystemExit: It ended between two trials, which is a fault of the fuzzer itself.
        """
        assert self.process is not None
        silent = self._silent_for() > SILENCE
        if silent:
            self.process.kill()
        code = self.process.wait() if silent else self.process.poll()
        if code is None:
            return True
        if unfinished(self.journal) is not None:
            self._bury("hang" if silent or code == -signal.SIGPROF else "crash", code)
        elif code != 0:
            raise SystemExit(f"a process ended with {code} between trials: {self.journal.with_suffix('.stderr')}")
        elif not self._ended_for_its_size():
            return False
        self.start()
        return True

    def _silent_for(self) -> float:
        size = self.journal.stat().st_size if self.journal.exists() else 0
        if size != self.size:
            self.size, self.heard = size, time.monotonic()
        return time.monotonic() - self.heard

    def _ended_for_its_size(self) -> bool:
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else []
        last = int(lines[-1].split()[0]) if lines else -1
        return bool(lines) and '["memory"' in lines[-1] and last + self.numbers[2] < self.numbers[1]

    def _bury(self, outcome: str, code: int) -> None:
        with Journal(self.journal) as journal:
            journal.end(Verdict(outcome=outcome, seconds=0.0, rss=0, detail=f"the process ended with {code}"))


def run(workers: list[Worker], progress: Callable[[int], object]) -> None:
    """Run *workers* to their end.

    Args:
        workers: Not started.
        progress: Called every now and then, with the size of all journals.
    """
    for worker in workers:
        worker.start()
    while sum(worker.poll() for worker in workers):
        time.sleep(PAUSE)
        progress(sum(worker.size for worker in workers))
