"""Captured graphs in a batch job; CUDA is a double at the boundary of ONNX Runtime."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from color_model import color_artifact, write_artifact, write_rows
from gpu_double import Gpu

from cluster.output.records import Commit
from cluster.planning import Job, plan_job
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from cluster.worker.tuning import LADDER
from runtime.artifact import Artifact
from runtime.session import SessionOptions

PATIENCE = 10  # seconds
PLAIN = SessionOptions(intra_op_threads=1)
ROWS = 50  # shards of 17, 17 and 16


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def captured_options(size: int) -> SessionOptions:
    return SessionOptions(intra_op_threads=1, fixed_batch=size, capture_graph=True)


def run(job: Job) -> tuple[ShardWorker, list[Commit]]:
    job.output.claim(job.record)
    worker = ShardWorker(job.models, job.spec, Threads(decode=2))
    return worker, [worker.run(shard) for shard in job.shards]


def rows(job: Job, commits: list[Commit]) -> list[dict]:
    paths = [Path(job.output.uri) / commit.data.path for commit in commits]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def expected(options, tmp_path: Path) -> list[dict]:
    write_rows(tmp_path / "in.parquet", ROWS, bad={3: b""})
    job = plan_job(options(keep=("number",), output=str(tmp_path / "cpu")))
    return rows(job, run(job)[1])


def test_a_given_size_is_captured_before_the_first_row_and_the_last_batch_is_filled_up(
    gpu, options, artifact, expected
):
    gpu.prove(artifact, "fp32", "cuda", PLAIN, 1.0)
    gpu.prove(artifact, "fp32", "cuda", captured_options(16), 1.0)
    job = plan_job(options(keep=("number",), provider="cuda", batch_size=16))
    _, commits = run(job)
    assert rows(job, commits) == expected
    assert gpu.opened == [{}, {"enable_cuda_graph": "1"}]
    assert {shape[0] for shape in gpu.runs} == {16}
    assert len(gpu.runs) == 5
    assert {commit.ran_on["graph"] for commit in commits} == {"graph captured"}
    assert {commit.ran_on["batch"] for commit in commits} == {"batch 16"}
    assert {commit.ran_on["provider"] for commit in commits} == {"CUDAExecutionProvider"}


def test_a_size_that_was_found_out_is_captured_while_shards_go_on(gpu, options, artifact, tmp_path, expected):
    gpu.prove(artifact, "fp32", "tensorrt", PLAIN, 1.0)
    for size in LADDER:
        gpu.prove(artifact, "fp32", "tensorrt", captured_options(size), 1.0)
    write_rows(tmp_path / "in.parquet", 4000)
    job = plan_job(options(keep=("number",), provider="tensorrt", batch_size=None, shard_rows=4000))
    worker, _ = run(job)
    assert worker._tuner.settled
    until = time.monotonic() + PATIENCE
    while worker.ran_on.get("graph") != "graph captured" and time.monotonic() < until:
        time.sleep(0.01)
    gpu.runs.clear()
    other = plan_job(options(keep=("number",), provider="tensorrt", shard_rows=4000, output=str(tmp_path / "again")))
    other.output.claim(other.record)
    worker._output = other.output
    commits = [worker.run(shard) for shard in other.shards]
    assert [row["number"] for row in rows(other, commits)] == list(range(4000))
    assert {shape[0] for shape in gpu.runs} == {worker._tuner.size} == {worker._models[0].predictor.fixed_batch}
    assert commits[-1].ran_on["graph"] == "graph captured"


def test_what_cannot_be_captured_goes_on_and_says_why(gpu, options, artifact, expected):
    gpu.prove(artifact, "fp32", "cuda", PLAIN, 1.0)  # and none with a captured graph: this machine has no GPU
    job = plan_job(options(keep=("number",), provider="cuda", batch_size=16))
    _, commits = run(job)
    assert rows(job, commits) == expected
    said = commits[0].ran_on["graph"]
    assert said.startswith("graph not captured: color@1 runs on no execution provider here: fp32 on CUDA")
    assert gpu.opened == [{}]
    assert {shape[0] for shape in gpu.runs} == {16, 15, 1}  # whole ones, the one with a bad row, and what was left


def test_a_provider_without_graphs_says_nothing_of_them(options, expected, tmp_path):
    job = plan_job(options(batch_size=16, output=str(tmp_path / "other")))
    assert "graph" not in run(job)[1][0].ran_on


@pytest.fixture
def halves(tmp_path: Path, home: Path) -> Artifact:
    """The color classifier in fp32, and in what is called fp16."""
    write_artifact(tmp_path / "one")
    root = tmp_path / "two"
    root.mkdir()
    models = {name: root / f"model.{name}.onnx" for name in ("fp32", "fp16")}
    for path in models.values():
        shutil.copy(tmp_path / "one" / "model.fp32.onnx", path)
    return color_artifact(models, root, name="color", version=1)


@pytest.mark.parametrize(("whole_batches", "runs"), [(2.0, "fp16"), (9.0, "fp32")])
def test_the_variant_is_the_one_that_is_fastest_with_whole_batches(
    gpu, halves, tmp_path, whole_batches: float, runs: str
):
    from cluster.planning import BatchOptions

    write_rows(tmp_path / "in.parquet", ROWS)
    for variant, one, sixteen in (("fp32", 1.0, 4.0), ("fp16", 1.1, whole_batches)):
        gpu.prove(halves, variant, "cuda", PLAIN, one)
        gpu.prove(halves, variant, "cuda", captured_options(16), sixteen)
    job = plan_job(
        BatchOptions(
            models=(str(halves.root),),
            input=str(tmp_path / "in.parquet"),
            output=str(tmp_path / "out"),
            local=True,
            provider="cuda",
            batch_size=16,
        )
    )
    _, commits = run(job)
    assert {commit.ran_on["variant"] for commit in commits} == {runs}
    assert pq.read_schema(Path(job.output.uri) / commits[0].data.path).metadata[b"vedette.variant"].decode() == runs
