"""A pool that begins in this process, and goes on in one for each core where that pays off (docs/adr/0017).

Rules:
    * A child takes a second to start, on a core that could work: a job has some if it would run `LONG` seconds more.
    * Until all children are ready, this process takes the tasks; from then on they do, and what runs here ends here.
    * Where children cannot be started, the job goes on in this process, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cluster.errors import PoolError
from cluster.pool.base import LocalPool, Pool
from cluster.pool.tasks import Outcome, Task
from cluster.worker.memory import give_memory_back

if TYPE_CHECKING:
    from cluster.pool.children import ChildPool

__all__ = ["GrowingPool"]

LOOKED_AT = 3.0  # seconds after which the pace of a job says how long it will take
LONG = 20.0  # seconds that are left
BOTH = 0.05  # seconds between two looks at this process and the children in turns


class GrowingPool:
    """Begins with *here*, and goes on with what *grown* returns if *rows* take long."""

    def __init__(
        self, here: LocalPool, grown: Callable[[], ChildPool], rows: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.remarks: list[str] = list(here.remarks)
        self.workers = here.workers
        self._taking: Pool = here
        self._here: LocalPool | None = here  # until it has ended what it took
        self._grown: Callable[[], ChildPool] | None = grown  # until they begin to start
        self._starting: ChildPool | None = None
        self._rows, self._done = rows, 0
        self._clock, self._began = clock, clock()

    def offer(self, task: Task) -> bool:
        """Start *task* if there is room."""
        return self._taking.offer(task)

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        if self._starting is not None:
            self._look_at(self._starting)
        elif self._grown is not None:
            self._consider(self._grown)
        ending = self._here if self._here is not self._taking else None
        outcomes = self._taking.wait(timeout if self._starting is None and ending is None else min(timeout, BOTH))
        if ending is not None:
            outcomes += ending.wait(0)
            self._end(ending)
        self._done += sum(outcome.commit.rows for outcome in outcomes if outcome.commit is not None)
        return outcomes

    def _consider(self, grown: Callable[[], ChildPool]) -> None:
        """Begin to start children, if the job is long."""
        elapsed = self._clock() - self._began
        done = self._done + sum(self.progress().values())
        if elapsed >= LOOKED_AT and done and (self._rows - done) * elapsed / done >= LONG:
            self._starting, self._grown = grown(), None

    def _look_at(self, starting: ChildPool) -> None:
        """Give tasks to the children that are *starting*, once all are ready."""
        try:
            starting.wait(0)
        except PoolError as error:
            starting.close()
            self._starting = None
            self.remarks.append(f"all ran in one process: {error}")
            return
        if starting.ready:
            self._taking, self._starting = starting, None

    def _end(self, here: LocalPool) -> None:
        """End what is *here*, if its last task has ended."""
        if not here.tasks:
            here.close()
            self._here = None
            give_memory_back()

    def progress(self) -> Mapping[int, int]:
        """Return how many rows of each running task are through."""
        here = {} if self._here is None else self._here.progress()
        return {**here, **self._taking.progress()}

    def abandon(self, task: Task) -> None:
        """Give up on a *task* that is stuck in a child.

        Raises:
            PoolError: It is in this process.
        """
        if self._here is not None and task.number in self._here.tasks:
            self._here.abandon(task)
        else:
            self._taking.abandon(task)

    def close(self) -> None:
        """End all workers."""
        self._taking.close()
        for other in (self._here, self._starting):
            if other is not None and other is not self._taking:
                other.close()
