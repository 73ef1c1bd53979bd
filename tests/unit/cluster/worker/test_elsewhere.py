"""Rows that others decode: the same rows, whoever answers, and nothing lost if nobody does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from color_model import write_rows

from cluster.dispatch.crashes import Part
from cluster.errors import InputChangedError, UnansweredError
from cluster.input.blocks import BlockLimits
from cluster.output.commit import OutputDirectory
from cluster.planning import Job, plan_job
from cluster.worker.elsewhere import BATCHES, Answer, Elsewhere, Request, answer, requests
from cluster.worker.preparing import Preparer, Rows
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from runtime.preparation import Preparation

ROWS = 500
BAD = {2: b"", 77: b"no image at all", 301: None}


class Decoders:
    """Decoders in this process; requests and answers are pickled, as if they travelled."""

    def __init__(self, job: Job, *, count: int = 2, silent: Callable[[int], bool] = lambda _: False) -> None:
        preparation = Preparation.of(job.models[0].manifest, "fp32")
        self.count = count
        self.asked: list[Request] = []
        self.open = 0
        self.most_open = 0
        self._preparer = Preparer(job.spec, lambda: [preparation])
        self._silent = silent

    def ask(self, request: Request) -> Callable[[], Answer]:
        number, sent = len(self.asked), pickle.dumps(request)
        self.asked.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)

        def wait() -> Answer:
            self.open -= 1
            if self._silent(number):
                raise UnansweredError("it died")
            found: Answer = pickle.loads(pickle.dumps(answer(self._preparer, pickle.loads(sent))))
            return found

        return wait


@pytest.fixture
def job(options, tmp_path: Path) -> Job:
    write_rows(tmp_path / "in.parquet", ROWS, bad=BAD)
    return claimed(plan_job(options(keep=("number",), batch_size=8, shard_rows=200)))


def claimed(job: Job) -> Job:
    job.output.claim(job.record)
    return job


def other(job: Job, name: str) -> Job:
    return claimed(plan_job(replace(job.options, output=f"{job.output.uri}-{name}")))


def result(job: Job, worker: ShardWorker, spared: frozenset[int] = frozenset()) -> tuple[list[dict], list[dict]]:
    output: OutputDirectory = job.output
    commits = [worker.run(shard, spared=spared) for shard in job.shards]

    def read(files: list) -> list[dict]:
        return [row for file in files if file for row in pq.read_table(Path(output.uri) / file.path).to_pylist()]

    return read([commit.data for commit in commits]), read([commit.quarantine for commit in commits])


def worker_of(job: Job, decoders: Decoders | None = None) -> ShardWorker:
    return ShardWorker(job.models, job.spec, Threads(decode=2), decoders)


@pytest.mark.parametrize("spared", [frozenset(), frozenset({0, 9, 10})], ids=["all", "some spared"])
def test_the_rows_are_those_of_a_worker_alone(job, spared):
    alone = result(job, worker_of(job), spared)
    again = other(job, "again")
    decoders = Decoders(again)
    worker = worker_of(again, decoders)
    assert result(again, worker, spared) == alone
    assert worker._elsewhere.answered == len(decoders.asked) > ROWS // (8 * BATCHES) - 1
    assert worker._elsewhere.unanswered == 0
    assert decoders.most_open == decoders.count + 2  # the one that is taken, and those behind it
    looked_at = [n for one in decoders.asked for n in range(*one.rows.part)]
    assert len(looked_at) == ROWS - len(spared) * len(again.shards)
    assert worker.ran_on["decode_actors"] == "2 decode actors"


@pytest.mark.parametrize(
    "silent", [lambda n: n % 3 == 1, lambda n: n > 2, lambda _: True], ids=["some", "later", "all"]
)
def test_what_is_not_answered_is_done_by_the_worker(job, silent):
    alone = result(job, worker_of(job))
    again = other(job, "again")
    decoders = Decoders(again, silent=silent)
    worker = worker_of(again, decoders)
    assert result(again, worker) == alone
    assert worker._elsewhere.unanswered == sum(map(silent, range(len(decoders.asked)))) > 0


def test_seconds_of_others_count_for_their_stages(job):
    worker = worker_of(job, Decoders(job))
    seconds = worker.run(job.shards[0]).seconds
    assert seconds["read"] > 0
    assert seconds["decode"] > 0


def test_an_error_of_the_rows_is_the_one_that_it_always_was(job, tmp_path):
    worker = worker_of(job, Decoders(job, silent=lambda _: True))
    with (tmp_path / "in.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputChangedError):
        worker.run(job.shards[0])


def test_what_is_probed_is_looked_at_by_the_worker_alone(job):
    decoders = Decoders(job)
    worker_of(job, decoders).probe(job.shards[0], (0, 30))
    assert decoders.asked == []


def test_batches_in_buffers_stay_within_the_memory(job):
    small = replace(job.spec, memory=8 * 8 * 3 * 400, batch_size=None)
    decoders = Decoders(job, count=3)
    worker = ShardWorker(job.models, small, Threads(decode=2), decoders)
    worker.run(job.shards[0])
    rows = max(one.size for one in decoders.asked)
    assert rows * (worker._elsewhere.batches + 2) <= 400


def rows_of(job: Job, part: Part, spared: frozenset[int] = frozenset()) -> Rows:
    return Rows(job.shards[0], part, spared, 1)


def test_requests_are_a_few_batches_each_and_spared_rows_are_none(job):
    limits = BlockLimits(rows=5, size=1 << 20)
    sizes = iter([3, 9, 5, 5, 5])
    found = list(requests(rows_of(job, (0, 50), frozenset({40})), limits, lambda: next(sizes), ("fp32",)))
    assert [(one.rows.part, one.size) for one in found if isinstance(one, Request)] == [
        ((0, 12), 3),
        ((12, 32), 5),
        ((32, 40), 5),
        ((41, 50), 5),
    ]
    assert [one.part for one in found if isinstance(one, Rows)] == [(40, 41)]


def test_an_iterator_that_is_closed_asks_no_more(job):
    from cluster.worker.pipeline import StageClock

    decoders = Decoders(job)
    preparation = Preparation.of(job.models[0].manifest, "fp32")
    asked = requests(rows_of(job, (0, 160)), BlockLimits(rows=8, size=1 << 20), lambda: 8, ("fp32",))
    batches = Elsewhere(decoders).prepared(
        asked, lambda _: iter(()), lambda: [preparation], StageClock("read", "decode")
    )
    first = next(batches)
    batches.close()
    assert first.rows == 8
    assert len(decoders.asked) == decoders.count + 2
