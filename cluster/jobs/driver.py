"""What runs on the cluster as the driver of a submitted job: `vedette batch run`, and nothing more.

It is called as a module because the cluster may not have Vedette installed: the code came with the job.
"""

from __future__ import annotations

from cluster.cli.run import run
from runtime.cli import run_command

__all__: list[str] = []

if __name__ == "__main__":
    run_command(run, "vedette batch run")
