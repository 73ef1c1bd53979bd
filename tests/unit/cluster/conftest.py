"""An artifact whose proof is at hand, so that no test waits for the child process again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from color_model import write_artifact

from cluster.planning import BatchOptions
from runtime.artifact import Artifact
from runtime.proof import prove_isolated


@pytest.fixture(scope="session")
def proven_artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """The color classifier, and a cache that holds its proof."""
    artifact = write_artifact(tmp_path_factory.mktemp("models") / "color")
    home = tmp_path_factory.mktemp("proven")
    before = os.environ.get("VEDETTE_HOME")
    os.environ["VEDETTE_HOME"] = str(home)
    try:
        assert prove_isolated(artifact.root, "fp32", "CPUExecutionProvider").passed
    finally:
        if before is None:
            del os.environ["VEDETTE_HOME"]
        else:
            os.environ["VEDETTE_HOME"] = before
    return artifact, home / "cache"


@pytest.fixture
def artifact(proven_artifact: tuple[Artifact, Path], home: Path) -> Artifact:
    shutil.copytree(proven_artifact[1], home / "cache")
    return proven_artifact[0]


@pytest.fixture
def options(artifact: Artifact, tmp_path: Path) -> Callable[..., BatchOptions]:
    """Make the options of a small local job over tmp_path/in.parquet into tmp_path/out."""

    def make(**changes) -> BatchOptions:
        given = {
            "models": (str(artifact.root),),
            "input": str(tmp_path / "in.parquet"),
            "output": str(tmp_path / "out"),
            "local": True,
            "workers": "2",
            "shard_rows": 20,
            "provider": "cpu",
        }
        return BatchOptions(**{**given, **changes})

    return make
