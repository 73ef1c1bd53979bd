"""The verbs of the runtime with real data: convert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runtime.cli import run_command, vedette
from runtime.datasets import open_dataset

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; return its exit code, and what it printed to stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_command(vedette, "vedette", list(map(str, arguments)))
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def test_convert_writes_parquet_and_says_what(run: Run, tmp_path: Path) -> None:
    code, out, err = run("data", "convert", "digits#test", tmp_path / "out", "--row-group-rows", 100, "--json")
    assert (code, err) == (0, "")
    target = tmp_path / "out" / "data.parquet"
    assert json.loads(out) == {
        "source": "digits#test",
        "out": str(target),
        "rows": 364,
        "bytes": target.stat().st_size,
        "columns": ["image", "label"],
    }
    assert pq.ParquetFile(target).num_row_groups == 4
    assert len(open_dataset(str(tmp_path / "out"))) == 364


def test_convert_takes_a_file_name_and_replaces_what_is_there(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "digits.parquet"
    target.write_text("old")
    code, out, _ = run("data", "convert", "digits#test", target)
    assert code == 0
    assert out == f"wrote 364 rows (image, label), {target.stat().st_size} bytes, to {target}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["digits.parquet"]


def test_convert_chooses_columns(run: Run, tmp_path: Path) -> None:
    run("data", "convert", "digits#test", tmp_path / "a.parquet")
    again = run("data", "convert", tmp_path / "a.parquet", tmp_path / "b.parquet", "--image-column", "image")
    assert again[0] == 0
    code, _, err = run("data", "convert", tmp_path / "a.parquet", tmp_path / "c.parquet", "--image-column", "pixels")
    assert code == 1
    assert "a.parquet has no column 'pixels'; its columns are: image (struct<bytes: large_binary" in err
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("source", ["nowhere", "digits#extra"])
def test_convert_of_nothing_leaves_nothing(run: Run, tmp_path: Path, source: str) -> None:
    code, out, err = run("data", "convert", source, tmp_path / "out")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_convert_of_corrupt_parquet_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense PAR1")
    code, _, err = run("data", "convert", tmp_path / "bad.parquet", tmp_path / "out.parquet")
    assert code == 1
    assert err.startswith(f"vedette: error: {tmp_path / 'bad.parquet'} is not a readable Parquet file: ")
    assert err.count("\n") == 1


def test_convert_to_a_full_disk_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    code, _, err = run("data", "convert", "digits#test", tmp_path / "out.parquet")
    assert (code, err) == (1, "vedette: error: no space left on device; free some and run the same command again\n")
    assert list(tmp_path.iterdir()) == []
