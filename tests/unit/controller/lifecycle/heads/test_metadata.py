"""What strangers' metadata say, and what they cannot make us do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import task_graphs
from hypothesis import given
from hypothesis import strategies as st

from controller.lifecycle.heads.metadata import MOST_CHARACTERS, Facts, parse_metadata


def test_ultralytics_writes_python_literals() -> None:
    facts = parse_metadata(
        {
            **task_graphs.YOLO_METADATA,
            "task": "pose",
            "imgsz": "[320, 640]",
            "names": "{0: 'person'}",
            "kpt_shape": "[2, 3]",
            "kpt_names": "{0: ['head', 'foot']}",
            "end2end": "True",
        }
    )
    assert facts == Facts(
        maker="ultralytics",
        labels=("person",),
        task="pose",
        size=(320, 640),
        keypoint_shape=(2, 3),
        keypoints=("head", "foot"),
        end2end=True,
    )


@pytest.mark.parametrize(
    ("properties", "maker", "labels"),
    [
        ({"stride": "32", "names": "['a', 'b']"}, "yolov5", ("a", "b")),
        ({"stride": "32", "names": "{0: 'a', 1: 'b'}"}, "yolov5", ("a", "b")),
        ({"names": '{"0": "a", "1": "b"}'}, "", ("a", "b")),
        ({"id2label": '{"0": "a", "2": "c"}'}, "", ("a", "class_1", "c")),
        ({"names": "{0: 'two\\nlines', 1: ''}"}, "", ("two lines", "class_1")),
        ({"producer": "somebody"}, "", None),
        ({}, "", None),
    ],
)
def test_names_come_in_several_forms(properties: dict[str, str], maker: str, labels: tuple[str, ...] | None) -> None:
    facts = parse_metadata(properties)
    assert (facts.maker, facts.labels, facts.notes) == (maker, labels, ())


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("names", "__import__('os').getcwd()", "neither JSON nor a Python literal"),
        ("names", "(" * 5000, "neither JSON nor"),
        ("names", "[" * 5000 + "]" * 5000, "neither JSON nor"),
        ("names", "-" * 50_000 + "1", "neither JSON nor"),
        ("names", "'" + "a" * MOST_CHARACTERS + "'", "characters; at most"),
        ("names", "3", "a int; expected a list of names"),
        ("names", "{'cat': 0}", "'cat' is no class index"),
        ("names", "{-1: 'cat'}", "no class index"),
        ("names", "{True: 'cat'}", "no class index"),
        ("names", "{99999999: 'cat'}", "largest index is 99999999"),
        ("names", "[]", "largest index is -1"),
        ("names", "[['cat']]", "a list among the names"),
        ("imgsz", "[640]", "expected height and width"),
        ("imgsz", "[640, 99999999]", "expected height and width"),
        ("imgsz", "['640', '640']", "expected height and width"),
        ("imgsz", "0", "expected height and width"),
        ("kpt_shape", "[17, 4]", "expected [keypoints, 2 or 3]"),
        ("kpt_shape", "17", "expected [keypoints, 2 or 3]"),
        ("kpt_names", "{'person': ['nose']}", "expected a list of names"),
        ("end2end", "1", "expected True or False"),
    ],
)
def test_value_that_is_not_what_it_should_be_is_left_out_with_a_note(key: str, value: str, says: str) -> None:
    facts = parse_metadata({key: value})
    assert len(facts.notes) == 1
    assert facts.notes[0].startswith(f"metadata {key!r} is left out: ")
    assert says in facts.notes[0]
    assert facts == Facts(notes=facts.notes)


def test_task_that_is_none_of_ours_is_told_apart() -> None:
    facts = parse_metadata({**task_graphs.YOLO_METADATA, "task": "obb"})
    assert (facts.task, facts.foreign_task) == (None, "obb")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3),
)


@given(
    st.dictionaries(
        st.sampled_from(["names", "id2label", "imgsz", "kpt_shape", "kpt_names", "end2end", "task", "stride"]),
        VALUES.map(repr) | VALUES.map(json.dumps) | st.text(),
    )
)
def test_no_metadata_break_the_reading(properties: dict[str, Any]) -> None:
    facts = parse_metadata(properties)
    assert facts.labels is None or all(isinstance(name, str) and name for name in facts.labels)
    assert facts.size is None or all(1 <= edge <= 16_384 for edge in facts.size)
