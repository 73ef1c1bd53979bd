"""What users install: one wheel, four packages, and an edge install without anything heavy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "controller", "edge_agent", "runtime")
SOURCES = (*PACKAGES, "pyproject.toml", "README.md", "LICENSE")  # all that a wheel is made of
HEAVY = ("torch", "ray", "fastapi", "sqlalchemy")
LIMIT = 2_000_000  # bytes; code and a probe model of a few kilobytes

INSTALLED = """
import importlib.metadata, json
print(json.dumps(sorted({d.name.lower() for d in importlib.metadata.distributions()})))
"""
LOADED_BY_DOCTOR = """
import importlib, json, sys
module, _, name = sys.argv[1].partition(":")
getattr(importlib.import_module(module), name).main(["doctor", "--json"], standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def need_registry(directory: Path) -> None:
    """Skip, saying so, where pip reaches no package registry: nothing can be built or installed there."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, "setuptools>=77"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        pytest.skip(f"pip reaches no package registry here: {asked.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_registry(tmp_path_factory.mktemp("registry"))
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:  # a copy: what an earlier build left in the tree must not get into this one
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source, cwd=out)
    (built,) = out.glob("vedette-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def edge(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An otherwise empty virtual environment with ``vedette[edge,cpu]``: its directory of programs."""
    place = tmp_path_factory.mktemp("edge")
    run(sys.executable, "-m", "venv", place, cwd=place)
    run(
        *(place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--constraint", ROOT / "constraints.txt", f"vedette[edge,cpu] @ {wheel.as_uri()}"),
        cwd=place,
    )
    return place / "bin"


def files_below(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root).as_posix()


def test_the_wheel_holds_exactly_the_four_packages_and_all_their_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == set(PACKAGES)
    assert sorted(names) == sorted(files_below(ROOT))
    assert wheel.stat().st_size < LIMIT


def test_an_edge_install_has_nothing_heavy(edge: Path, tmp_path: Path) -> None:
    installed = json.loads(run(edge / "python", "-c", INSTALLED, cwd=tmp_path).stdout)
    assert {"vedette", "onnxruntime", "aiomqtt"} <= set(installed)
    assert not set(HEAVY) & set(installed)


@pytest.mark.parametrize("program", ["vedette", "vedette-agent"])
def test_the_doctor_proves_the_cpu_on_an_edge_install(edge: Path, tmp_path: Path, program: str) -> None:
    report = json.loads(run(edge / program, "doctor", "--json", cwd=tmp_path).stdout)
    proven = {entry["provider"] for entry in report["providers"] if entry["passed"]}
    assert "CPUExecutionProvider" in proven


@pytest.mark.parametrize("command", ["runtime.cli:vedette", "edge_agent.cli:agent"])
def test_the_doctor_loads_nothing_heavy(edge: Path, tmp_path: Path, command: str) -> None:
    done = run(edge / "python", "-c", LOADED_BY_DOCTOR, command, cwd=tmp_path)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "runtime" in loaded
    assert not set(HEAVY) & loaded


def test_a_verb_of_another_extra_says_what_to_install(edge: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [edge / "vedette", "batch", "run", "--model", "any", "--input", "in", "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'vedette[cluster,cpu]'" in done.stderr
