"""The frame of the command line: one line an error, the right exit code, and verbs that may be missing."""

from __future__ import annotations

import errno
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from runtime import __version__, cli
from runtime.cli import EXTRA_OF_PACKAGE, run_command, vedette
from runtime.errors import DatasetError, ImageError, UsageError

Failing = Callable[[BaseException], click.Command]


@pytest.fixture
def failing() -> Failing:
    """Make a command that raises."""

    def make(error: BaseException) -> click.Command:
        @click.command()
        def fail() -> None:
            raise error

        return fail

    return make


def run(capsys: pytest.CaptureFixture[str], command: click.Command, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_command(command, "vedette", arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DatasetError("x.parquet has no column 'a'"), 1, "x.parquet has no column 'a'"),
        (UsageError("two options exclude each other"), 2, "two options exclude each other"),
        (ImageError("truncated", "a.jpg: it\nends"), 1, "truncated: a.jpg: it ends"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/out"),
            1,
            "no space left on device: /data/out; free some and run the same command again",
        ),
        (
            OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]"),
            1,
            "no space left on device; free some and run the same command again",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, "Permission denied: /root/x"),
        (OSError("odd"), 1, "odd"),
        (ZeroDivisionError("oh"), 1, "ZeroDivisionError: oh (this is a bug; --debug shows where)"),
        (click.UsageError("wrong"), 2, "wrong See 'vedette --help'."),
        (click.ClickException("no"), 1, "no"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], failing: Failing, error: Exception, code: int, line: str
) -> None:
    assert run(capsys, failing(error)) == (code, "", f"vedette: error: {line}\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str], failing: Failing, error: BaseException) -> None:
    code, out, err = run(capsys, failing(error))
    assert (code, out, err.strip()) == (130, "", "vedette: interrupted")


def test_debug_shows_the_traceback(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="gone"):
        run_command(failing(DatasetError("gone")), "vedette", ["--debug"])
    monkeypatch.setenv("VEDETTE_DEBUG", "1")
    with pytest.raises(DatasetError, match="gone"):
        run_command(failing(DatasetError("gone")), "vedette", [])


def test_debug_may_be_switched_off_by_the_environment(
    capsys: pytest.CaptureFixture[str], failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEDETTE_DEBUG", "0")
    assert run(capsys, failing(DatasetError("gone")))[2] == "vedette: error: gone\n"


def test_success_is_0_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, click.Command("ok", callback=lambda: None)) == (0, "", "")


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, vedette, "--help")
    assert (code, err) == (0, "")
    listed = re.findall(r"^  (\w+) ", out.partition("Commands:")[2], re.MULTILINE)
    assert listed == sorted(point.name for point in importlib.metadata.entry_points(group=cli.GROUP))
    assert {"data", "doctor", "predict"} <= set(listed)
    assert "--debug" in out


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in vedette.list_commands(click.Context(vedette)):
        code, out, err = run(capsys, vedette, name, "--help")
        assert (code, err) == (0, ""), name
        assert out.startswith(f"Usage: vedette {name}"), name


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, vedette, "--version") == (0, f"vedette {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["fly"], "No such command 'fly'. See 'vedette --help'."),
        (["--loud"], "No such option '--loud'. See 'vedette --help'."),
        (["predict", "x.jpg"], "Missing option '--model'. See 'vedette predict --help'."),
        (["data", "convert", "digits"], "Missing argument 'OUT'. See 'vedette data convert --help'."),
    ],
)
def test_a_wrong_call_is_one_line_that_says_where_help_is(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    code, out, err = run(capsys, vedette, *arguments)
    assert (code, out) == (2, "")
    assert err == f"vedette: error: {line}\n"


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_a_verb_of_verbs_alone_shows_its_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, vedette, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: vedette ")
    assert "Commands:\n" in err


class Point:
    """An entry point whose package lacks a library."""

    def __init__(self, name: str, module: str, missing: str) -> None:
        self.name, self.module, self._missing = name, module, missing

    def load(self) -> Any:
        raise ModuleNotFoundError(f"No module named {self._missing!r}", name=self._missing)


@pytest.fixture
def crippled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the controller's libraries."""
    points = [*importlib.metadata.entry_points(group=cli.GROUP)]
    kept = [point for point in points if point.module.startswith("runtime")]
    lost = [Point(p.name, p.module, "sqlalchemy") for p in points if p.module.startswith("controller")]
    monkeypatch.setattr(cli, "entry_points", lambda group: [*kept, *lost] if group == cli.GROUP else [])


@pytest.mark.usefixtures("crippled")
def test_a_missing_extra_breaks_only_its_own_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, vedette, "--help")
    assert code == 0
    assert re.search(r"^  rollout +\(not installed: pip install", out, re.MULTILINE)
    assert re.search(r"^  predict +Say what is on each IMAGE", out, re.MULTILINE)


