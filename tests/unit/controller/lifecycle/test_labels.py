"""Names of classes: files in their forms, and how many there must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.lifecycle.labels import agreed_labels, read_names
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\n dog \n\nbird\n\n\n", ("cat", "dog", "", "bird")),
        ("0 cat\n1 sea lion\n2 bird\n", ("cat", "sea lion", "bird")),
        ("0: cat\n2: bird", ("cat", "class_1", "bird")),
        ("2,bird\n0,cat\n1,dog\n", ("cat", "dog", "bird")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ("1 euro\n1 dollar\n", ("1 euro", "1 dollar")),
        ("7 of 9\nborg\n", ("7 of 9", "borg")),
        ('["cat", "dog"]', ("cat", "dog")),
        ('{"0": "cat", "1": "dog"}', ("cat", "dog")),
        ('{"1": "dog", "0": "cat", "3": "bird"}', ("cat", "dog", "class_2", "bird")),
    ],
)
def test_names_are_read_in_index_order(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8-sig")
    assert read_names(path) == names


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n\n", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"cat": 0}', "'cat' is no class index; as JSON it is a list of names or an object"),
        (b'["cat"', "as JSON it is a list"),
        (b'[["cat"]]', "a list among the names"),
        (b'{"99999999": "cat"}', "the largest index is 99999999"),
    ],
)
def test_file_of_no_names_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_names(path)
    with pytest.raises(UsageError, match=r"keypoints file .* does not exist"):
        read_names(tmp_path / "none", "keypoints")


def test_there_are_as_many_names_as_classes() -> None:
    assert agreed_labels(2, None, None) == (("class_0", "class_1"), None)
    assert agreed_labels(2, ("a", "b"), ("c", "d")) == (("a", "b"), None)
    assert agreed_labels(2, None, ("c", "d")) == (("c", "d"), None)
    assert agreed_labels(None, None, ("c", "d", "e")) == (("c", "d", "e"), None)
    assert agreed_labels(3, None, ("c", "d"))[0] == ("class_0", "class_1", "class_2")
    with pytest.raises(UsageError, match="the labels file names 3 classes, the model has 2"):
        agreed_labels(2, ("a", "b", "c"), None)
    names, note = agreed_labels(None, None, None)
    assert names == ()
    assert note is not None
    assert "give --labels" in note
