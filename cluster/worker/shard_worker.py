"""One worker: run one artifact over shards, on one proven execution provider.

Rules:
    * A plain class. Ray makes it an actor, `--local` calls it in threads, a test just calls it.
    * Of one shard, read, decode, infer and write overlap in bounded buffers; so do the end of one
      shard and the beginning of the next, when two threads run one each.
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

import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cluster.dispatch.crashes import Part
from cluster.errors import CommitLostError, StoppedError
from cluster.input.blocks import Block, BlockLimits
from cluster.output.commit import Attempt, OutputDirectory
from cluster.output.records import Commit
from cluster.output.schema import file_metadata, output_schema, prediction_arrays, task_columns
from cluster.plan import Shard
from cluster.worker.batches import Turns
from cluster.worker.decoders import chosen_decoder
from cluster.worker.elsewhere import Decoders, Elsewhere, requests
from cluster.worker.graphs import captured
from cluster.worker.pipeline import StageClock, map_ahead, prefetch
from cluster.worker.preparing import Prepared, Preparer, Rows
from cluster.worker.spec import BUFFERED, Threads, WorkerSpec
from cluster.worker.tuning import FIRST, LADDER, Tuner
from runtime.artifact import Artifact
from runtime.manifest import Variant
from runtime.predictor import Predictor
from runtime.session import SessionOptions

__all__ = ["STAGES", "ShardWorker"]

STAGES = ("read", "decode", "infer", "write")
ON_CORES = frozenset(
    {"CPUExecutionProvider", "XnnpackExecutionProvider"}
)  # whose session threads take cores from others


@dataclass(frozen=True, slots=True)
class _Inferred:
    prepared: Prepared
    columns: list[
        pa.Array
    ]  # what the model said of the n rows; masks are encoded already, which is a small part of them


def _input_bytes(variant: Variant) -> int:
    """Return the bytes of one row of the largest input of *variant*; sides that the graph leaves open count as 1."""
    return max(
        math.prod(side for side in tensor.shape[1:] if isinstance(side, int)) * np.dtype(tensor.dtype).itemsize
        for tensor in variant.inputs
    )


class ShardWorker:
    """Run one artifact over shards, on one proven execution provider; `run` may be called by several threads."""

    def __init__(
        self, artifact: Artifact, spec: WorkerSpec, threads: Threads, decoders: Decoders | None = None
    ) -> None:
        """Prove the provider and build the session.

        Args:
            artifact: The model.
            spec: What to do with it.
            threads: How to use the cores.
            decoders: Other processes that read and decode; ``None``: this one does.

        Raises:
            ProviderError: Nothing passed the proof here, or the decoder that was asked for cannot be used.
            ModelError: The model does not fit its manifest.
        """
        self._decoder, self._decoder_remark = chosen_decoder(spec.decoder)
        if spec.threads is not None:
            session, decode = spec.threads
            threads = replace(threads, session=session, decode=decode * threads.infer)
        options = SessionOptions(intra_op_threads=threads.session)
        self._predictor = Predictor(artifact, provider=spec.provider, options=options)
        self._selection = self._predictor.selection
        self._spec = spec
        self._threads = threads
        self._output = OutputDirectory.open(spec.output)
        self._preparer = Preparer(spec, lambda: self._predictor.preparation, self._decoder)
        self._elsewhere = None if decoders is None else Elsewhere(decoders)
        self._input_bytes = _input_bytes(self._predictor.variant)
        self._columns = task_columns(artifact.manifest)
        self._executor = ThreadPoolExecutor(threads.decode, thread_name_prefix="decode")
        self._tuner = self._new_tuner()
        self._graph: str | None = None
        if self._tuner.settled:
            self._capture(any_variant=True)
        self._turns = Turns(threads.infer, self._predictor.in_flight, lambda: self._tuner.settled)
        self._progress: dict[str, int] = {}
        self._stopped = threading.Event()
        self._schema = output_schema(artifact.manifest, spec.kept).with_metadata(
            file_metadata(
                artifact.manifest,
                artifact.digest,
                variant=self._predictor.variant.id,
                provider=self._predictor.provider,
                ort=self._predictor.proof.ort,
            )
        )

    @property
    def ran_on(self) -> dict[str, str]:
        """What this worker runs: variant, execution provider, ONNX Runtime version, host and process.

        Where there is something to say of it: ``batch``, the only size that the graph takes, and whether it is looped;
        ``graph``, whether a device's graph is captured, and ``host_memory``, how batches lie before they are copied to
        the device; ``decoder``, why the one that was wished for is not used; ``decode_actors``, how many other
        processes decode for it; ``fallback``, why it is not the provider that this machine would have preferred.
        """
        return {
            "variant": self._predictor.variant.id,
            "provider": self._predictor.provider,
            "onnxruntime": self._predictor.proof.ort,
            **self._remarks(),
            "settings": f"batches of {self._tuner.size}, {self._threads}",
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        }

    @property
    def providers(self) -> dict[str, str]:
        """By variant and execution provider: why it may run here, or not."""
        proven = {f"{proof.variant} on {proof.reference}": proof.reason for proof in self._selection.proofs}
        return proven | {f"{one.variant} on {one.provider}": one.reason for one in self._selection.skipped}

    def _remarks(self) -> dict[str, str]:
        size = self._predictor.fixed_batch
        looped = "" if size == self._tuner.size else ", looped"
        remarks = {
            "batch": None if size is None else f"batch {size}{looped}",
            "graph": self._graph,
            "host_memory": self._predictor.host_memory,
            "decoder": self._decoder_remark,
            "decode_actors": None if self._elsewhere is None else f"{self._elsewhere.count} decode actors",
            "fallback": self._selection.fallback,
        }
        return {name: remark for name, remark in remarks.items() if remark is not None}

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
            self._output.attempt(shard, self._schema) as attempt,
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
        if elsewhere is None:
            prepared = self._prepared(rows, clock)
        else:
            asked = requests(rows, self._limits(rows), lambda: self._size(rows), self._predictor.variant.id)
            preparation = lambda: self._predictor.preparation  # noqa: E731 - it is asked for each batch
            prepared = elsewhere.prepared(asked, lambda part: self._prepared(part, clock), preparation, clock)
        return prefetch(self._infer_all(prefetch(prepared, BUFFERED, "decode"), clock), BUFFERED, "infer")

    def _prepared(self, rows: Rows, clock: StageClock) -> Iterator[Prepared]:
        """Yield *rows*, read and decoded by threads of this process."""
        blocks = self._preparer.blocks(rows, self._limits(rows), lambda: self._size(rows))

        def prepare(one: tuple[Block, bool]) -> Prepared:
            block, usable = one
            begun = time.perf_counter()
            with clock.measure("decode"):
                done = self._preparer.prepare(block, usable=usable)
            self._tuner.decoded(done.rows - done.filtered, time.perf_counter() - begun)
            return done

        read = prefetch(clock.timed("read", blocks), BUFFERED, "read")
        return map_ahead(prepare, read, self._executor, self._threads.decode)

    def _size(self, rows: Rows) -> int:
        """Return how many rows the next batch of *rows* shall have."""
        return max(1, self._tuner.next_size() // rows.share)

    def _infer_all(self, items: Generator[Prepared, None, None], clock: StageClock) -> Iterator[_Inferred]:
        return self._turns.map(lambda item: _Inferred(item, self._infer(item, clock)), items)

    def _infer(self, item: Prepared, clock: StageClock) -> list[pa.Array]:
        """Return the columns that the model's predictions for *item* become; none if no row is good."""
        if item.inputs is None:
            return []
        with self._turns.turn(), clock.measure("infer"):
            begun = time.perf_counter()
            outputs = self._predictor.infer(item.inputs)
            settled = self._tuner.inferred(len(item.inputs), time.perf_counter() - begun)
        if settled:
            self._divide_threads()
            # beside the running shards: engines may take longer to build than a shard may stand still
            threading.Thread(target=self._capture, name="capture", daemon=True).start()
        with clock.measure("infer"):
            return prediction_arrays(self._columns, self._predictor.decode(outputs, item.sizes))

    def _limits(self, rows: Rows | None = None) -> BlockLimits:
        """Return how big batches, of *rows*, may be."""
        threads = self._threads
        if self._elsewhere is not None:
            threads = replace(threads, decode=threads.decode + self._elsewhere.batches)
        most = max(LADDER) if rows is None else max(1, max(LADDER) // rows.share)
        return BlockLimits.within(self._spec.memory, threads.batches, self._input_bytes, most)

    def _new_tuner(self) -> Tuner:
        """Return what decides on the batch size: nothing is left to decide if it was given, or the graph has one."""
        fixed = self._spec.batch_size or self._predictor.fixed_batch
        if fixed is not None:
            return Tuner((fixed,), fixed)
        sizes = [size for size in LADDER if size <= self._limits().rows]
        return Tuner(sizes, min(FIRST[self._predictor.provider in ON_CORES], sizes[-1]))

    def _capture(self, *, any_variant: bool = False) -> None:
        """Capture the graph at the size that was settled, if the provider can; what runs goes on meanwhile."""
        size, threads = self._tuner.size, self._threads.session
        self._predictor, self._graph = captured(self._predictor, size, threads, any_variant=any_variant)

    def _divide_threads(self) -> None:
        """Divide the threads anew, if that is worth another session; shards that are running keep their decoders."""
        threads = self._threads
        if self._spec.threads is not None or threads.infer > 1 or self._predictor.provider not in ON_CORES:
            return
        session, decode = self._tuner.divided(threads.session, threads.decode)
        if (session, decode) == (threads.session, threads.decode):
            return
        self._predictor = Predictor(
            self._predictor.artifact,
            provider=self._predictor.proof.reference,
            variant=self._predictor.variant.id,
            options=SessionOptions(intra_op_threads=session),
        )
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
