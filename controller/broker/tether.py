"""Run a program that cannot outlive its parent: ``python tether.py PARENT_PID PROGRAM ARGUMENT...``.

The kernel is asked to send SIGTERM when the parent ends, however it ends (prctl PR_SET_PDEATHSIG),
then this process becomes PROGRAM: same process id, no Python left. Run as a file of its own, so
that it starts in a few milliseconds, and not as a ``preexec_fn``, which is not safe with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then replace it by the program."""
    parent, program = int(arguments[0]), arguments[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - a program and its arguments, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
