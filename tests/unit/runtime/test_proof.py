"""Proof instead of a claim: what passes, what does not and why, and what is remembered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import proof as proof_module
from runtime.artifact import Artifact
from runtime.errors import ArtifactError, ModelNotFoundError, ProviderError
from runtime.probe import PROBE_VARIANT
from runtime.proof import Proof, ort_version, prove_isolated
from runtime.proving import prove

CPU = "CPUExecutionProvider"
Change = Callable[..., Artifact]


@pytest.fixture
def child_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every Python process started from here run some code before anything else."""

    def install(code: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


def kept(home: Path) -> list[Path]:
    return sorted((home / "cache" / "proofs").glob("*"))


def test_a_proof_has_figures_and_is_kept(probe: Path, home: Path) -> None:
    found = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert found.passed, found.reason
    assert (found.variant, found.provider, found.node_share) == (PROBE_VARIANT, CPU, 1.0)
    assert found.max_abs <= 1e-3
    assert 0 < found.latency_ms < 1000
    assert found.ort == ort_version().rpartition(" ")[2]
    assert [Proof.model_validate_json(path.read_bytes()) for path in kept(home)] == [found]


def test_a_kept_proof_is_not_made_again(probe: Path, home: Path, child_runs: Callable[[str], None]) -> None:
    first = prove_isolated(probe, PROBE_VARIANT, CPU)
    child_runs("import os; os._exit(3)")
    assert prove_isolated(probe, PROBE_VARIANT, CPU) == first


def test_a_wrong_golden_output_does_not_pass_and_says_by_how_much(
    probe: Path, home: Path, change_golden: Change
) -> None:
    change_golden(probe, lambda name, value: value + 0.25 if name.startswith("output/") else value)
    found = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert not found.passed
    assert found.reason == "output differs from the golden output by 0.25; the tolerance is 0.001"
    assert kept(home) == []


def test_a_golden_output_that_is_not_a_number_does_not_pass(probe: Path, change_golden: Change) -> None:
    artifact = change_golden(probe, lambda name, value: value * np.nan if name.startswith("output/") else value)
    with pytest.raises(ProviderError, match="differs from the golden output by nan"):
        prove(artifact, artifact.manifest.variant(PROBE_VARIANT), CPU)


def test_a_golden_file_that_does_not_fit_says_why(probe: Path, change_golden: Change) -> None:
    artifact = change_golden(probe, lambda name, value: value[:1] if name.startswith("output/") else value)
    with pytest.raises(ProviderError, match=r"output 'scores' has shape \(2, 4\); the golden one has \(1, 4\)"):
        prove(artifact, artifact.manifest.variant(PROBE_VARIANT), CPU)
    artifact = change_golden(probe, lambda name, value: None if name.startswith("output/") else value)
    with pytest.raises(ProviderError, match="the golden file holds no output 'scores' for this variant"):
        prove(artifact, artifact.manifest.variant(PROBE_VARIANT), CPU)
    artifact = change_golden(probe, lambda name, value: None)  # noqa: ARG005 - nothing is left
    with pytest.raises(ArtifactError, match=r"golden\.npz is not a golden file: .*input"):
        prove(artifact, artifact.manifest.variant(PROBE_VARIANT), CPU)


def test_the_tolerance_is_the_variants(probe: Path, change_golden: Change, change_manifest: Change) -> None:
    artifact = change_golden(probe, lambda name, value: value + 0.25 if name.startswith("output/") else value)
    variant = artifact.manifest.variants[0].model_dump(mode="json")
    loose = change_manifest(probe, variants=[variant | {"tolerance": 0.3}])
    assert prove(loose, loose.manifest.variants[0], CPU).max_abs == pytest.approx(0.25)


@pytest.mark.parametrize("file", ["model.fp32.onnx", "golden.npz"])
def test_a_corrupted_file_does_not_pass_even_if_it_once_did(probe: Path, file: str) -> None:
    assert prove_isolated(probe, PROBE_VARIANT, CPU).passed
    data = bytearray((probe / file).read_bytes())
    data[100] ^= 1
    (probe / file).write_bytes(data)
    found = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert not found.passed
    assert f"{file} has SHA-256" in found.reason


def test_a_provider_that_is_not_there_does_not_pass(probe: Path, home: Path) -> None:
    found = prove_isolated(probe, PROBE_VARIANT, "CUDAExecutionProvider")
    assert not found.passed
    assert found.reason.startswith("CUDAExecutionProvider is not in the installed ONNX Runtime")
    assert kept(home) == []


def test_a_crash_of_the_child_is_a_reason(probe: Path, home: Path, child_runs: Callable[[str], None]) -> None:
    child_runs("import os, sys; sys.stderr.write('driver: boom\\n'); sys.stderr.flush(); os.kill(os.getpid(), 11)")
    found = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert not found.passed
    assert found.reason == "the child process was killed by SIGSEGV: driver: boom"
    assert kept(home) == []


def test_an_exit_without_an_answer_is_a_reason(probe: Path, child_runs: Callable[[str], None]) -> None:
    child_runs("import os; os._exit(3)")
    assert prove_isolated(probe, PROBE_VARIANT, CPU).reason == "the child process ended with code 3: no output"


def test_silence_is_a_reason_even_if_a_grandchild_keeps_the_pipes_open(
    probe: Path, tmp_path: Path, child_runs: Callable[[str], None]
) -> None:
    child_runs(
        "import os, subprocess, time\n"
        f"sleeper = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(sleeper.pid))\n"
        "time.sleep(60)\n"
    )
    start = time.monotonic()
    try:
        found = prove_isolated(probe, PROBE_VARIANT, CPU, timeout=2)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert not found.passed
    assert found.reason == "no answer within 2 s"
    assert time.monotonic() - start < 10


def test_a_driver_that_prints_does_not_spoil_the_proof(probe: Path, child_runs: Callable[[str], None]) -> None:
    child_runs("print('[driver] warming up')")
    assert prove_isolated(probe, PROBE_VARIANT, CPU).passed


def test_a_folder_called_runtime_is_not_ours(probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert prove_isolated(Path("probe"), PROBE_VARIANT, CPU).passed  # and a relative path will do


def test_what_is_not_there_is_an_error_not_a_proof(probe: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no artifact in"):
        prove_isolated(tmp_path / "absent", PROBE_VARIANT, CPU)
    with pytest.raises(ModelNotFoundError, match="probe@1 has no variant 'int8'"):
        prove_isolated(probe, "int8", CPU)


def test_a_cache_that_cannot_be_written_or_read_costs_only_time(probe: Path, home: Path) -> None:
    (home / "cache").mkdir()
    (home / "cache" / "proofs").write_text("in the way")
    assert prove_isolated(probe, PROBE_VARIANT, CPU).passed


def test_a_spoiled_cache_entry_is_made_again(probe: Path, home: Path) -> None:
    prove_isolated(probe, PROBE_VARIANT, CPU)
    (entry,) = kept(home)
    entry.write_text("{")
    assert prove_isolated(probe, PROBE_VARIANT, CPU).passed
    assert Proof.model_validate_json(entry.read_bytes()).passed


def test_the_key_of_a_kept_proof_changes_with_all_that_could_change_it(
    probe: Path, change_golden: Change, change_manifest: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(provider: str = CPU, variant: str = PROBE_VARIANT) -> str:
        return proof_module._cache_file(Artifact.open(probe), variant, provider).name

    seen = [key(), key("CUDAExecutionProvider")]
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    change_manifest(probe, variants=[variant | {"tolerance": 0.5}])
    seen.append(key())
    change_manifest(probe, variants=[variant | {"sha256": "0" * 64, "chunks": []}])
    seen.append(key())
    change_manifest(probe, variants=[variant | {"id": "other"}])
    seen.append(key(variant="other"))
    change_golden(probe, lambda name, value: value + 1 if name.startswith("output/") else value)
    seen.append(key(variant="other"))
    monkeypatch.setattr(proof_module, "ort_version", lambda: "onnxruntime 99")
    seen.append(key(variant="other"))
    assert len(set(seen)) == len(seen)


def test_the_key_does_not_change_with_what_cannot(probe: Path, change_manifest: Change) -> None:
    before = proof_module._cache_file(Artifact.open(probe), PROBE_VARIANT, CPU)
    change_manifest(probe, version=7, labels=["e", "f", "g", "h"])
    assert proof_module._cache_file(Artifact.open(probe), PROBE_VARIANT, CPU) == before
