"""A second execution provider for real: OpenVINO on the CPU, built in or as a plug-in (`make test-openvino`).

Which of the two it is depends on the environment that runs these tests; elsewhere they are skipped. The
plug-in shows a device on Intel's processors only: on others it must be refused for that reason, and
what needs it to run is skipped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobilenet import mobilenet_artifact

from runtime import proving, session
from runtime.artifact import Artifact
from runtime.cli import run_command, vedette
from runtime.errors import ProviderError
from runtime.predictor import Predictor, choose
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import Proof, engine_folder, prove_isolated
from runtime.providers import CPU, find, flavours, installed_plugins
from runtime.providers.catalog import OPENVINO_CPU
from runtime.session import Session, SessionOptions

OPENVINO = "OpenVINOExecutionProvider"
BUILT_IN = any(flavour.startswith("onnxruntime-openvino ") for flavour in flavours())
PLUGGED = "onnxruntime-ep-openvino" in installed_plugins([OPENVINO_CPU])
WANTED = os.environ.get("VEDETTE_TEST_OPENVINO")  # built-in or plug-in: then its absence is no excuse

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (BUILT_IN or PLUGGED or WANTED), reason="no OpenVINO here; run: make test-openvino"),
]


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return shutil.copytree(probe_root(), tmp_path / "probe", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def proof(probe: Path) -> Proof:
    """The probe's proof on OpenVINO; skips where the plug-in has no device."""
    found = prove_isolated(probe, PROBE_VARIANT, "openvino:cpu")
    if PLUGGED and "shows no CPU" in found.reason:
        pytest.skip(found.reason)
    return found


@pytest.fixture
def mobilenet(test_data: Callable[[str], Path], tmp_path: Path, proof: Proof) -> Artifact:
    """MobileNetV2 on photographs, float NCHW, dynamic batch."""
    assert proof.passed, proof.reason
    model = test_data("models/mobilenet_v2.onnx")
    golden = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    return mobilenet_artifact("fp32", model, tmp_path / "mobilenet", test_data, golden_input=golden)


def test_it_is_here_in_the_way_that_was_asked_for() -> None:
    assert {"built-in": BUILT_IN, "plug-in": PLUGGED}.get(WANTED or ("built-in" if BUILT_IN else "plug-in"))
    assert len(flavours()) == 1


def test_a_proof_passes_and_says_what_really_runs_there(proof: Proof) -> None:
    assert proof.passed, proof.reason
    assert (proof.provider, proof.device, proof.reference) == (OPENVINO, "CPU", f"{OPENVINO}:CPU")
    assert (proof.node_share, proof.shares) == (1.0, {OPENVINO: 1.0})
    assert proof.max_relative <= 1e-3
    assert proof.origin.startswith("built into onnxruntime-openvino" if BUILT_IN else "plug-in onnxruntime-ep-openvin")
    assert 0 < proof.latency_ms <= proof.latency_p90_ms
    assert proof.throughput > 0


@pytest.mark.skipif(not PLUGGED, reason="OpenVINO is built in here")
def test_a_plugin_without_a_device_is_refused_for_that_reason(probe: Path) -> None:
    found = prove_isolated(probe, PROBE_VARIANT, "openvino:npu")
    assert not found.passed
    assert found.reason.startswith(
        f"{OPENVINO}:NPU: plug-in onnxruntime-ep-openvino 1.8.1 on onnxruntime 1.32.0 is registered but shows no NPU"
    )
    assert found.installed


@pytest.mark.skipif(not BUILT_IN, reason="OpenVINO is a plug-in here")
def test_a_device_that_is_not_there_is_refused_in_openvinos_words(probe: Path) -> None:
    found = prove_isolated(probe, PROBE_VARIANT, "openvino:gpu")
    assert not found.passed
    assert "ONNX Runtime fell back to CPUExecutionProvider" in found.reason
    assert "no device: OpenVINO finds no GPU on this machine" in found.reason


