"""A batch job on a Ray cluster of three nodes, whose driver, actors and nodes are killed while it runs.

What is killed when is drawn from a seed; everything is killed with SIGKILL. A killed driver is started again with the
same command, a killed node is replaced by a new one.
"""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from batch_runs import finish, processes_of, start
from PIL import Image
from ray.cluster_utils import Cluster
from ray_nodes import add_node

from cluster import read_output
from cluster.output.commit import OutputDirectory

Victim = Literal["driver", "actor", "node"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)
NODES = ({"num_cpus": 1},) * 3
ACTOR = "ray::BatchWorker"  # what Ray calls the process of an actor
SLOTS = 2  # shards in flight an actor (`cluster.pool.ray_pool`)
PICTURES = 499  # different ones; a prime, so that no shard is like another
BAD_ROWS = (17, 1234)
PATIENCE = 600  # seconds that a job may take; on two busy cores, on S3, one takes minutes


def write_input(path: Path, rows: int, side: int = 160) -> Path:
    """Write *rows* pictures of noise as JPEG, two of them broken, with their numbers and one of five sites."""
    noise = np.random.default_rng(0)
    pictures = []
    for number in range(PICTURES):
        pixels = noise.integers(0, 255, (side, side, 3), np.uint8)
        pixels[..., number % 3] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
        pictures.append(buffer.getvalue())
    schema = pa.schema([("image", pa.binary()), ("number", pa.int32()), ("site", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, rows, 200):
            numbers = range(first, min(first + 200, rows))
            images = [b"broken" if number in BAD_ROWS else pictures[number % PICTURES] for number in numbers]
            sites = [None if number % 5 == 0 else f"site/{number % 5}" for number in numbers]
            columns = {"image": pa.array(images, pa.binary()), "number": pa.array(numbers, pa.int32()), "site": sites}
            file.write_table(pa.table(columns, schema=schema))
    return path


@dataclass
class Chaos:
    """One input and one cluster, on which jobs are run and disturbed.

    Attributes:
        home: VEDETTE_HOME of the cluster's processes.
        further: Options of the jobs.
        killed: What was killed, over all jobs.
        moments: (victim, seconds since the job began, shards committed by then) of each kill.
    """

    cluster: Cluster
    model: Path
    rows: Path
    home: Path
    shard_rows: int = 20
    further: tuple[str, ...] = ()
    chooser: random.Random = field(default_factory=lambda: random.Random(0))
    killed: Counter[str] = field(default_factory=Counter)
    moments: list[tuple[str, float, int]] = field(default_factory=list)

    def start(self, out: str) -> subprocess.Popen[str]:
        """Start the job, or go on with it."""
        arguments = ("--address", self.cluster.address, "--shard-rows", str(self.shard_rows), "--batch-size", "4")
        return start(self.model, self.rows, Path(out), *arguments, "--output", out, "--provider", "cpu", *self.further)

    def undisturbed(self, out: str) -> tuple[dict, float]:
        """Run the job in peace; return its summary and how many seconds it took."""
        begun = time.monotonic()
        return finish(self.start(out), PATIENCE), time.monotonic() - begun

    def disturbed(self, out: str, victims: Sequence[Victim], gap: tuple[float, float]) -> dict:
        """Run the job, killing *victims* one after the other, *gap* (from, to) seconds apart, as long as it runs.

        Returns:
            The summary of the last run; ``in_flight``: shards that the victims can have had; ``kills``.
        """
        driver, begun = self.start(out), time.monotonic()
        in_flight, kills = 0, Counter[str]()
        place = OutputDirectory.open(out)
        self._wait_for_work(driver, place, at_least=1)
        for victim in victims:
            time.sleep(self.chooser.uniform(*gap))
            if driver.poll() is not None:
                break
            had = self._kill(victim, driver)
            if had is None:
                continue
            kills[victim] += 1
            in_flight += had
            self.moments.append((victim, round(time.monotonic() - begun, 2), len(place.committed())))
            if victim == "driver":
                driver.communicate()
                driver = self.start(out)
                self._wait_for_work(driver, place, at_least=len(place.committed()) + 1)
        summary = finish(driver, PATIENCE)
        self.killed += kills
        return {**summary, "in_flight": in_flight, "kills": dict(kills)}

    def _wait_for_work(self, driver: subprocess.Popen[str], place: OutputDirectory, at_least: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(place.committed()) < at_least and driver.poll() is None:
            assert time.monotonic() < deadline, "the job does nothing"
            time.sleep(0.05)

    def _actors_of(self, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        """Return the actors, once there is one; those that replace the killed ones take seconds to start."""
        deadline = time.monotonic() + PATIENCE
        while not (actors := self.actors()) and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return actors

    def _kill(self, victim: Victim, driver: subprocess.Popen[str]) -> int | None:
        """Kill *victim*; return how many shards it can have had in flight, ``None`` if there is none."""
        actors = self._actors_of(driver)
        match victim:
            case "driver":
                driver.kill()
                return SLOTS * len(actors)
            case "actor":
                if not actors:
                    return None
                with suppress(psutil.NoSuchProcess):
                    self.chooser.choice(actors).kill()
                return SLOTS
            case "node":
                if not self.cluster.worker_nodes:
                    return None
                node = self.chooser.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
                self.cluster.remove_node(node, allow_graceful=False)
                add_node(self.cluster, **NODES[0])
                return SLOTS
        raise AssertionError(victim)

    def actors(self) -> list[psutil.Process]:
        """Return the processes of the actors, in the order of their ids."""
        found = []
        for process in processes_of(self.home):
            with suppress(psutil.Error):
                if process.name().startswith(ACTOR[:15]) or " ".join(process.cmdline()).startswith(ACTOR):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)


def compare(reference: str, found: str) -> dict[str, int]:
    """Return how many rows of the output *found* are lost, doubled and changed against *reference*."""
    one, two = read_output(reference), read_output(found)
    numbers = Counter(two.column("number").to_pylist())
    expected = one.column("number").to_pylist()
    lost = sum(number not in numbers for number in expected)
    doubled = sum(count - 1 for count in numbers.values())
    changed = 0
    if not lost and not doubled and len(numbers) == len(expected):
        changed = sum(left != right for left, right in zip(one.to_pylist(), two.to_pylist(), strict=True))
    else:
        changed = len(set(numbers) - set(expected))
    return {"lost": lost, "doubled": doubled, "changed": changed}


def redone(out: str) -> int:
    """Return how many attempts wrote rows that do not count: work that was done again, by the local files of *out*.

    What was whole and lost a race is not seen any more: a finished job removes it.
    """
    commits = OutputDirectory.open(out).commits().values()
    counted = {_attempt(Path(file.path)) for commit in commits for file in commit.files}
    files = [path for path in Path(out, "data").rglob("*") if path.is_file()]
    written = {_attempt(path) for path in files if not path.name.removeprefix(".").startswith("part-")}
    return len(written - counted)


def _attempt(path: Path) -> str:
    """Return what the names of all files of an attempt begin with: the shard's number and digest, and the attempt."""
    return "-".join(path.name.removeprefix(".").split(".")[0].split("-")[:3])


def discard(out: str) -> None:
    """Remove a local output."""
    shutil.rmtree(out, ignore_errors=True)
