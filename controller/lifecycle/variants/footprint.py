"""How much memory a process needs that runs one variant and does nothing else.

Rules:
    * The figure is the high-water mark of the resident set of the proof's own process (`runtime.proving`):
      Python, NumPy, ONNX Runtime and the model.
    * The kernel carries a parent's high-water mark over fork and exec, so a process of hundreds of
      megabytes cannot ask for its child's. Hence a small process in between, which is this module run
      as a program: ``python -m controller.lifecycle.variants.footprint ROOT VARIANT PROVIDER`` prints KiB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from controller.errors import ExportError

__all__ = ["peak_memory_mb"]

TIMEOUT = 120.0  # seconds


def peak_memory_mb(root: Path, variant: str, provider: str = "CPUExecutionProvider") -> int:
    """Return the most memory, in MiB, that a process which proves *variant* of the artifact in *root* holds.

    Raises:
        ExportError: The process failed, or did not end in time.
    """
    command = [sys.executable, "-P", "-m", "controller.lifecycle.variants.footprint", str(root), variant, provider]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"variant {variant!r} does not run in a process of its own: {error}") from None
    return -(-int(done.stdout) // 1024)


def _main(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-P", "-m", "runtime.proving", *arguments],
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=True,
    )
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))  # Linux counts KiB


if __name__ == "__main__":
    _main(sys.argv[1:])