@pytest.mark.skipif(not BUILT_IN, reason="OpenVINO is a plug-in here")
def test_a_session_of_which_no_node_runs_there_is_refused(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTO builds a session, lists OpenVINO first, gives the right output, and runs it all on the CPU EP."""
    automatic = dataclasses.replace(OPENVINO_CPU, device="", options={"device_type": "AUTO"})
    for module in (proving, session):
        monkeypatch.setattr(module, "find", lambda _: automatic)
    artifact = Artifact.open(probe)
    with pytest.raises(ProviderError, match=rf"{OPENVINO} was built, but 0 of 7 nodes run on it \({CPU.name} 100%\)"):
        proving.prove(artifact, artifact.manifest.variant(PROBE_VARIANT), OPENVINO)


@pytest.mark.parametrize("provider", ["cuda", "openvino:gpu", "openvino:npu"])
def test_a_provider_by_name_is_strict(
    probe: Path, tmp_path: Path, provider: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProviderError, match="probe@1 runs on no execution provider here: fp32 on "):
        Predictor(Artifact.open(probe), provider=provider)
    (tmp_path / "x.bmp").write_bytes(bitmap())
    arguments = ["predict", "--model", str(probe), "--provider", provider, str(tmp_path / "x.bmp")]
    with pytest.raises(SystemExit) as ended:
        run_command(vedette, "vedette", arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.startswith("vedette: error: probe@1 runs on no execution provider here: ")
    assert "not installed" in err if provider == "cuda" else "no device" in err or "shows no" in err


def bitmap() -> bytes:
    """A Windows bitmap of 16 x 16 pixels, 24 bits each, all gray."""
    header = b"BM" + (54 + 768).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    size = b"".join(number.to_bytes(4, "little") for number in (40, 16, 16))
    return header + size + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + bytes([128]) * 768


def test_the_second_proof_comes_from_the_cache(probe: Path, proof: Proof, home: Path) -> None:
    assert proof.passed, proof.reason
    (kept,) = (home / "cache" / "proofs").iterdir()
    assert Proof.model_validate_json(kept.read_bytes()) == proof
    assert prove_isolated(probe, PROBE_VARIANT, "openvino:cpu") == proof  # to the last digit of its measurements


def test_what_is_compiled_is_kept_under_the_key_of_the_proof_and_used_again(mobilenet: Artifact, home: Path) -> None:
    first = prove_isolated(mobilenet.root, "fp32", "openvino:cpu")
    assert first.passed, first.reason
    folder = engine_folder(mobilenet, "fp32", find("openvino:cpu"), SessionOptions())
    assert folder is not None
    (blob,) = folder.glob("*.blob")
    assert folder.parent == home / "cache" / "engines"
    before = blob.stat().st_mtime_ns
    predictor = Predictor(mobilenet, provider="openvino:cpu")
    assert predictor.proof == first
    assert list(folder.glob("*.blob")) == [blob]
    if PLUGGED:  # the wheel that has it built in writes the blob for the CPU, and writes it anew (1.24.1)
        assert blob.stat().st_mtime_ns == before


def test_it_agrees_with_the_cpu_on_photographs(mobilenet: Artifact, test_data: Callable[[str], Path]) -> None:
    photographs = sorted(test_data("images/imagenet300").glob("*.JPEG"))[:24]
    here, there = (Predictor(mobilenet, provider=name) for name in ("openvino", "cpu"))
    assert (here.provider, there.provider) == (OPENVINO, CPU.name)
    assert here.proof.node_share == 1.0
    for one, other in zip(here.predict(photographs), there.predict(photographs), strict=True):
        assert one.label_id == other.label_id
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_auto_takes_the_faster_of_both_and_has_nothing_to_explain(mobilenet: Artifact) -> None:
    predictor = Predictor(mobilenet, options=SessionOptions(intra_op_threads=1))
    proofs = {proof.reference: proof for proof in predictor.selection.proofs}
    assert set(proofs) == {f"{OPENVINO}:CPU", CPU.name}
    assert all(proof.passed for proof in proofs.values()), proofs
    assert predictor.proof.latency_ms == min(proof.latency_ms for proof in proofs.values())
    assert predictor.fallback is None  # both compute on the CPU: which is faster is a choice, not a loss


def test_a_refusal_of_what_is_installed_is_a_fallback(mobilenet: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(root: Path, variant: str, provider: str, **more: object) -> Proof:
        found = prove_isolated(root, variant, provider, **more)
        return found if provider == CPU.name else found.model_copy(update={"passed": False, "reason": "it is off"})

    monkeypatch.setattr("runtime.predictor.prove_isolated", spoil)
    selection = choose(mobilenet)
    assert selection.chosen.provider == CPU.name
    assert selection.fallback == f"{OPENVINO}:CPU was preferred on this machine: it is off"


def test_it_runs_a_pinned_batch_without_the_cpus_own_provider(mobilenet: Artifact) -> None:
    options = SessionOptions(fixed_batch=4, disable_cpu_fallback=True, intra_op_threads=1)
    predictor = Predictor(mobilenet, provider="openvino:cpu", options=options)
    assert predictor.fixed_batch == 4
    batch = np.random.default_rng(1).standard_normal((6, 3, 224, 224)).astype(np.float32)
    (found,) = predictor.infer(batch)
    (expected,) = Session(mobilenet.root / "model.fp32.onnx").run(batch)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_the_doctor_lists_it_among_the_proven(proof: Proof, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(vedette, "vedette", ["doctor", "--json"])
    assert ended.value.code in {0, None}
    report = json.loads(capsys.readouterr().out)
    found = {f"{one['provider']}:{one['device']}": one for one in report["providers"]}
    assert found[f"{OPENVINO}:CPU"]["status"] == "proven"
    assert found[f"{OPENVINO}:CPU"]["node_share"] == 1.0
    assert found[f"{CPU.name}:"]["status"] == "proven"
    assert report["problems"] == []
    versions = report["versions"]
    assert "openvino" in versions["onnxruntime"] or versions["onnxruntime-ep-openvino"] == "1.8.1"
