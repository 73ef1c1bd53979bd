"""Proof instead of a claim: what passes, what does not and why, and what is remembered."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import proof as proof_module
from runtime.artifact import Artifact
from runtime.errors import ArtifactError, ModelNotFoundError, ProviderError
from runtime.hardware import this_machine
from runtime.probe import PROBE_VARIANT
from runtime.proof import MOST_ENGINES, Proof, engine_folder, ort_version, proof_key, prove_isolated
from runtime.providers import find
from runtime.proving import prove
from runtime.session import Session, SessionOptions

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
    assert 0 < found.latency_ms <= found.latency_p90_ms < 1000
    assert found.build_ms > 0
    assert found.throughput > 0
    assert found.throughput_batch == 2  # as many as the golden input has
    assert found.shares == {CPU: 1.0}
    assert found.origin == f"built into {ort_version()}"
    assert found.max_relative <= 1e-3
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
    # the golden scores reach 48.6: 0.25 of that is 0.5 %
    assert re.fullmatch(
        r"output 'scores' differs from the golden output by 0\.0051\d of its range; the tolerance is 0\.001",
        found.reason,
    )
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
    loose = change_manifest(probe, variants=[variant | {"tolerance": 0.006}])
    found = prove(loose, loose.manifest.variants[0], CPU)
    assert found.max_abs == pytest.approx(0.25, abs=1e-4)
    assert 0.005 < found.max_relative < 0.006


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
    assert found.reason.startswith("CUDAExecutionProvider is not installed: onnxruntime")
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in found.reason
    assert not found.installed
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


def test_the_key_of_a_proof_changes_with_all_that_could_change_it(
    probe: Path, change_golden: Change, change_manifest: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(provider: str = CPU, variant: str = PROBE_VARIANT, **options: Any) -> str:
        return proof_key(Artifact.open(probe), variant, find(provider), SessionOptions(**options))

    seen = [key(), key("CUDAExecutionProvider"), key(intra_op_threads=2), key(fixed_batch=4)]
    seen += [key("openvino:cpu"), key("openvino:gpu"), key("openvino:npu")]
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    change_manifest(probe, variants=[variant | {"tolerance": 0.5}])
    seen.append(key())
    change_manifest(probe, variants=[variant | {"sha256": "0" * 64, "chunks": []}])
    seen.append(key())
    change_manifest(probe, variants=[variant | {"id": "other"}])
    seen.append(key(variant="other"))
    change_golden(probe, lambda name, value: value + 1 if name.startswith("output/") else value)
    seen.append(key(variant="other"))
    change_manifest(probe, custom_ops=[{"path": "/ops.so", "sha256": "1" * 64}])
    seen.append(key(variant="other"))
    for name, value in {
        "flavours": lambda: ("onnxruntime 99",),
        "installed_plugins": lambda _: {"onnxruntime-ep-openvino": "99"},
    }.items():
        monkeypatch.setattr(proof_module, name, value)
        seen.append(key(variant="other"))
    for facts in (
        {"drivers": ("NVRM version: 999",)},
        {"cpu_flags": frozenset({"avx2"})},
        {"model": "Another CPU"},
        {"cpu_count": 999},
    ):
        changed = dataclasses.replace(this_machine(), **facts)
        monkeypatch.setattr(proof_module, "this_machine", lambda changed=changed: changed)
        seen.append(key(variant="other"))
    assert len(set(seen)) == len(seen)


def test_the_key_does_not_change_with_what_cannot(probe: Path, change_manifest: Change, tmp_path: Path) -> None:
    before = proof_key(Artifact.open(probe), PROBE_VARIANT, find(CPU), SessionOptions())
    change_manifest(probe, version=7, labels=["e", "f", "g", "h"])
    watched = SessionOptions(profiling=tmp_path / "profile")
    assert proof_key(Artifact.open(probe), PROBE_VARIANT, find(CPU), watched) == before


def test_engines_lie_under_the_key_of_the_proof(probe: Path, home: Path) -> None:
    artifact, provider = Artifact.open(probe), find("tensorrt")
    key = proof_key(artifact, PROBE_VARIANT, provider, SessionOptions())
    folder = engine_folder(artifact, PROBE_VARIANT, provider, SessionOptions())
    assert folder == home / "cache" / "engines" / key
    assert not folder.exists()  # whoever compiles something makes it


def test_what_compiles_nothing_has_no_folder(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.proof.flavours", lambda: pytest.fail("the machine was looked at for nothing"))
    assert engine_folder(Artifact.open(probe), PROBE_VARIANT, find(CPU), SessionOptions()) is None


def test_of_compiled_engines_only_those_that_were_used_last_are_kept(probe: Path, home: Path) -> None:
    key = proof_key(Artifact.open(probe), PROBE_VARIANT, find(CPU), SessionOptions())
    ours = home / "cache" / "engines" / key
    others = [ours.parent / f"{number:064x}" for number in range(MOST_ENGINES + 3)]
    for number, folder in enumerate([ours, *others]):
        folder.mkdir(parents=True)
        (folder / "engine").write_bytes(b"compiled")
        os.utime(folder, (number, number))  # ours is the oldest
    for _ in range(2):  # made, then found
        assert prove_isolated(probe, PROBE_VARIANT, CPU).passed
        assert set(ours.parent.iterdir()) == {ours, *others[-(MOST_ENGINES - 1) :]}


def test_a_proof_is_made_with_the_options_that_will_serve(probe: Path, home: Path) -> None:
    pinned = prove_isolated(probe, PROBE_VARIANT, CPU, options=SessionOptions(fixed_batch=5, intra_op_threads=1))
    assert pinned.passed, pinned.reason
    assert pinned.throughput_batch == 5
    assert len(kept(home)) == 1
    free = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert free.throughput_batch == 2
    assert len(kept(home)) == 2
    impossible = prove_isolated(probe, PROBE_VARIANT, CPU, options=SessionOptions(capture_graph=True))
    assert impossible.reason == "session option capture_graph: CPUExecutionProvider cannot capture a graph"


def test_what_onnx_runtime_logged_before_it_fell_back_is_the_reason(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = (
        "2026-11-22 19:53:16.33 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
        "/x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: "
        "No such file or directory"
    )
    said = Proof(variant=PROBE_VARIANT, provider="CUDAExecutionProvider", passed=False, reason="it fell back to CPU")
    done = subprocess.CompletedProcess([], 0, said.model_dump_json().encode(), logged.encode())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    found = prove_isolated(probe, PROBE_VARIANT, "cuda")
    assert found.reason.startswith("it fell back to CPU: library libcublasLt.so.13 is missing: pip install")


def test_a_provider_that_takes_no_node_is_refused(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO's AUTO does on a machine with a CPU alone: a session, the right output, and not one node."""
    monkeypatch.setattr(Session, "node_counts", lambda _: Counter({"Other": 7}))
    artifact = Artifact.open(probe)
    with pytest.raises(
        ProviderError, match=r"CPUExecutionProvider was built, but 0 of 7 nodes run on it \(Other 100%\)"
    ):
        prove(artifact, artifact.manifest.variant(PROBE_VARIANT), CPU)
