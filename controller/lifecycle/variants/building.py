"""Building variants from the reference: what several of them need is prepared and measured once.

Rules:
    * Every variant goes through the gate again, and takes exactly what the reference takes.
    * One that cannot be built is rejected with the reason; the others are published all the same.
    * What is quantized with images is searched for (`controller.lifecycle.quantization.recovery.search`): where a plain
      quantization is near enough to fp32, that is where the search ends.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import onnx

from controller.errors import ExportError
from controller.lifecycle.gate.checks import check_graph
from controller.lifecycle.graph import at_most_published_versions, load_graph
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import prepare
from controller.lifecycle.quantization.recovery.search import Goal, Recovery, recover
from controller.lifecycle.variants.kinds import VARIANTS, Kind, at_hand
from controller.lifecycle.variants.reference import Built
from runtime.datasets import Dataset
from runtime.errors import UsageError
from runtime.hardware import this_machine
from runtime.home import Home
from runtime.providers import CPU

__all__ = ["Workshop"]


class Workshop:
    """Where the variants of one reference are built.

    Attributes:
        reference: What they are made from.
        directory: Where their files go.
        recoveries: What the search for a quantized variant gave, by id.
    """

    def __init__(
        self, reference: Built, calibration: Dataset | None, directory: Path, goal: Goal | None = None
    ) -> None:
        """Build nothing yet.

        Args:
            reference: What they are made from.
            calibration: Images; ``None``: only what needs none can be built.
            directory: Where their files go.
            goal: Of the searches; speed is looked at where a device of the variant's class is at hand.
        """
        self.reference, self.directory = reference, directory
        self.recoveries: dict[str, Recovery] = {}
        self._images, self._goal = calibration, goal or Goal()

    def build(self, variant: str) -> Path:
        """Write the variant of that id, put it through the gate, and return its file.

        Raises:
            UsageError: It needs images, and there are none.
            DatasetError: There are not enough of them.
            ExportError: The graph cannot be converted, or what came of it did not pass.
        """
        path = self.directory / f"model.{variant}.onnx"
        onnx.save(at_most_published_versions(self._made(variant, VARIANTS[variant])), path)
        session = check_graph(path, self.reference.custom_ops)
        expected = self.reference.session.inputs
        if session.inputs != expected:
            raise ExportError(f"{path.name} takes {session.inputs}; the reference takes {expected}")
        return path

    def build_all(self, variants: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, str]]:
        """Return the files of those *variants* that could be built, and why the others could not, by id.

        Raises:
            UsageError: One needs images, and there are none.
            DatasetError: There are not enough of them.
        """
        paths, failed = {}, {}
        for variant in variants:
            try:
                paths[variant] = self.build(variant)
            except ExportError as error:
                failed[variant] = f"it cannot be built: {error}"
        return paths, failed

    def _made(self, variant: str, kind: Kind) -> onnx.ModelProto:
        if kind.scheme is not None:
            if self.calibration is None:
                raise UsageError(f"precision {variant} needs real images: give --calibration URI")
            is_here = CPU.name in kind.providers and at_hand(kind, this_machine()) is not None
            goal = self._goal if is_here else replace(self._goal, least_speedup=None)
            self.recoveries[variant] = recover(self.calibration, kind.scheme, goal)
            return self.recoveries[variant].model
        if kind.convert is None:
            raise AssertionError(f"variant {variant} has neither a scheme nor a conversion")
        return kind.convert(load_graph(self.reference.path))

    @cached_property
    def prepared(self) -> onnx.ModelProto:
        """The reference as it is calibrated and quantized."""
        return prepare(load_graph(self.reference.path))

    @cached_property
    def calibration(self) -> Calibration | None:
        """The images, and the ranges that were measured on them; ``None`` without images."""
        if self._images is None:
            return None
        return Calibration(
            self.prepared,
            self._images,
            self.reference.preprocessor,
            custom_ops=self.reference.custom_ops,
            cache=Home.from_environment().cache / "calibrations",
        )
