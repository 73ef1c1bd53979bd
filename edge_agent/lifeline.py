"""A child process that never outlives the agent, however the agent ends.

Rules:
    * The kernel sends SIGTERM to a child when its parent dies (`prctl(2)`, PR_SET_PDEATHSIG).
    * A parent that died before that was asked for is found by its process id.
"""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["bind_to_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def bind_to_parent(parent: int) -> None:
    """Have this process end by SIGTERM when its parent, process *parent*, dies; end now if it is dead already.

    Raises:
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent:
        raise SystemExit(1)
