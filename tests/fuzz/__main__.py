"""Mutated pictures against `runtime.images`: none may crash it, hang it, or exhaust its memory.

python tests/fuzz [--count 100000] [--seed 0] [--processes 2] [--folder build/fuzz]
python tests/fuzz --replay build/fuzz/0/4711.differs

Trials run in child processes, which may die; `trial.py` says what counts as a failure. Each is drawn from the
seed and its own number, so that it is the same on every machine with the same seeds, and a run that was
interrupted goes on where it stopped. Whatever fails is saved in the folder. The exit code is 1 if anything did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from journal import Journal, read_journals, unfinished  # noqa: E402 - found where the line above says
from seeds import seeds  # noqa: E402
from trial import FAILURES, MAX_CPU, MAX_PIXELS, MAX_RSS, Verdict, draw, judged  # noqa: E402

from runtime.errors import IMAGE_REASONS  # noqa: E402

TEST_DATA = Path(os.environ.get("VEDETTE_TEST_DATA") or HERE.parents[2] / "shared" / "data")
DIFFICULT = TEST_DATA / "images" / "difficult"
SILENCE = 120.0  # seconds on the clock without a trial ending, until a process is taken for dead


@dataclass(kw_only=True)
class Worker:
    """A child process, and what it works on."""

    task: dict[str, object]
    journal: Path
    process: subprocess.Popen[bytes] | None = None
    heard: float = 0.0  # when its journal last grew, on the monotonic clock
    size: int = -1  # of its journal, in bytes

    def start(self) -> None:
        """Start the process, or start it again."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with self.journal.with_suffix(".stderr").open("ab") as printed:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), json.dumps(self.task)], stderr=printed, env=environment
            )
        self.heard = time.monotonic()

    def poll(self) -> bool:
        """Look after the process; say whether it still has something to do."""
        assert self.process is not None
        size = self.journal.stat().st_size if self.journal.exists() else 0
        if size != self.size:
            self.size, self.heard = size, time.monotonic()
        silent = time.monotonic() - self.heard > SILENCE
        if silent:
            self.process.kill()
        code = self.process.wait() if silent else self.process.poll()
        if code is None:
            return True
        number = unfinished(self.journal)
        if number is None and code == 0 and not self._stopped_for_memory():
            return False
        if number is None and code != 0:
            raise SystemExit(f"a worker ended with {code} between trials; see {self.journal.with_suffix('.stderr')}")
        if number is not None:
            self._bury(number, "hang" if silent or code == -signal.SIGPROF else "crash", code)
        self.start()
        return True

    def _stopped_for_memory(self) -> bool:
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else []
        return bool(lines) and '["memory"' in lines[-1]

    def _bury(self, number: int, outcome: str, code: int) -> None:
        with Journal(self.journal) as journal:
            journal.end(Verdict(outcome=outcome, seconds=0.0, rss=0, detail=f"the process ended with {code}"))
        data, _ = draw(int(str(self.task["seed"])), number, known_seeds())
        (self.journal.parent / f"{number}.{outcome}").write_bytes(data)


def known_seeds() -> list[bytes]:
    """Return what is mutated on this machine."""
    return seeds(DIFFICULT if DIFFICULT.exists() else None)


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Run the trials that are not in the journals of *folder* yet."""
    workers = []
    for index in range(arguments.processes):
        task = {
            "seed": arguments.seed,
            "numbers": (index, arguments.count, arguments.processes),
            "folder": str(folder),
            "name": f"worker-{index}",
            "difficult": str(DIFFICULT) if DIFFICULT.exists() else "",
        }
        workers.append(Worker(task=task, journal=folder / f"worker-{index}.journal"))
        workers[-1].start()
    with tqdm(total=arguments.count, unit=" trials", disable=not sys.stderr.isatty()) as progress:
        while sum(worker.poll() for worker in workers):
            time.sleep(0.05)
            progress.update(sum(worker.size for worker in workers) // 40 - progress.n)


def summary(verdicts: dict[int, Verdict]) -> str:
    """Return what is to be said of *verdicts*, in lines."""
    outcomes = Counter(verdict.outcome for verdict in verdicts.values())
    refused = {reason: outcomes.pop(reason) for reason in IMAGE_REASONS if reason in outcomes}
    failed = {kind: outcomes.pop(kind) for kind in FAILURES if kind in outcomes}
    slowest, hungriest = (
        max(verdicts, key=lambda number: verdicts[number].seconds),
        max(verdicts, key=lambda number: verdicts[number].rss),
    )
    return "\n".join(
        (
            f"inputs     {len(verdicts)}, of at most {MAX_PIXELS:,} pixels",
            f"accepted   {outcomes.total()}: {_counted(outcomes)}",
            f"refused    {sum(refused.values())}: {_counted(refused)}",
            f"slowest    {verdicts[slowest].seconds:.3f} s of processor time (limit {MAX_CPU:g}), input {slowest}",
            f"largest    {verdicts[hungriest].rss / 1e6:.0f} MB resident (limit {MAX_RSS / 1e6:.0f})",
            f"failed     {sum(failed.values())}{': ' if failed else ''}{_counted(failed)}",
            *(
                f"    {number}.{verdict.outcome}: {verdict.detail}"
                for number, verdict in sorted(verdicts.items())
                if verdict.outcome in FAILURES
            ),
        )
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def replay(path: Path) -> int:
    """Judge the saved input at *path* again, in this process."""
    number = int(path.stem)
    _, options = draw(int(path.parent.name), number, known_seeds())
    verdict = judged(path.read_bytes(), options)
    sys.stdout.write(
        f"{verdict.outcome} after {verdict.seconds:.3f} s, {verdict.rss >> 20} MiB: {verdict.detail or options}\n"
    )
    return int(verdict.outcome in FAILURES)


def main() -> int:
    """Read the command line, run, and print the summary."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for journals and what failed")
    parser.add_argument("--replay", type=Path, help="a saved input, to be judged again")
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(arguments.replay)
    folder = arguments.folder / str(arguments.seed)
    folder.mkdir(parents=True, exist_ok=True)
    run(arguments, folder)
    verdicts = {number: found for number, found in read_journals(folder).items() if number < arguments.count}
    sys.stdout.write(summary(verdicts) + "\n")
    return int(len(verdicts) != arguments.count or any(one.outcome in FAILURES for one in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
