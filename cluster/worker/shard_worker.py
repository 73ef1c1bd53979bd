"""One worker: run the models of a job over shards, on proven execution providers.

Rules:
    * A plain class. Ray makes it an actor, `--local` calls it in threads here and in children, a test just calls it.
    * Of one shard, read, decode, infer and write overlap in bounded buffers; so do the end of one
      shard and the beginning of the next, when two threads run one each. Where decoding and inference would take
      turns on one core anyway (`Threads.decode` is 0), a thread does both with a batch (`cluster.worker.lanes`).
    * At most `Threads.infer` batches are in the session at a time, or as many as that overlaps (`batches`).
    * Batch size and division of the threads are found out in the first seconds (`cluster.worker.tuning`), unless given.
    * Memory is bounded by what is in buffers, (decode threads + 6) batches a running shard; a batch gets
      smaller where its images are so large that `cluster.worker.spec.WorkerSpec.memory` would not do.
    * A row that holds no usable image goes to quarantine; any other error fails the shard, whole.
    * Other processes may read and decode for it (`cluster.worker.elsewhere`). What they leave undone it does itself,
      and all that is probed: what rows do to a process they must do to this one.
    * Rows that are known to kill processes are spared: they go to quarantine, and nobody looks at them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.dispatch.crashes import Part
from cluster.errors import CommitLostError, StoppedError
from cluster.input.blocks import Block, BlockLimits
from cluster.models import JobModel, joined
from cluster.output.commit import Attempt, OutputDirectory
from cluster.output.records import Commit
from cluster.output.schema import answer_columns, output_schema
from cluster.plan import Shard
from cluster.worker.batches import Turns
from cluster.worker.decoders import chosen_decoder
from cluster.worker.elsewhere import Decoders, Elsewhere, requests
from cluster.worker.lanes import Lanes
from cluster.worker.model import RunningModel
from cluster.worker.pipeline import StageClock, map_ahead, prefetch
from cluster.worker.preparing import Prepared, Preparer, Rows
from cluster.worker.spec import BUFFERED, Threads, WorkerSpec
from cluster.worker.tuning import FIRST, LADDER, Tuner
from runtime.preparation import Preparation

__all__ = ["STAGES", "ShardWorker"]

STAGES = ("read", "decode", "infer", "write")
LANE_ROWS = 8  # that a thread decodes before it infers them: the model's weights then stay in the caches for all

Outputs = list[npt.NDArray[Any]]
"""Of one graph, for a batch."""

_Batch = tuple[slice, list[Outputs]]
"""Good rows of a block, and what each model's graph gives for them."""


@dataclass(frozen=True, slots=True)
class _Inferred:
    prepared: Prepared
    columns: list[pa.Array]  # what the models said of the n rows; masks are encoded, which is a small part of them


