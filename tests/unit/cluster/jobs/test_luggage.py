"""What a job takes along, and what it finds there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from color_model import write_artifact

from cluster.jobs.luggage import find_models, luggage
from controller.registry.publish import publish
from runtime import __version__
from runtime.artifact import Artifact
from runtime.errors import ModelNotFoundError, UsageError
from runtime.store import ModelStore


@pytest.fixture
def store(tmp_path):
    store = ModelStore.open(tmp_path / "store")
    artifact = write_artifact(tmp_path / "artifact")
    publish(store, artifact.root, artifact.manifest)
    return store


def test_a_model_of_a_path_or_a_store_here_travels_whole(store, tmp_path):
    for reference, place in (
        (str(tmp_path / "artifact"), None),
        ("color", store.uri),
        ("color@latest", Path(store.uri).as_uri()),
    ):
        models = find_models([reference], place)
        assert models.on_cluster == ["./models/color@1"]
        assert (models.digests, models.store) == ({"color@1": models.carried[0].digest}, None)
        with luggage(models) as environment:
            packed = Artifact.open(Path(environment["working_dir"]) / "models/color@1", digest=models.carried[0].digest)
            packed.verify()
        assert not Path(environment["working_dir"]).exists()


def test_a_model_of_an_object_store_is_pinned_and_stays_there(store, monkeypatch):
    uri = "s3://models"
    monkeypatch.setattr(ModelStore, "open", lambda given: {uri: store, store.uri: store}[given])
    models = find_models(["color"], uri)
    assert (models.on_cluster, models.store) == (["color@1"], uri)
    assert models.digests == find_models(["color"], store.uri).digests
    with luggage(models) as environment:
        assert not (Path(environment["working_dir"]) / "models").exists()
    with pytest.raises(ModelNotFoundError, match="has no version 7"):
        find_models(["color@7"], uri)
    with pytest.raises(UsageError, match="names no model"):
        find_models(["a/b"], uri)


def test_the_code_that_travels_runs_alone_and_knows_its_version(store, tmp_path):
    with luggage(find_models([str(tmp_path / "artifact")], None)) as environment:
        parents = {str(Path(place).parent) for place in environment["py_modules"]}
        code = "import cluster.jobs.driver, runtime; print(runtime.__version__)"
        path = ":".join([environment["working_dir"], *parents])
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": path}, cwd="/", capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == __version__


def test_further_keys_are_merged(store, tmp_path):
    more = {"pip": ["x"], "env_vars": {"A": "1"}}
    with luggage(find_models(["color"], store.uri), more) as environment:
        assert environment["pip"] == ["x"]
        assert environment["env_vars"] == {"RAY_USAGE_STATS_ENABLED": "0", "A": "1"}
    assert more == {"pip": ["x"], "env_vars": {"A": "1"}}
