"""Rows that are read and decoded in other processes, for a worker whose node has too few cores for its accelerator.

Rules:
    * What goes out is a `Request`: descriptors. What comes back is an `Answer`: batches, ready for the model. That
      pixels travel at all is the exception of docs/adr/0014.
    * A request is some batches of neighbouring rows; answers are taken in the order of the rows. At most
      `Elsewhere.most` requests are under way for each shard that runs.
    * What is not answered, for whatever reason, is done here: an error of its rows is then raised where it would be
      without anybody else, and a picture that kills who decodes it kills a worker, whose shard is searched.
    * A batch that came is copied to where the session likes to have it, and the message is let go.

Pure but for the clock: who decodes, and how it is reached, is a `Decoders`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.dispatch.crashes import pieces
from cluster.errors import UnansweredError
from cluster.input.blocks import BlockLimits
from cluster.worker.pipeline import StageClock
from cluster.worker.preparing import Prepared, Preparer, Rows
from runtime.preparation import Preparation

__all__ = ["BATCHES", "Answer", "Decoders", "Elsewhere", "Request", "answer", "requests"]

BATCHES = 4  # of a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Rows to read, decode and prepare.

    Attributes:
        rows: Which, all of them usable.
        limits: Of each batch.
        size: Rows of each batch.
        variants: Ids of the variants, one of each model, whose inputs they become.
    """

    rows: Rows
    limits: BlockLimits
    size: int
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The batches of a request, in order, and the seconds that each stage took."""

    batches: Sequence[Prepared]
    seconds: Mapping[str, float]


class Decoders(Protocol):
    """Other processes that answer requests."""

    @property
    def count(self) -> int:
        """How many there are."""

    def ask(self, request: Request) -> Callable[[], Answer]:
        """Begin with *request*, and return what waits for the answer; that raises `UnansweredError` if none comes."""


def requests(
    rows: Rows, limits: BlockLimits, wanted: Callable[[], int], variants: tuple[str, ...]
) -> Iterator[Request | Rows]:
    """Yield *rows* as requests, in order; rows that are spared as they are, since nobody needs to look at them.

    Args:
        rows: Of a shard.
        limits: Of a batch.
        wanted: Asked before each request how many rows a batch shall have.
        variants: Whose inputs they become.
    """
    for (first, stop), usable in pieces(rows.part, rows.spared):
        start = first
        while start < stop:
            size = min(limits.rows, wanted()) if usable else 1
            some = replace(rows, part=(start, min(stop, start + BATCHES * size)))
            yield Request(rows=some, limits=limits, size=size, variants=variants) if usable else some
            start = some.part[1]


def answer(preparer: Preparer, request: Request) -> Answer:
    """Do what *request* asks for; the decoder's side.

    Raises:
        VedetteError: As `Preparer`.
    """
    clock = StageClock("read", "decode")
    batches = []
    blocks = preparer.blocks(request.rows, request.limits, lambda: request.size)
    for block, usable in clock.timed("read", blocks):
        with clock.measure("decode"):
            batches.append(preparer.prepare(block, usable=usable))
    return Answer(batches=batches, seconds=clock.seconds)


class Elsewhere:
    """A worker's side: asks *decoders*, and has done *here* what they do not answer.

    Attributes:
        count: Of the decoders.
        most: Requests under way for a shard.
        answered: Requests that were.
        unanswered: Those that were done here in their place.
    """

    def __init__(self, decoders: Decoders) -> None:
        self.count = decoders.count
        self.most = decoders.count + 1
        self.answered = 0
        self.unanswered = 0
        self._decoders = decoders

    @property
    def batches(self) -> int:
        """Batches of a shard that are under way at most."""
        return BATCHES * (self.most + 1)

    def prepared(
        self,
        asked: Iterator[Request | Rows],
        here: Callable[[Rows], Iterator[Prepared]],
        preparations: Callable[[], Sequence[Preparation]],
        clock: StageClock,
    ) -> Generator[Prepared, None, None]:
        """Yield the batches of what is *asked*, in order.

        Args:
            asked: Of `requests`.
            here: Does in this process what nobody else does.
            preparations: Of the worker's sessions.
            clock: Counts the seconds that others were busy, too.

        Raises:
            VedetteError: As `Preparer`.
        """
        pending: deque[tuple[Rows, Callable[[], Answer] | None]] = deque()

        def first() -> Iterator[Prepared]:
            rows, waiting = pending.popleft()
            found = None if waiting is None else self._taken(waiting, clock)
            if found is None:
                return here(rows)
            return (_brought(batch, preparations()) for batch in found.batches)

        for one in asked:
            if isinstance(one, Request):
                pending.append((one.rows, self._decoders.ask(one)))
            else:
                pending.append((one, None))
            if len(pending) > self.most:
                yield from first()
        while pending:
            yield from first()

    def _taken(self, waiting: Callable[[], Answer], clock: StageClock) -> Answer | None:
        try:
            found = waiting()
        except UnansweredError:
            self.unanswered += 1
            return None
        self.answered += 1
        clock.add(found.seconds)
        return found


def _brought(batch: Prepared, preparations: Sequence[Preparation]) -> Prepared:
    """Return *batch* with its inputs where the sessions like to have them."""
    rooms = []
    for preparation, inputs in zip(preparations, batch.inputs, strict=bool(batch.inputs)):
        room = preparation.empty_batch(len(inputs), inputs[0])
        room[...] = inputs
        rooms.append(room)
    return replace(batch, inputs=rooms)
