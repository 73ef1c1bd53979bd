"""A source in a child process: what crosses, and what becomes of a child that dies, hangs or is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import venv
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from controller.errors import ExportError
from controller.lifecycle.importers import load_source
from controller.lifecycle.importers.child import OPERATIONS, PYTHON_VARIABLE, Child, Operation
from controller.lifecycle.importers.source import Job
from runtime.errors import UsageError

Start = Callable[..., Child]
HURRIED: Mapping[str, Operation] = {**OPERATIONS, "run": Operation("run", 1.0)}
BATCH = np.array([[1, -2]], np.float32)
WAIT = 30.0  # seconds for a process to be gone


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def sleeps() -> list[int]:
    """Processes of `sleep 600` whose directory is this one's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes() == b"sleep\x00600\x00" and (process / "cwd").readlink() == Path.cwd():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_facts_graphs_and_arrays_cross_and_what_is_printed_does_not(start: Start, doubler: str) -> None:
    child = start("reader")
    facts = child.open(doubler, Job(source="reader", weights=Path("w.pth"), image_size=(4, 6), color="L"))
    assert facts.framework == f"numpy {np.__version__}"
    assert facts.routes == ("first", "second")
    assert facts.labels == ("a", "b")
    assert facts.metadata == {"weights": "w.pth"}
    assert facts.warnings == ("(4, 6) L",)
    assert [child.convert(route).graph.node[0].op_type for route in facts.routes] == ["Relu", "Abs"]
    doubled, counted = child.run(BATCH)
    assert doubled.dtype == np.float32
    assert doubled.tolist() == [[2, -4]]
    assert counted.tolist() == [0, 1, 2]
    values = child.values(BATCH)
    assert {name: value.tolist() for name, value in values.items()} == {
        "/a:0": [[2, -1]],
        "file": [[1, -2]],
        "0": [[True, False]],
    }


def test_what_a_source_raises_is_told_and_the_child_goes_on(start: Start, doubler: str) -> None:
    child = start("bug")
    with pytest.raises(ExportError, match="no source is open"):
        child.run(BATCH)
    child.open(doubler, Job(source="bug"))
    with pytest.raises(ExportError, match=r"^bug cannot be run: KeyError: 'nothing\\nhere'$"):
        child.run(BATCH)
    child.open(doubler, Job(source="texts"))
    with pytest.raises(ExportError, match=r"other things than numbers: outputs 0 \(<U3\)"):
        child.run(BATCH)
    child.open(doubler, Job(source="well"))
    assert child.run(BATCH)[0].tolist() == [[2, -4]]


def test_child_that_dies_is_told_with_its_last_words(start: Start, doubler: str) -> None:
    child = start("dier")
    child.open(doubler, Job(source="dier"))
    with pytest.raises(
        ExportError, match=r"^dier cannot be run: \S+ ended with exit code 7; the last it said: .*words$"
    ):
        child.run(BATCH)
    with pytest.raises(ExportError, match="the process that held it has ended"):
        child.run(BATCH)


def test_child_that_is_killed_is_told(start: Start, doubler: str) -> None:
    child = start("well")
    child.open(doubler, Job(source="well"))
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(ExportError, match="ended by SIGKILL"):
        child.run(BATCH)


def test_child_that_hangs_is_ended_with_all_that_it_started(start: Start, doubler: str) -> None:
    child = start("sleeper", operations=HURRIED)
    child.open(doubler, Job(source="sleeper"))
    with pytest.raises(ExportError, match="sleeper was not run within 1 s; the process was ended"):
        child.run(BATCH)
    assert Path("grandchild").exists()
    wait_until(lambda: not sleeps())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_child_ends_when_its_parent_does(
    doubler: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    parent = textwrap.dedent(f"""
        import numpy as np
        from controller.lifecycle.importers import Importer
        from controller.lifecycle.importers.hosted import load_hosted
        from controller.lifecycle.importers.source import Job
        row = Importer(what="a doubler", recognizes=bool, module={doubler!r})
        with load_hosted(row, Job(source="sleeper")) as model:
            model.reference(np.ones((1, 2), np.float32))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            wait_until(lambda: Path("grandchild").exists() and bool(sleeps()))
            assert list(tmp_path.glob("vedette-importer-*"))
            process.send_signal(number)
            _, said = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in said) == (number is signal.SIGINT)
    wait_until(lambda: not sleeps() and not list(tmp_path.glob("vedette-importer-*")))


def test_absent_framework_names_the_extra_and_the_other_way(start: Start, doubler: str) -> None:
    with pytest.raises(UsageError) as told:
        start("absent").open(doubler, Job(source="absent"))
    assert "has no module 'framework_of_nowhere'; pip install 'vedette[keras]', or name an interpreter" in str(
        told.value
    )
    assert f"--importer-python (or {PYTHON_VARIABLE})" in str(told.value)
    with pytest.raises(UsageError, match="'framework_of_nowhere'; name an interpreter"):
        start("absent", None).open(doubler, Job(source="absent"))


@pytest.mark.parametrize(
    ("package", "extra"),
    [("flax", "jax"), ("jax", "jax"), ("keras", "keras"), ("sklearn", "sklearn"), ("torch", "train")],
)
def test_factory_of_an_absent_framework_names_the_extra_that_brings_it(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = f"raise ModuleNotFoundError(\"No module named '{package}'\", name={package!r})"
    (tmp_path / f"{package}.py").write_text(absent)
    (tmp_path / "own_of_absent.py").write_text(f"import {package}.nn\ndef make(): return {package}.nn.Model()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"has no module '{package}'; pip install 'vedette\[{extra}\]', or name an"):
        load_source("own_of_absent:make")


def test_interpreter_that_is_none_is_refused(doubler: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--importer-python \S+nowhere: No such file"):
        Child("well", None, tmp_path / "nowhere")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of another environment, which has NumPy and onnx, and nothing of what else we need."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, symlinks=True)
    packages = next(root.glob("lib/python*/site-packages"))
    for name in ("google", "ml_dtypes", "numpy", "numpy.libs", "onnx", "typing_extensions.py"):
        spec = find_spec("onnx")
        assert spec is not None
        assert spec.origin is not None
        (packages / name).symlink_to(Path(spec.origin).parents[1] / name)
    return root / "bin" / "python"


def test_other_interpreter_needs_numpy_and_onnx_alone(
    start: Start, doubler: str, bare_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = ("pydantic", "onnxruntime", "torch")
    program = f"from importlib.util import find_spec; assert not any(map(find_spec, {modules}))"
    subprocess.run([bare_python, "-c", program], check=True)
    child = start("well", "keras", bare_python)
    assert child.open(doubler, Job(source="well")).routes == ("first", "second")
    assert child.run(BATCH)[0].tolist() == [[2, -4]]
    monkeypatch.setenv(PYTHON_VARIABLE, str(bare_python))
    assert start("well")._python == str(bare_python)
    assert start("well", "train", ours=True)._python == sys.executable
