"""The bound on a worker's buffers, seen from outside: the peak of a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.input.sources import Columns, open_source
from cluster.plan import ShardLimits, plan_shards

MIB = 1024**2
ROWS = 300

SCRIPT = """
import json, sys
from pathlib import Path
import pyarrow as pa
from cluster.plan import ShardLimits, plan_shards
from cluster.input.sources import Columns, open_source
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads, WorkerSpec
from cluster.models import JobModel
from runtime.artifact import Artifact

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

root, source, output, memory = sys.argv[1:]
found = open_source(source, Columns(image="image"))
(shard,) = plan_shards(found.files, ShardLimits(rows=1000, size=1 << 40), reader=found.reader)
spec = WorkerSpec(output=output, columns=found.columns, kept=(), batch_size=64, provider="cpu", memory=int(memory))
worker = ShardWorker([JobModel(artifact=Artifact.open(Path(root)))], spec, Threads(decode=2))
worker.probe(shard, (0, 2))
before = peak()
worker.probe(shard, (0, shard.rows))
print(json.dumps({"grown": peak() - before, "size": shard.size}))
"""


def grown(root: Path, source: Path, output: Path, memory: int) -> int:
    """Return by how many bytes a worker's process grows that reads all of *source*, one row group."""
    call = [sys.executable, "-c", SCRIPT, str(root), str(source), str(output), str(memory)]
    done = subprocess.run(call, capture_output=True, check=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert found["size"] > 250 * MIB
    return found["grown"]


@pytest.fixture
def large_row_group(tmp_path: Path) -> Path:
    """A file of one row group: pictures of 1 MB each, a page each."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)).save(buffer, "BMP")
    path, schema = tmp_path / "in.parquet", pa.schema([("image", pa.binary())])
    table = pa.table([[buffer.getvalue()] * ROWS], schema=schema)
    pq.write_table(table, path, row_group_size=ROWS, use_dictionary=False, write_batch_size=1, compression="none")
    return path


def test_the_peak_of_a_worker_follows_its_bound_and_not_the_row_group(artifact, large_row_group, tmp_path):
    bounded = grown(artifact.root, large_row_group, tmp_path / "out", 32 * MIB)
    assert bounded < 80 * MIB  # the bound, a picture that each decoder unpacks, and what the allocators keep
    assert grown(artifact.root, large_row_group, tmp_path / "out", 1024 * MIB) > 2 * bounded


def test_a_row_group_above_the_bound_is_planned_in_pieces(large_row_group):
    source = open_source(str(large_row_group), Columns(image="image"))
    shards = plan_shards(source.files, ShardLimits(rows=1000, size=32 * MIB), reader=source.reader)
    assert len(shards) == 10
    assert {shard.rows for shard in shards} == {ROWS // 10}
