"""The story of the demo, step by step.

Rules:
    * Each step is checked by what devices report and by what is in the batch output.
    * Training is seeded; the test set is never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from controller.demo.fleet import DEVICES, Fleet
from controller.demo.processes import Processes
from controller.demo.report import Report, check
from controller.demo.sabotage import publish_broken
from runtime.artifact import Artifact
from runtime.store import ModelStore

__all__ = ["Scenario"]

MODEL = "digits"
EPOCHS = {1: 2, 2: 12}  # by version: a hasty one, and a better one
GOOD_ACCURACY = 0.97


@dataclass(frozen=True, slots=True)
class Scenario:
    """The demo in one directory."""

    root: Path
    processes: Processes
    report: Report

    @property
    def fleet(self) -> Fleet:
        """The controller and its devices."""
        return Fleet(self.processes, self.root)

    def play(self) -> None:
        """Do all of it.

        Raises:
            DemoError: A step did not hold.
        """
        self._start()
        self._train_and_publish(1)
        self._roll_out(1, waves="100%")
        first = self._batch(1)
        self._train_and_publish(2)
        self._roll_out(2, waves="1,100%")
        second = self._batch(2)
        with self.report.step("v2 is better than v1, by the batch outputs") as step:
            step.note(v1=f"{first:.2%}", v2=f"{second:.2%}")
            check(second > first, f"v2 is right on {second:.2%} of the test set, v1 on {first:.2%}")
            check(second >= GOOD_ACCURACY, f"v2 is right on {second:.2%}; expected at least {GOOD_ACCURACY:.0%}")
        self._stop_broken()

    def _start(self) -> None:
        with self.report.step("start a controller with its broker, enrol three agents") as step:
            self.processes.run("vedette", "init")
            step.note(controller=self.fleet.start_controller())
            for device, site in DEVICES.items():
                self.fleet.start_agent(device, site)
            step.note(online=" ".join(self.fleet.wait_online()))

    def _train_and_publish(self, version: int) -> None:
        run = self.root / f"run-{version}"
        with self.report.step(f"train v{version} for {EPOCHS[version]} epochs") as step:
            trained = self.processes.run_json(
                "vedette", "train", "--data", "digits#train", "--validation", "digits#test",
                "--arch", "tiny", "--epochs", str(EPOCHS[version]), "--out", run,
            )  # fmt: skip
            step.note(held_out_accuracy=f"{trained['best']['accuracy']:.2%}")
        with self.report.step(f"export, quantize and publish {MODEL}@{version}") as step:
            published = self.processes.run_json(
                "vedette", "model", "import", run, "--name", MODEL, "--task", "classification",
                "--calibration", "digits#train", "--evaluation", "digits#test", "--precision", "fp32,int8",
            )  # fmt: skip
            check(published["version"] == version, f"published as version {published['version']}, expected {version}")
            for variant, facts in published["variants"].items():
                top1, latency = facts["metrics"]["top1"], facts["metrics"].get("latency_ms")
                step.note(**{variant: f"{top1:.2%} " + (f"in {latency:.3f} ms" if latency else "(unproven)")})
            for variant, facts in published["rejected"].items():
                step.note(**{f"{variant} rejected": facts["reason"]})

    def _roll_out(self, version: int, waves: str) -> None:
        reference = f"{MODEL}@{version}"
        with self.report.step(f"roll {reference} out in waves {waves}") as step:
            rollout = self.fleet.roll_out(reference, waves, expect_success=True)
            check(rollout["state"] == "succeeded", f"the rollout is {rollout['state']}; expected succeeded")
            self.fleet.check_serving(reference)
            step.note(serving=self._count(self.fleet.serving()))

    def _batch(self, version: int) -> float:
        """Run the test set through the model on Ray; return the accuracy that its output shows."""
        data, out = self.root / "test.parquet", self.root / f"batch-{version}"
        with self.report.step(f"batch job on Ray over the test set with v{version}") as step:
            if not data.exists():
                self.processes.run("vedette", "data", "convert", "digits#test", data, "--row-group-rows", "50")
            summary = self.processes.run_json(
                "vedette", "batch", "run", "--model", f"{MODEL}@{version}", "--input", data, "--output", out,
                "--keep", "label",
            )  # fmt: skip
            answers = self.root / f"answers-{version}.parquet"
            self.processes.run("vedette", "batch", "read", out, "--out", answers)
            rows, accuracy = _accuracy(answers)
            expected = pq.read_metadata(data).num_rows
            check(rows == expected, f"{rows} distinct rows in the output, {expected} in the input")
            step.note(rows=rows, rows_per_second=round(summary["rows_per_second"], 1), accuracy=f"{accuracy:.2%}")
            return accuracy

    def _stop_broken(self) -> None:
        good, broken = f"{MODEL}@2", f"{MODEL}@3"
        with self.report.step(f"{broken}, broken on purpose, is stopped at the first wave") as step:
            pulled = self.root / "v2"
            self.processes.run("vedette", "model", "pull", good, pulled)
            publish_broken(Artifact.open(pulled), ModelStore.open(self.root / "home" / "store"), self.root / "broken")
            rollout = self.fleet.roll_out(broken, "1,100%", expect_success=False)
            tried = [d for d in rollout["devices"] if d["state"] != "pending"]
            check(
                rollout["state"] in {"failed", "paused"}, f"the rollout is {rollout['state']}; expected to be stopped"
            )
            check(len(tried) == 1, f"{len(tried)} devices were given the broken model; expected 1, the first wave")
            failure: dict[str, Any] = self.fleet.reported(tried[0]["device"]).get("failure") or {}
            check(failure.get("code") == "proof", f"{tried[0]['device']} reports {failure}; expected a failed proof")
            self.fleet.check_serving(good)
            step.note(rollout=rollout["state"], tried=tried[0]["device"], why=failure["message"].partition(";")[0])
            step.note(serving=self._count(self.fleet.serving()))

    @staticmethod
    def _count(serving: dict[str, str | None]) -> str:
        models = sorted({str(model) for model in serving.values()})
        return " ".join(f"{model} on {list(serving.values()).count(model)}" for model in models)


def _accuracy(answers: Path) -> tuple[int, float]:
    """Return the number of distinct input rows in a batch output, and the share of right labels."""
    table = pq.read_table(answers, columns=["source_row", "label_id", "input_label"])
    right = pc.equal(table["label_id"].cast("int64"), table["input_label"].cast("int64"))
    return len(pc.unique(table["source_row"])), float(pc.mean(right.cast("float64")).as_py())
