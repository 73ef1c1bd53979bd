"""The harness that runs documented commands reads them right, and fails when one of them does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from console_blocks import Command, DocumentError, read_commands

RUNNER = Path(__file__).parents[2] / "support" / "console_run.py"

SAMPLE = """\
# A sample

Text, `inline code`, and a block of another kind:

```json
{"$ not": "a command"}
```

```console
$ mkdir runs && cd runs
$ export GREETING='good morning'
$ printf '%s\\n' \\
    "$GREETING" > greeting.txt
$ cat > list.txt <<'END'
> one
> two
> END
$ cat list.txt
shown output is not run: $ false
```

<!-- test: expect exit 3 -->
```console
$ test "$(cat greeting.txt)" = 'good morning'
$ exit 3
```

1. A block in a list

   <!-- test: background until "up" -->
   ```console
   $ echo ready > flag
   $ test -e flag && echo up && exec sleep 600
   ```

<!-- test: skip because it needs a fleet -->

```console
$ touch /never
```

```console
$ test "$(basename "$PWD")" = runs
```
"""


def document(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sample.md"
    path.write_text(text)
    return path


def run(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    directory = tmp_path / "reader"
    directory.mkdir()
    return subprocess.run(
        [sys.executable, RUNNER, document(tmp_path, text), directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def console(*lines: str, comment: str | None = None) -> str:
    above = f"<!-- test: {comment} -->\n" if comment else ""
    return above + "\n".join(["```console", *lines, "```", ""])


def test_commands_are_read_with_their_lines_and_comments(tmp_path: Path) -> None:
    commands = read_commands(document(tmp_path, SAMPLE), tmp_path)
    assert commands[0] == Command(line=10, text="mkdir runs && cd runs")
    assert commands[2].text == "printf '%s\\n' \\\n    \"$GREETING\" > greeting.txt"
    assert commands[3].text == "cat > list.txt <<'END'\none\ntwo\nEND"
    assert commands[6] == Command(line=25, text="exit 3", expect=3)
    assert [command.text for command in commands if command.background] == ["test -e flag && echo up && exec sleep 600"]
    assert commands[8].until == "up"
    assert not any("never" in command.text for command in commands)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```bash\nvedette init\n```\n", ":1: a bash block"),
        (console("vedette init"), ":2: expected a command behind '\\$ '"),
        ("```console\n```\n", "without a command"),
        ("```console\n$ true\n", "never closed"),
        (console("$ true", comment="skip"), "'skip' is not understood"),
        (console("$ true", comment="skip because"), "is not understood"),
        (console("$ true", comment="skip because tests/unit/test_gone.py runs it"), "does not exist"),
        ("<!-- test: background -->\ntext\n\n" + console("$ true"), ":2: expected a console block below"),
        ("<!-- test: background -->\n```json\n```\n", "expected a console block below"),
        ("text\n<!-- test: background -->\n", "no console block below"),
    ],
)
def test_a_broken_rule_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        read_commands(document(tmp_path, text), tmp_path)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_good_document_runs_in_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated: bool) -> None:
    if not isolated:
        (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "unshare").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = run(tmp_path, SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$ cat list.txt\none\ntwo\n" in done.stdout
    assert (tmp_path / "reader/runs/greeting.txt").read_text() == "good morning\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (console("$ echo before", "$ (exit 4)", "$ echo after"), "line 3: exit code 4, expected 0: (exit 4)"),
        (console("$ vedette-no-such-command"), "exit code 127"),
        (console("$ (exit 4) | cat"), "exit code 4"),
        (console("$ if"), "expected 0: if"),
        (console("$ true", comment="expect exit 1"), "exit code 0, expected 1"),
        (console("$ exit 5", comment="background"), "ended at once, exit code 5"),
        (console("$ sleep 1.5; exit 6", comment="background") + console("$ sleep 2"), "ended by itself, exit code 6"),
        (console("$ true", comment='background until "up"'), "ended at once, exit code 0"),
    ],
)
def test_a_document_fails_with_its_first_bad_command(tmp_path: Path, text: str, complaint: str) -> None:
    done = run(tmp_path, text)
    assert done.returncode == 1
    assert complaint in done.stdout
    assert "after\n" not in done.stdout


def test_a_server_is_there_for_what_follows_and_gone_at_the_end(tmp_path: Path) -> None:
    serve = console("$ echo $$ > pid && echo serving && exec sleep 600.0625", comment="background")
    done = run(tmp_path, serve + console('$ kill -0 "$(cat pid)"'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600.0625]\nserving\n" in done.stdout
    assert not [one.pid for one in psutil.process_iter(["cmdline"]) if "600.0625" in (one.info["cmdline"] or [])]


def test_documents_have_ports_of_their_own_where_the_system_allows_it(tmp_path: Path) -> None:
    allowed = subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("no network namespaces here: documents run directly")
    text = console('$ python3 -c "import socket; print([name for _, name in socket.if_nameindex()])"')
    done = run(tmp_path, text)
    assert "['lo']" in done.stdout, done.stdout + done.stderr
