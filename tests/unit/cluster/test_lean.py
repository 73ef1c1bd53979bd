"""What a job loads, seen in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from color_model import write_artifact, write_rows

HEAVY = {"pandas", "rich", "ray", "torch", "sklearn", "matplotlib"}


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True, text=True)


def test_arrow_makes_arrays_without_pandas_and_tables_for_it():
    pytest.importorskip("pandas")
    said = python(
        "import sys\n"
        "from cluster.lean import without_pandas\n"
        "without_pandas()\n"
        "import pyarrow as pa\n"
        "table = pa.table({'one': ['a', 'b']})\n"
        "print('pandas' in sys.modules, len(table.to_pandas()), 'pandas' in sys.modules)"
    )
    assert said.stdout.split() == ["False", "2", "True"]


def test_a_local_job_loads_nothing_that_it_does_not_need(tmp_path: Path):
    model = write_artifact(tmp_path / "model").root
    rows = write_rows(tmp_path / "in.parquet", 10)
    call = ["batch", "run", "--local", "--model", str(model), "--input", str(rows), "--output", str(tmp_path / "out")]
    loaded = python(
        "import sys\n"
        "from runtime.cli import run_command, vedette\n"
        "try:\n"
        f"    run_command(vedette, 'vedette', {call!r})\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    ).stderr.split()
    assert "onnxruntime" in loaded
    assert HEAVY.isdisjoint(loaded)
