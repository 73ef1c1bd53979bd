"""Kill the driver, the actors and the nodes of batch jobs at random moments, and look whether a row is missing.

A Ray cluster of three nodes runs the same job again and again; what is killed is killed with SIGKILL, a killed driver
is started again with the same command, a killed node is replaced. Each output is compared, row by row, with that of a
run in peace. `--store s3` writes to a real S3 server (moto) behind a proxy that fails some requests: 500, 503,
429, 409, connections dropped before and after the request was done, half answers, no answer in time.

The figures: rows lost, doubled and changed (all must be 0), and the work that was done again: attempts at shards that
wrote rows which do not count, against what the victims can have had in flight.

    python benchmarks/chaos.py [--moments 60] [--store local] [--seed 0] [--out benchmarks/results/chaos.json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from chaos import NODES, VICTIMS, Chaos, compare, discard, redone, write_input
from color_model import write_artifact
from ray_nodes import ray_nodes
from record import RESULTS, environment, keep
from s3_server import BUCKET, faulty, s3_server, seeded
from s3_server import environment as s3_environment

ROWS = 6000
KILLS_A_JOB = {"local": 10, "s3": 25}  # a job on S3 takes longer
GAP = (0.2, 3.0)  # seconds between two kills
FAULTS = 0.02  # share of the requests to S3 that fail


@contextmanager
def store(kind: str, work: Path, seed: int) -> Iterator[str]:
    """Yield where outputs go: a folder, or a bucket behind a proxy that fails requests."""
    if kind == "local":
        yield str(work)
        return
    with s3_server() as port, faulty(port) as proxy:
        proxy.plan = seeded(seed, FAULTS)
        os.environ.update(s3_environment(proxy.port))
        yield f"s3://{BUCKET}"
        print(f"{proxy.faults} of {len(proxy.seen)} requests to S3 failed")


def measure(kind: str, moments: int, seed: int) -> dict[str, Any]:
    """Run disturbed jobs until *moments* kills are done; return the figures."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["VEDETTE_HOME"] = str(work / "home")
        place = stack.enter_context(store(kind, work, seed))
        model = write_artifact(work / "model").root
        rows = write_input(work / "in.parquet", ROWS)
        cluster = stack.enter_context(ray_nodes(*NODES))
        chooser = random.Random(seed)  # noqa: S311 - a plan, no secret
        chaos = Chaos(cluster=cluster, model=model, rows=rows, home=work / "home", chooser=chooser)
        peace = f"{place}/peace"
        _, seconds = chaos.undisturbed(peace)
        print(f"{kind}: in peace {seconds:.1f} s")
        jobs = []
        while sum(chaos.killed.values()) < moments:
            out = f"{place}/war-{len(jobs)}"
            victims = [chooser.choice(VICTIMS) for _ in range(KILLS_A_JOB[kind])]
            run = chaos.disturbed(out, victims, GAP)
            again = redone(out) if kind == "local" else None
            bound = run["in_flight"] + run["faults"].get("second attempt", 0)
            jobs.append({**compare(peace, out), "kills": run["kills"], "redone": again, "in_flight": bound})
            print(jobs[-1], flush=True)
            if kind == "local":
                discard(out)
    return summary(kind, seconds, chaos, jobs)


def summary(kind: str, seconds: float, chaos: Chaos, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the *jobs* come to."""
    wrong = {name: sum(job[name] for job in jobs) for name in ("lost", "doubled", "changed")}
    again = None if kind != "local" else sum(job["redone"] for job in jobs)
    return {
        "store": kind,
        "rows_a_job": ROWS,
        "shards_a_job": -(-ROWS // chaos.shard_rows),
        "seconds_in_peace": round(seconds, 1),
        "jobs": jobs,
        "kills": dict(Counter(chaos.killed)),
        "moments": chaos.moments,
        **wrong,
        "redone": again,
        "in_flight": sum(job["in_flight"] for job in jobs),
        "passed": not any(wrong.values()) and all((job["redone"] or 0) <= job["in_flight"] for job in jobs),
    }


def main() -> int:
    """Measure, print and keep; fail if a row is wrong or too much was done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--store", choices=["local", "s3"], action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json")
    given = parser.parse_args()
    found = {kind: measure(kind, given.moments, given.seed) for kind in given.store or ["local"]}
    before = json.loads(given.out.read_text())["stores"] if given.out.exists() else {}
    about = environment(("ray", "pyarrow", "onnxruntime", "obstore"), cores=os.cpu_count(), seed=given.seed)
    keep({**about, "stores": {**before, **found}}, given.out)
    for kind, one in found.items():
        print(
            f"{kind}: {sum(one['kills'].values())} kills {one['kills']}: {one['lost']} rows lost, {one['doubled']} "
            f"doubled, {one['changed']} changed; {_again(one)}"
        )
    return 0 if all(one["passed"] for one in found.values()) else 1


def _again(one: dict[str, Any]) -> str:
    if one["redone"] is None:
        return "what a killed attempt wrote is not seen on S3"
    return f"{one['redone']} attempts done again, {one['in_flight']} were in flight"


if __name__ == "__main__":
    sys.exit(main())
