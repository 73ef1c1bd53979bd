"""Jobs on a cluster that has no core until Ray's autoscaler brings some: a head, and nodes that come when asked for."""

from __future__ import annotations

import pytest
from autoscaled import autoscaled
from batch_runs import actors, assert_every_row_once, finish, start
from color_model import write_artifact, write_rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROWS = 400
PATIENCE = 300  # seconds; nodes come one after the other


@pytest.mark.parametrize(("workers", "cores", "nodes"), [("2", 1, 2), ("auto", 2, 1)])
def test_a_job_gets_its_nodes_from_the_autoscaler(tmp_path, workers, cores, nodes):
    with autoscaled(tmp_path / "home", cores=cores, most=2) as cluster:
        assert len(cluster.nodes()) == 1
        model = write_artifact(tmp_path / "model").root
        rows = write_rows(tmp_path / "in.parquet", ROWS, row_group=20, side=300)
        out = tmp_path / "out"
        arguments = ("--address", cluster.address, "--workers", workers, "--shard-rows", "20")
        summary = finish(start(model, rows, out, *arguments, env={"VEDETTE_HOME": str(cluster.home)}), PATIENCE)
        assert_every_row_once(out, ROWS, ())
        assert summary["workers"] == 2
        assert len(cluster.nodes()) == 1 + nodes
        assert 1 <= len(actors(out)) <= 2
