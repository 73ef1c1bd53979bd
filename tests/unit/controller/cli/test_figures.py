"""The table of a model's variants."""

from __future__ import annotations

from typing import Any

import pytest

from controller.cli.figures import figures, proof_of
from runtime.manifest import Manifest, RejectedVariant
from runtime.probe import probe_root

PROBE = Manifest.parse((probe_root() / "manifest.json").read_bytes())
FP32 = PROBE.variants[0]
PROMISED = FP32.model_copy(
    update={
        "id": "int8-s8s8",
        "device_class": "TensorRT",
        "unproven": True,
        "metrics": {"map50_95": 0.4, "agreement_fp32": 0.9},
    }
)
REJECTED = RejectedVariant(id="fp16", precision="fp16", device_class="GPU", reason="it cannot be built: so it said")


def manifest(*variants: Any, rejected: tuple[RejectedVariant, ...] = ()) -> Manifest:
    measured = FP32.model_copy(update={"metrics": {"map50_95": 0.41, "latency_ms": 3.0}})
    return PROBE.model_copy(update={"variants": (measured, *variants), "rejected": rejected})


def proof(**fields: Any) -> dict[str, Any]:
    proven = {"variant": "int8-s8s8", "device": "jetson-12", "provider": "TensorrtExecutionProvider", "passed": True}
    return {**proven, "reason": "it matched", "speedup": 2.31, **fields}


def cells(text: str, variant: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(variant))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_table_says_for_whom_how_good_how_fast_and_what_became_of_it() -> None:
    text = figures(manifest(PROMISED, rejected=(REJECTED,)))
    assert "mAP 50-95" in text.splitlines()[0]
    assert cells(text, "fp32")[1:] == ["any", f"{FP32.size / 1e6:.2f} MB", "0.4100", "-", "3.000", "-", "published"]
    assert cells(text, "int8-s8s8")[3:] == ["0.4000", "90.00%", "-", "-", "unproven"]
    assert cells(text, "fp16")[1:] == ["GPU", *["-"] * 5, "rejected: it cannot be built: so it said"]


def test_unproven_variant_says_which_devices_proved_it() -> None:
    told = figures(manifest(PROMISED), [proof(), proof(device="jetson-13", speedup=None), proof(variant="other")])
    assert cells(told, "int8-s8s8")[-1] == (
        "unproven; proven on jetson-12 (tensorrt) 2.3x; proven on jetson-13 (tensorrt)"
    )
    many = figures(manifest(PROMISED), [proof(device=f"j{number}") for number in range(5)])
    assert cells(many, "int8-s8s8")[-1].endswith("; proven on j2 (tensorrt) 2.3x; and 2 more")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"provider": "OpenVINOExecutionProvider:GPU"}, "proven on jetson-12 (openvino:gpu) 2.3x"),
        ({"passed": False, "reason": "it differs"}, "refused on jetson-12 (tensorrt): it differs"),
    ],
)
def test_proof_is_one_phrase(fields: dict[str, Any], said: str) -> None:
    assert proof_of(proof(**fields)) == said
