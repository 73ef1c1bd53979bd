"""A directory as a store."""

from __future__ import annotations

from pathlib import Path

from cluster.storage.directory import Directory


def test_what_goes_while_the_place_is_listed_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stays.parquet").write_bytes(b"rows")
    (tmp_path / "data" / "gone.parquet").symlink_to(tmp_path / "nowhere")  # listed, and not found when it is looked at
    assert set(Directory(tmp_path).entries("data/")) == {"data/stays.parquet"}
