"""Every command in the README and the guides runs, in order, as its reader would type it.

`tests/support/console_blocks.py` says how a document marks what is special.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from console_blocks import read_commands

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md"))]
WITH_COMMANDS = [path for path in DOCUMENTS if "```console" in path.read_text(encoding="utf-8")]
IN_A_CLONE = ("benchmarks", "docs", "infra")  # what a reader in the clone's root finds there


def test_every_document_keeps_the_rules_for_commands() -> None:
    assert {document: read_commands(document, ROOT) for document in DOCUMENTS}[README]


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_does_what_the_document_says(document: Path, home: Path, tmp_path: Path) -> None:
    for name in IN_A_CLONE:
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/console_run.py", document, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
