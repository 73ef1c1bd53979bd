"""`vedette model quantize`: what it publishes, what it refuses, and that it publishes nothing in vain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import Command, command_line
from old_interpreters import refusing_interpreter
from quantizable import uneven_network

from controller.lifecycle.gate.oldest import OldestRuntime
from controller.lifecycle.variants import judging
from controller.lifecycle.variants.kinds import requested
from controller.lifecycle.variants.verdict import Speed
from controller.registry.cards import read_card
from runtime.hardware import this_machine
from runtime.store import ModelStore

NATIVE = requested(("fp32", "int8"), this_machine())[0]


@pytest.fixture
def vedette(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(capsys)


@pytest.fixture
def published(vedette: Command, tmp_path: Path) -> None:
    """The uneven network as m@1, in fp32."""
    source = tmp_path / "source.onnx"
    onnx.save(uneven_network(), source)
    code, _, err = vedette(
        "model", "import", source, "--name", "m", "--task", "classification", "--preprocess", "unit", "--json"
    )
    assert code == 0, err


def speeds(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    """Variants are so many times as fast as fp32: a small network's speed says nothing, and depends on the hour."""

    def measured(_draft: object, ids: Sequence[str], *_: Any) -> dict[str, Speed]:
        return {variant: Speed(latency_ms=1.0, reference_ms=speedup) for variant in ids}

    monkeypatch.setattr(judging, "measured_speeds", measured)


@pytest.mark.usefixtures("published")
def test_next_version_has_the_new_variant(
    vedette: Command, digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, 2.0)
    data = ("--calibration", digit_folder, "--evaluation", digit_folder, "--max-drop", "100")
    code, found, err = vedette("model", "quantize", "m", *data, "--method", "mse", "--json")
    assert code == 0, err
    assert found["model"] == "m@2"
    assert list(found["variants"]) == ["fp32", NATIVE]
    metrics = found["variants"][NATIVE]["metrics"]
    assert metrics["speedup_fp32"] == 2.0
    assert metrics["sqnr_db"] == pytest.approx(found["searches"][NATIVE]["sqnr_db"])
    assert metrics["sqnr_db"] > 15
    steps = found["searches"][NATIVE]["steps"]
    assert (steps[0]["rung"], steps[0]["what"]) == ("plain", "mse")
    assert any(note.startswith(f"{NATIVE}: signal to quantization noise") for note in found["notes"])
    store = ModelStore.open(None)
    first, second = (store.manifest("m", version) for version in (1, 2))
    assert first.variants[0].sha256 == second.variants[0].sha256
    assert first.provenance.source_sha256 == second.provenance.source_sha256
    card = read_card(store, second.digest)
    assert card is not None
    for text in (NATIVE, found["notes"][0].partition(":")[2].strip(), "m@2"):
        assert text in card.decode()

    directory = tmp_path / "pulled"
    assert vedette("model", "pull", "m@1", directory)[0] == 0
    code, text, err = vedette("model", "quantize", directory, *data, "--budget", "0")
    assert code == 0, err
    assert text.startswith("published m@3\n")
    assert "rung" in text


@pytest.mark.usefixtures("published")
def test_nothing_is_published_if_no_variant_earns_its_place(
    vedette: Command, digit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, 0.5)
    code, _, err = vedette(
        "model", "quantize", "m", "--calibration", digit_folder, "--max-drop", "100", "--budget", "0"
    )
    assert code == 1
    assert f"nothing new was published of m: {NATIVE}: not faster than fp32: 1.000 ms against 0.500 ms" in err
    assert ModelStore.open(None).versions("m") == [1]


@pytest.mark.usefixtures("published")
def test_the_oldest_runtime_is_claimed_where_the_variants_ran_on_it_and_kept_otherwise(
    vedette: Command, digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, 2.0)
    claim = OldestRuntime.open(Path(sys.executable)).claim
    asked = ("model", "quantize", "m", "--calibration", digit_folder, "--max-drop", "100", "--budget", "0", "--json")
    code, _, err = vedette(*asked, "--oldest-ort", refusing_interpreter(tmp_path))
    assert code == 1
    assert "model.fp32.onnx does not run on ONNX Runtime 1.0.0" in err
    code, found, err = vedette(*asked, "--oldest-ort", sys.executable)
    assert code == 0, err
    assert not any("nothing was run on the oldest" in note for note in found["notes"])
    code, found, err = vedette(*asked)
    assert code == 0, err
    assert any(
        f"nothing was run on the oldest ONNX Runtime that the model claims ({claim})" in n for n in found["notes"]
    )
    store = ModelStore.open(None)
    assert [store.manifest("m", version).requires.ort for version in (1, 2, 3)] == [">=1.22", claim, claim]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "distribution"), "--method 'distribution' is not known; expected auto, minmax"),
        (("--budget", "-1"), "--budget is -1.0; expected 0 or more"),
        (("--max-drop", "-1"), "--max-drop is -1.0; expected 0 or more percentage points"),
        (("--precision", "int4"), "precision int4 cannot be built"),
    ],
)
def test_wrong_calls_are_refused(vedette: Command, options: tuple[str, str], says: str) -> None:
    code, _, err = vedette("model", "quantize", "m", "--calibration", "digits", *options)
    assert code == 2
    assert says in err
