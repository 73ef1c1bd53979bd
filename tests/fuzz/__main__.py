"""Mutated pictures against `runtime.images`: none may crash it, hang it, or exhaust its memory.

python tests/fuzz [--count 100000] [--seed 0] [--processes 2] [--folder build/fuzz]
python tests/fuzz --replay build/fuzz/0/4711.differs

Trials run in child processes, which may die; `trial.py` says what counts as a failure. Each is drawn from the
seed and its own number, so that it is the same on every machine with the same seeds, and a run that was
interrupted goes on where it stopped. Whatever fails is saved in the folder. The exit code is 1 if anything did.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from journal import read_journals  # noqa: E402 - found where the line above says
from seeds import seeds  # noqa: E402
from supervisor import Worker, run  # noqa: E402
from trial import FAILURES, MAX_CPU, MAX_PIXELS, MAX_RSS, Verdict, draw, judged  # noqa: E402

from runtime.errors import IMAGE_REASONS  # noqa: E402

LINE = 40  # bytes of a journal's line, about


def summary(verdicts: Mapping[int, Verdict]) -> str:
    """Return what is to be said of *verdicts*, in lines."""
    outcomes = Counter(verdict.outcome for verdict in verdicts.values())
    refused = Counter({reason: outcomes.pop(reason) for reason in IMAGE_REASONS if reason in outcomes})
    failed = Counter({kind: outcomes.pop(kind) for kind in FAILURES if kind in outcomes})
    slowest = max(verdicts, key=lambda number: verdicts[number].seconds)
    largest = max(verdicts, key=lambda number: verdicts[number].rss)
    return "\n".join(
        (
            f"inputs     {len(verdicts)}, of at most {MAX_PIXELS:,} pixels",
            f"accepted   {_counted(outcomes)}",
            f"refused    {_counted(refused)}",
            f"slowest    {verdicts[slowest].seconds:.3f} s of processor time (limit {MAX_CPU:g}), input {slowest}",
            f"largest    {verdicts[largest].rss / 1e6:.0f} MB resident (limit {MAX_RSS / 1e6:.0f}), input {largest}",
            f"failed     {_counted(failed)}",
            *(
                f"    {number}.{verdict.outcome}: {verdict.detail}"
                for number, verdict in sorted(verdicts.items())
                if verdict.outcome in FAILURES
            ),
        )
    )


def _counted(counts: Counter[str]) -> str:
    return f"{counts.total()}: {', '.join(f'{name} {n}' for name, n in counts.most_common())}".removesuffix(": ")


def replay(path: Path) -> int:
    """Judge the saved input at *path*, SEED/NUMBER.OUTCOME, again in this process."""
    _, options = draw(int(path.parent.name), int(path.stem), seeds())
    verdict = judged(path.read_bytes(), options)
    sys.stdout.write(f"{verdict.outcome} after {verdict.seconds:.3f} s, {verdict.rss / 1e6:.0f} MB: {verdict.detail}\n")
    return int(verdict.outcome in FAILURES)


def fuzz(arguments: argparse.Namespace) -> int:
    """Run the trials that were not run before, and print the summary of all."""
    folder = arguments.folder / str(arguments.seed)
    folder.mkdir(parents=True, exist_ok=True)
    workers = [
        Worker(
            seed=arguments.seed,
            numbers=(index, arguments.count, arguments.processes),
            journal=folder / f"{index}.journal",
        )
        for index in range(arguments.processes)
    ]
    with tqdm(total=arguments.count, unit=" inputs", disable=not sys.stderr.isatty()) as bar:
        run(workers, lambda size: bar.update(min(size // LINE, arguments.count) - bar.n))
    verdicts = {number: found for number, found in read_journals(folder).items() if number < arguments.count}
    files = seeds()
    for number, verdict in verdicts.items():
        if verdict.outcome in FAILURES:
            (folder / f"{number}.{verdict.outcome}").write_bytes(draw(arguments.seed, number, files)[0])
    sys.stdout.write(summary(verdicts) + "\n")
    return int(len(verdicts) != arguments.count or any(one.outcome in FAILURES for one in verdicts.values()))


def main() -> int:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for journals and what failed")
    parser.add_argument("--replay", type=Path, help="a saved input, to be judged again")
    arguments = parser.parse_args()
    return replay(arguments.replay) if arguments.replay else fuzz(arguments)


if __name__ == "__main__":
    sys.exit(main())
