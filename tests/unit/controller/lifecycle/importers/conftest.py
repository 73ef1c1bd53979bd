"""An importer of a framework that is NumPy alone: what it does is up to the source's name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.lifecycle.importers.child import Child

MODULE = """
    import os, subprocess, sys, time
    import numpy as np
    import onnx
    from controller.errors import ExportError
    from controller.lifecycle.importers.source import SourceFacts

    TEXT = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y) {{ y = {0}(x) }}'
    ROUTES = {"first": "Relu", "second": "Abs"}

    class Doubler:
        def __init__(self, job):
            self.job = job
            self.facts = SourceFacts(
                framework=f"numpy {np.__version__}", source_sha256="0", routes=tuple(ROUTES),
                labels=("a", "b"), task="classification", metadata={"weights": str(job.weights)},
                warnings=(f"{job.image_size} {job.color}",),
            )

        def convert(self, route):
            if self.job.source == "stubborn" and route == "first":
                raise ExportError("the first way is closed")
            return onnx.parser.parse_model(TEXT.format(ROUTES[route]))

        def run(self, batch):
            if self.job.source == "texts":
                return [np.array(["cat"])]
            if self.job.source == "sleeper":
                subprocess.Popen(["sleep", "600"])
                open("grandchild", "w").close()
                time.sleep(600)
            if self.job.source == "dier":
                print("the last words", file=sys.stderr)
                os._exit(7)
            if self.job.source == "bug":
                raise KeyError("nothing\\nhere")
            return [batch * 2, np.arange(3)]

        def values(self, batch):
            return {"/a:0": batch + 1, "file": batch, "0": batch > 0}

    def open_source(job):
        print("to Python's stdout")
        os.write(1, b"below it")
        subprocess.run(["echo", "by another"], check=True)
        if job.source == "reader":
            assert sys.stdin.read() == ""
        if job.source == "absent":
            import framework_of_nowhere
        return Doubler(job)
"""


@pytest.fixture
def doubler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The importer's module, where child processes find it; they run in an empty directory."""
    packages, here = tmp_path / "packages", tmp_path / "here"
    packages.mkdir()
    here.mkdir()
    (packages / "doubler.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.chdir(here)
    return "doubler"


@pytest.fixture
def start(doubler: str) -> Iterator[Callable[..., Child]]:
    """Start a child, which ends with the test."""
    children: list[Child] = []

    def started(source: str, *arguments: Any, **options: Any) -> Child:
        children.append(Child(source, *(arguments or ("keras",)), **options))
        return children[-1]

    yield started
    for child in children:
        child.close()