@pytest.mark.usefixtures("crippled")
@pytest.mark.parametrize("arguments", [[], ["list"], ["create", "m", "--target", "x=1"], ["--help"]])
def test_a_verb_that_is_not_installed_says_what_to_install(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(capsys, vedette, "rollout", *arguments) == (
        1,
        "",
        "vedette: error: Python module 'sqlalchemy' is not installed: pip install 'vedette[controller,train,cpu]'\n",
    )


@pytest.mark.parametrize(
    ("missing", "extras"),
    [("onnxruntime", "cpu"), ("pyarrow", "cluster,cpu"), ("obstore.store", "cluster,cpu"), ("sklearn", "train,cpu")],
)
def test_a_module_that_is_missing_later_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], failing: Failing, missing: str, extras: str
) -> None:
    error = ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    assert run(capsys, failing(error)) == (
        1,
        "",
        f"vedette: error: Python module {missing!r} is not installed: pip install 'vedette[{extras}]'\n",
    )


def test_every_extra_that_is_recommended_exists() -> None:
    known = set(importlib.metadata.metadata("vedette").get_all("Provides-Extra"))
    for extras in [*EXTRA_OF_PACKAGE.values(), *cli.EXTRA_OF_MODULE.values(), cli.EXTRA_OF_RUNTIME]:
        assert set(extras.split(",")) <= known, extras
    requirements = importlib.metadata.requires("vedette") or []
    for module, extras in cli.EXTRA_OF_MODULE.items():
        name = {"sklearn": "scikit-learn"}.get(module, module)
        found = {
            extra
            for line in requirements
            for extra in re.findall(r'extra == [\'"](\w+)', line)
            if re.split(r"[^\w-]", line)[0] == name
        }
        assert found & set(extras.split(",")), (module, found)


def test_the_command_itself_has_the_same_rules(home: Path) -> None:
    def vedette_process(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("vedette")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    wrong = vedette_process("predict", "--model", "Nonsense!", "x.jpg")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("vedette: error: 'Nonsense!' names no model")
    assert wrong.stderr.count("\n") == 1
    failed = vedette_process("predict", "--model", "absent", "x.jpg")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "no model 'absent' in" in failed.stderr
    debug = vedette_process("predict", "--debug", "--model", "absent", "x.jpg")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "ModelNotFoundError" in debug.stderr


def test_a_reader_that_went_away_is_no_error_to_talk_about() -> None:
    code = (
        "import click\nfrom runtime.cli import run_command\n"
        "@click.command()\ndef talk():\n    for _ in range(100_000): click.echo('a line of some length')\n"
        "run_command(talk, 'vedette', [])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == b""


def test_logs_are_json_lines_where_there_is_no_terminal() -> None:
    code = "from runtime.logs import configure_logging, get_logger\nconfigure_logging()\n"
    code += "get_logger('cam').info('started', device='cam-1')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert re.fullmatch(
        r'\{"device": "cam-1", "event": "started", "level": "info", "timestamp": "[^"]+Z"\}\n', done.stderr
    )
