"""A process that runs trials, and writes what comes of them into its journal.

Rules:
    * A trial that needs far more than the allowed processor time ends the process by signal (SIGPROF), also
      within a codec: time on the clock would blame a busy machine.
    * The address space is bounded, so that no trial can take the machine with it.
    * What was tried before, by whichever process, is not tried again.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from journal import Journal, read_journals
from seeds import seeds
from trial import MAX_CPU, draw, judged

__all__ = ["main"]

GUARD = 3 << 30  # bytes of address space beyond what the process has at its start
PATIENCE = 3 * MAX_CPU  # seconds of processor time until the process ends: the trial, and Pillow's answer to compare


def main(task: str) -> None:
    """Run trials.

    Args:
        task: As JSON: ``seed``, ``numbers`` (start, stop, step) and ``journal`` (its path).
    """
    asked = json.loads(task)
    path = Path(asked["journal"])
    files, done = seeds(), read_journals(path.parent)
    _bound_address_space()
    with Journal(path) as journal:
        for number in range(*asked["numbers"]):
            if number in done:
                continue
            data, options = draw(asked["seed"], number, files)
            journal.begin(number)
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            verdict = judged(data, options)
            signal.setitimer(signal.ITIMER_PROF, 0)
            journal.end(verdict)
            if verdict.outcome == "memory":
                break  # it would be said of all that follow: a fresh process goes on


def _bound_address_space() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + GUARD
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1])
