"""Driver, actors and nodes killed with SIGKILL at random moments: the answers are those of a run in peace.

`benchmarks/chaos.py` does the same for longer, and on S3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_runs import processes_of, quarantine, wait_until
from chaos import BAD_ROWS, NODES, Chaos, compare, redone, write_input
from color_model import write_artifact
from ray_nodes import ray_nodes

from cluster.output.read import read_manifest
from runtime.proof import prove_isolated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROWS = 3000


@pytest.fixture
def chaos(tmp_path: Path, home: Path) -> Iterator[Chaos]:
    model = write_artifact(tmp_path / "model").root
    assert prove_isolated(model, "fp32", "CPUExecutionProvider").passed
    rows = write_input(tmp_path / "in.parquet", ROWS)
    with ray_nodes(*NODES) as cluster:
        yield Chaos(cluster=cluster, model=model, rows=rows, home=home, chooser=random.Random(5))
    wait_until(lambda: not processes_of(home), "all processes ended")


@pytest.mark.parametrize("further", [(), ("--partition-by", "site")], ids=["whole", "partitioned"])
def test_whatever_is_killed_no_row_is_lost_doubled_or_changed(chaos, tmp_path, further):
    peace, war = str(tmp_path / "peace"), str(tmp_path / "war")
    chaos.further = further
    chaos.undisturbed(peace)
    run = chaos.disturbed(war, ("actor", "node", "driver", "actor"), gap=(0.1, 1.0))
    assert run["kills"], "the job ended before anything was killed"
    assert compare(peace, war) == {"lost": 0, "doubled": 0, "changed": 0}
    assert [row["source_row"] for row in quarantine(Path(war))] == list(BAD_ROWS)
    files = {path.relative_to(war).as_posix() for path in Path(war, "data").rglob("*.parquet")}
    assert files == {file.path for file in read_manifest(war).data}
    assert redone(war) <= run["in_flight"] + run["faults"].get("second attempt", 0)
