"""Every command in the README and the guides runs, in order, as its reader would type it.

`tests/support/console_blocks.py` says how a document marks what is special.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from console_blocks import read_commands

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
IN_A_CLONE = ("benchmarks", "docs", "infra")  # what a reader in the clone's root finds there
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *(path for name in IN_A_CLONE for path in sorted((ROOT / name).rglob("*.md")))]
WITH_COMMANDS = [path for path in DOCUMENTS if "```console" in path.read_text(encoding="utf-8")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in LINK.findall(document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def test_every_decision_record_is_listed() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted((ROOT / "docs/adr").glob("[0-9]*.md")) if f"({path.name})" not in index] == []


def test_every_document_keeps_the_rules_for_commands() -> None:
    assert {document: read_commands(document, ROOT) for document in DOCUMENTS}[README]


@pytest.mark.integration
@pytest.mark.timeout(900)
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
