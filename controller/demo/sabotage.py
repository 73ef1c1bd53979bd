"""A model that is broken on purpose: its golden output is not what the model gives.

This is what a wrong build, a mixed-up file or a bad conversion looks like to a device: everything is
published and pinned properly, and the outputs are wrong.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from controller.registry.publish import publish
from runtime.artifact import Artifact
from runtime.manifest import Golden, Manifest, PinnedFile
from runtime.store import ModelStore

__all__ = ["publish_broken"]


def publish_broken(source: Artifact, store: ModelStore, workspace: Path) -> Manifest:
    """Publish *source* as the next version, with golden outputs that no execution provider can match.

    Args:
        source: A good artifact.
        store: Where to publish.
        workspace: A directory to be made, for the altered files.
    """
    shutil.copytree(source.root, workspace)
    golden = workspace / source.manifest.golden.file
    with np.load(golden) as arrays:
        altered = {name: values if name == "input" else values + 1.0 for name, values in arrays.items()}
    np.savez(golden, **altered)
    return publish(
        store, workspace, source.manifest.model_copy(update={"golden": Golden(**PinnedFile.measure(golden))})
    )