class ShardWorker:
    """Run the models of a job over shards, on proven execution providers; `run` may be called by several threads."""

    def __init__(
        self, models: Sequence[JobModel], spec: WorkerSpec, threads: Threads, decoders: Decoders | None = None
    ) -> None:
        """Prove the providers and build the sessions.

        Args:
            models: That answer.
            spec: What to do with them.
            threads: How to use the cores.
            decoders: Other processes that read and decode; ``None``: this one does.

        Raises:
            ProviderError: Nothing passed the proof here, or the decoder that was asked for cannot be used.
            ModelError: A model does not fit its manifest.
        """
        decoder, self._decoder_remark = chosen_decoder(spec.decoder)
        if spec.threads is not None:
            session, decode = spec.threads
            threads = replace(threads, session=session, decode=decode * threads.infer)
        self._models = tuple(RunningModel(model, spec.provider, threads.session) for model in models)
        if decoders is not None or not self.on_cores:
            threads = threads.apart()
        self._spec = spec
        self._threads = threads
        self._output = OutputDirectory.open(spec.output)
        self._preparer = Preparer(spec, self._preparations, decoder)
        self._elsewhere = None if decoders is None else Elsewhere(decoders)
        self._executor = ThreadPoolExecutor(max(1, threads.decode), thread_name_prefix="decode")
        self._tuner = self._new_tuner()
        if self._tuner.settled:
            self._capture(any_variant=True)
        in_flight = max(model.predictor.in_flight for model in self._models)
        self._turns = Turns(threads.infer, in_flight, lambda: self._tuner.settled)
        self._lanes = Lanes(threads.infer)
        self._progress: dict[str, int] = {}
        self._stopped = threading.Event()
        self._schema = output_schema(answer_columns(models), spec.kept).with_metadata(
            joined([model.metadata for model in self._models])
        )

    def _preparations(self) -> list[Preparation]:
        """Return what brings pictures to the models' inputs; asked for each batch, since sessions may be replaced."""
        return [model.predictor.preparation for model in self._models]

    @property
    def on_cores(self) -> bool:
        """Whether all models are inferred on cores, and not on an accelerator."""
        return all(model.on_cores for model in self._models)

    @property
    def ran_on(self) -> dict[str, str]:
        """What this worker runs: variant, execution provider, ONNX Runtime version, host and process.

        Where there is something to say of it: ``batch``, the only size that the graph takes, and whether it is looped;
        ``graph``, whether a device's graph is captured, and ``host_memory``, how batches lie before they are copied to
        the device; ``decoder``, why the one that was wished for is not used; ``decode_actors``, how many other
        processes decode for it; ``fallback``, why it is not the provider that this machine would have preferred.
        What differs between several models stands one after the other.
        """
        size = self._tuner.size
        remarks = {
            "decoder": self._decoder_remark,
            "decode_actors": None if self._elsewhere is None else f"{self._elsewhere.count} decode actors",
        }
        return {
            **joined([model.ran_on(size) for model in self._models]),
            **{name: remark for name, remark in remarks.items() if remark is not None},
            "settings": f"batches of {size}, {self._threads}",
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        }

    @property
    def providers(self) -> dict[str, str]:
        """By variant and execution provider: why it may run here, or not."""
        return joined([model.providers for model in self._models])

    def progress(self) -> dict[str, int]:
        """Return, by id of the shards that are running, how many rows are through."""
        return dict(self._progress)

    def stop(self) -> None:
        """Make running shards fail after their next batch."""
        self._stopped.set()

    def run(self, shard: Shard, *, spared: frozenset[int] = frozenset(), share: int = 1) -> Commit:
        """Read, decode, infer and write *shard*, then commit it.

        Args:
            shard: To run.
            spared: Rows, counted from the shard's first, that go to quarantine unseen.
            share: Divides the batch size.

        Raises:
            CommitLostError: Another attempt committed this shard first; nothing of ours counts.
            InputChangedError: The file is not the one that was planned.
            InputError: The file is damaged.
            ModelError: Inference failed, or the pictures become inputs of different sizes.
            OSError: The output cannot be written.
            StoppedError: `stop` was called.
        """
        if self._output.commit_of(shard.id) is not None:
            raise CommitLostError(f"shard {shard} is committed already")
        clock = StageClock(*STAGES)
        filtered, decoders = 0, Counter[str]()
        rows = Rows(shard, (0, shard.rows), spared, share)
        with (
            self._output.attempt(shard, self._schema, self._spec.partitioning) as attempt,
            closing(self._inferred(rows, clock, self._elsewhere)) as inferred,
        ):
            for item in inferred:
                with clock.measure("write"), _naming(self._output.store.staging):
                    self._write(attempt, item)
                filtered += item.prepared.filtered
                decoders.update(item.prepared.decoders)
            with clock.measure("write"), _naming(self._output.store.staging):
                attempt.publish()
            with _naming(self._output.store.staging):
                return attempt.commit(filtered=filtered, seconds=clock.seconds, ran_on=self.ran_on, decoders=decoders)

    def probe(self, shard: Shard, part: Part, *, spared: frozenset[int] = frozenset(), share: int = 1) -> None:
        """Read, decode and infer *part* of *shard*, and write nothing: does this process survive it?

        Raises:
            VedetteError: As `run`.
        """
        rows = Rows(shard, part, spared, share)
        with closing(self._inferred(rows, StageClock(*STAGES), None)) as inferred:
            for _ in inferred:
                pass

    def _inferred(self, rows: Rows, clock: StageClock, elsewhere: Elsewhere | None) -> Generator[_Inferred, None, None]:
        """Yield *rows*, inferred, and count them as progress once they were taken."""
        shard = rows.shard
        self._progress[shard.id] = 0
        try:
            with closing(self._pipeline(rows, clock, elsewhere)) as inferred:
                for item in inferred:
                    if self._stopped.is_set():
                        raise StoppedError(f"shard {shard} was given up")
                    yield item
                    self._progress[shard.id] += item.prepared.rows
        finally:
            del self._progress[shard.id]

    def _pipeline(self, rows: Rows, clock: StageClock, elsewhere: Elsewhere | None) -> Generator[_Inferred, None, None]:
        """Yield *rows*, inferred; each stage works ahead of the next."""
        if not self._threads.decode:
            return self._alternated(rows, clock)
        if elsewhere is None:
            prepared = self._prepared(rows, clock)
        else:
            variants = tuple(model.predictor.variant.id for model in self._models)
            asked = requests(rows, self._limits(rows), lambda: self._size(rows), variants)
            prepared = elsewhere.prepared(asked, lambda part: self._prepared(part, clock), self._preparations, clock)
        return prefetch(self._infer_all(prefetch(prepared, BUFFERED, "decode"), clock), BUFFERED, "infer")

    def _alternated(self, rows: Rows, clock: StageClock) -> Generator[_Inferred, None, None]:
        """Yield *rows*, in blocks of one batch or several, each inferred by the thread that decoded it."""

        def infer(block: tuple[Block, bool]) -> _Inferred:
            prepared = self._prepare(block, clock)
            return self._answered(prepared, list(self._in_batches(prepared, rows, clock)), clock)

        return self._lanes.map(infer, self._read(rows, clock))

    def _in_batches(self, item: Prepared, rows: Rows, clock: StageClock) -> Iterator[_Batch]:
        """Yield what the graphs give for *item*, of *rows*, in batches of the size that is tried, or best."""
        start = 0
        while start < len(item.sizes):
            part = slice(start, start + self._size(rows))
            yield part, self._outputs([inputs[part] for inputs in item.inputs], clock)
            start = part.stop

    def _prepared(self, rows: Rows, clock: StageClock) -> Iterator[Prepared]:
        """Yield *rows*, read and decoded by threads of this process."""
        return map_ahead(
            lambda block: self._prepare(block, clock), self._read(rows, clock), self._executor, self._threads.decode
        )

    def _read(self, rows: Rows, clock: StageClock) -> Generator[tuple[Block, bool], None, None]:
        """Yield *rows* in blocks, each with whether its images may be looked at."""
        blocks = self._preparer.blocks(rows, self._limits(rows), lambda: self._wanted(rows))
        return prefetch(clock.timed("read", blocks), BUFFERED, "read")

    def _prepare(self, one: tuple[Block, bool], clock: StageClock) -> Prepared:
        block, usable = one
        begun = time.perf_counter()
        with clock.measure("decode"):
            done = self._preparer.prepare(block, usable=usable)
        self._tuner.decoded(done.rows - done.filtered, time.perf_counter() - begun)
        return done

    def _wanted(self, rows: Rows) -> int:
        """Return how many of *rows* the next block shall have: a batch, or some for a thread that does everything."""
        if self._threads.decode:
            return self._size(rows)
        size = self._tuner.size  # or another one by then, of up to twice as many
        return max(1, size * max(2, LANE_ROWS // size) // rows.share)

    def _size(self, rows: Rows) -> int:
        """Return how many of *rows* the next batch shall have."""
        return max(1, self._tuner.next_size() // rows.share)

    def _infer_all(self, items: Generator[Prepared, None, None], clock: StageClock) -> Iterator[_Inferred]:
        def infer(item: Prepared) -> _Inferred:
            batches: list[_Batch] = []
            if item.inputs:
                with self._turns.turn():
                    batches.append((slice(None), self._outputs(item.inputs, clock)))
            return self._answered(item, batches, clock)

        return self._turns.map(infer, items)

    def _outputs(self, batch: Sequence[npt.NDArray[np.generic]], clock: StageClock) -> list[Outputs]:
        """Return what each model's graph gives for its inputs of a *batch*."""
        with clock.measure("infer"):
            begun = time.perf_counter()
            outputs = [model.predictor.infer(inputs) for model, inputs in zip(self._models, batch, strict=True)]
            settled = self._tuner.inferred(len(batch[0]), time.perf_counter() - begun)
        if settled:
            self._divide_threads()
            # beside the running shards: engines may take longer to build than a shard may stand still
            threading.Thread(target=self._capture, name="capture", daemon=True).start()
        return outputs

    def _answered(self, item: Prepared, batches: Sequence[_Batch], clock: StageClock) -> _Inferred:
        """Return *item* with the columns that the outputs of its *batches* become; none if no row is good."""
        if not batches:
            return _Inferred(item, [])
        with clock.measure("infer"):
            columns = []
            for number, model in enumerate(self._models):
                decoded = (model.predictor.decode(outputs[number], item.sizes[part]) for part, outputs in batches)
                columns += model.columns(list(chain.from_iterable(decoded)))
        return _Inferred(item, columns)

    def _limits(self, rows: Rows | None = None) -> BlockLimits:
        """Return how big batches, of *rows*, may be."""
        threads = self._threads
        if self._elsewhere is not None:
            threads = replace(threads, decode=threads.decode + self._elsewhere.batches)
        most = max(LADDER) if rows is None else max(1, max(LADDER) // rows.share)
        row_bytes = sum(model.input_bytes for model in self._models)
        return BlockLimits.within(self._spec.memory, threads.batches, row_bytes, most)

    def _new_tuner(self) -> Tuner:
        """Return what decides on the batch size: nothing is left to decide if it was given, or a graph has one."""
        sizes = (self._spec.batch_size, *(model.predictor.fixed_batch for model in self._models))
        if fixed := next(filter(None, sizes), None):
            return Tuner((fixed,), fixed)
        ladder = [size for size in LADDER if size <= self._limits().rows]
        return Tuner(ladder, min(FIRST[self.on_cores], ladder[-1]))

    def _capture(self, *, any_variant: bool = False) -> None:
        """Capture the graphs at the size that was settled, where providers can; what runs goes on meanwhile."""
        for model in self._models:
            model.capture(self._tuner.size, self._threads.session, any_variant=any_variant)

    def _divide_threads(self) -> None:
        """Divide the threads anew, if that is worth another session; shards that are running keep their decoders."""
        threads = self._threads
        if self._spec.threads or not threads.decode or threads.infer > 1 or not self.on_cores:
            return
        session, decode = self._tuner.divided(threads.session, threads.decode)
        if (session, decode) == (threads.session, threads.decode):
            return
        for model in self._models:
            model.rebuild(session)
        self._executor = ThreadPoolExecutor(decode, thread_name_prefix="decode")
        self._threads = replace(threads, session=session, decode=decode)

    def _write(self, attempt: Attempt, item: _Inferred) -> None:
        attempt.quarantine(item.prepared.bad)
        if item.columns:
            attempt.write(pa.table([*item.prepared.columns, *item.columns], schema=self._schema))


@contextmanager
def _naming(directory: str) -> Iterator[None]:
    """Let an error of the operating system say that it happened in *directory*, if it does not say where."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or directory
        raise
