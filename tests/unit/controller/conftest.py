"""What the controller's tests share: a store with a published model."""

from __future__ import annotations

import pytest
from color_model import write_artifact

from controller.registry.publish import publish
from runtime.store import ModelStore


@pytest.fixture(scope="session")
def published_color(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with the color classifier as versions 1 and 2."""
    root = tmp_path_factory.mktemp("published")
    store = ModelStore.open(root / "store")
    for version in (1, 2):
        artifact = write_artifact(root / str(version), version)
        publish(store, artifact.root, artifact.manifest)
    return store
