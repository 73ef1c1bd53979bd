"""Sources of frames by URI."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from edge_agent.camera.sources import open_source
from runtime.errors import DatasetError, UsageError


@pytest.fixture
def pictures(tmp_path):
    for name in ("b.png", "a.png", "c c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "d.png").mkdir()
    return tmp_path


def names(uri: str, start: int = 0, most: int = 10) -> list[tuple[int, str]]:
    return [(frame.number, frame.name.rpartition("/")[2]) for frame in islice(open_source(uri).frames(start), most)]


def test_files_come_in_order_over_and_over(pictures):
    uri = f"file://{pictures}/*.png"
    assert names(uri, most=5) == [(0, "a.png"), (1, "b.png"), (2, "c c.png"), (3, "a.png"), (4, "b.png")]
    assert names(uri, start=7, most=2) == [(7, "b.png"), (8, "c c.png")]


def test_once_is_once(pictures):
    uri = f"file+once://{pictures}/*.png"
    assert names(uri) == [(0, "a.png"), (1, "b.png"), (2, "c c.png")]
    assert names(uri, start=2) == [(2, "c c.png")]
    assert names(uri, start=3) == []


def test_a_path_may_be_percent_encoded(pictures):
    assert names(f"file+once://{pictures}/c%20c.png") == [(0, "c c.png")]


def test_rows_of_a_dataset(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / label / "0.png")
    frames = list(islice(open_source(f"dataset:{tmp_path}").frames(1), 3))
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert [frame.name.split("/")[-2] for frame in frames] == ["dog", "cat", "dog"]
    assert all(isinstance(frame.image, bytes | np.ndarray) for frame in frames)
    assert len(list(open_source(f"dataset+once:{tmp_path}").frames(0))) == 2
    assert list(open_source(f"dataset+once:{tmp_path}").frames(2)) == []
    assert names(str(tmp_path), most=3) == names(f"dataset:{tmp_path}", most=3)


@pytest.mark.parametrize("uri", ["rtsp://camera", "file+twice:///x", "file:", ""])
def test_an_unknown_source_is_refused_with_the_known_ones(uri):
    with pytest.raises(UsageError, match=r"file:, file\+once:, dataset:"):
        open_source(uri)


def test_a_source_without_frames_is_an_error_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"no file matches .*\*\.jpg"):
        open_source(f"file://{tmp_path}/*.jpg")
    with pytest.raises(DatasetError):
        open_source(f"dataset:{tmp_path}/none")
