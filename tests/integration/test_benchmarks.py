"""The benchmarks of batch jobs still run: in small, for what they print and keep, not for their figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str, home: Path) -> str:
    """Return what *script* prints, called with *arguments*."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"VEDETTE_HOME": str(home)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scale_tells_of_every_tenth_of_a_job(test_data, tmp_path: Path) -> None:
    test_data("images/cifar10_test.parquet")
    out = tmp_path / "scale.json"
    printed = run("scale.py", "--rows", "3000", "--local", "--out", str(out), home=tmp_path / "home")
    found = json.loads(out.read_bytes())["local"]
    assert (found["rows"], len(found["tenths"])) == (3000, 10)
    assert str(found["driver_rss_mb"]) in printed


def test_batch_compares_engines_that_agree_with_what_the_cores_could_do(test_data, tmp_path: Path) -> None:
    test_data("images/imagenet300")
    out = tmp_path / "batch.json"
    engines = ("vedette-local", "plain")
    few = ("--models", "mobilenet_v2", "--rows", "100", "--repeats", "1", "--engines", ",".join(engines))
    printed = run("batch.py", *few, "--results", str(out), home=tmp_path / "home")
    found = json.loads(out.read_bytes())["mobilenet_v2"]
    assert found["ceilings"]["roofline"] > 0
    assert all(engine in printed for engine in engines)
