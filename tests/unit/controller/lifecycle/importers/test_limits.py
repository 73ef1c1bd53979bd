from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from controller.errors import ExportError
from controller.lifecycle.importers import limits, load_source


def test_model_that_one_file_cannot_hold_is_refused(
    conv_graph: Callable[..., onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv_graph()
    onnx.save(model, tmp_path / "large.onnx", save_as_external_data=True, size_threshold=0)
    with load_source(str(tmp_path / "large.onnx")) as inlined:
        limits.check_size(inlined.graph, "large.onnx")
        weights = sum(tensor.ByteSize() for tensor in inlined.graph.graph.initializer)
    monkeypatch.setattr(limits, "LARGEST", weights - 1)
    with pytest.raises(ExportError, match=r"large\.onnx has 0\.00 GB of weights as ONNX; one file holds 0\.00 GB"):
        load_source(str(tmp_path / "large.onnx"))
