from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.fleet.query import Query, parse_labels
from runtime.errors import UsageError

DEVICES = {
    "cam1": {"site": "lab", "floor": "1"},
    "cam2": {"site": "roof", "camera": "usb"},
    "cam3": {"site": "lab"},
    "cam4": {},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "cam1 cam2 cam3 cam4"),
        ("site=lab", "cam1 cam3"),
        ("site = lab", "cam1 cam3"),
        ("site!=lab", "cam2 cam4"),
        ("site in (lab, roof)", "cam1 cam2 cam3"),
        ("site in (roof)", "cam2"),
        ("camera", "cam2"),
        ("!camera", "cam1 cam3 cam4"),
        ("site=lab,!floor", "cam3"),
        ("site=lab and floor=1", "cam1"),
        ("site in (lab,roof),camera", "cam2"),
        ("id=cam2", "cam2"),
        ("id in (cam1, cam4)", "cam1 cam4"),
        ("id!=cam1,site=lab", "cam3"),
        ("site=nowhere", ""),
    ],
)
def test_a_query_means_exactly_these_devices(text, expected):
    query = Query.parse(text)
    assert " ".join(device for device, labels in DEVICES.items() if query.matches(device, labels)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "site=",
        "=lab",
        "site==lab",
        "site in ()",
        "site in (a",
        "a,,b",
        "all,site=lab,",
        "si te=x",
        "site=la b",
        "!",
    ],
)
def test_a_term_of_no_known_form_is_refused_and_named(text):
    with pytest.raises(UsageError, match="is no term"):
        Query.parse(text)


labels = st.dictionaries(
    st.from_regex(r"\A[a-z]{1,4}\Z").filter(lambda k: k not in {"id", "all", "and", "in"}),
    st.from_regex(r"\A[a-z0-9]{1,3}\Z"),
)


@given(labels=labels, device=st.from_regex(r"\A[a-z0-9]{1,6}\Z"))
def test_a_query_spelled_from_a_devices_own_labels_means_that_device(labels, device):
    text = " and ".join([f"id={device}", *(f"{key}={value}" for key, value in labels.items()), *labels])
    assert Query.parse(text).matches(device, labels)
    assert not Query.parse(f"{text},!{next(iter(labels), 'id')}").matches(device, labels)


@pytest.mark.parametrize(
    "pairs",
    [
        {"id": "x"},
        {"all": "x"},
        {"a b": "x"},
        {"": "x"},
        {"site": ""},
        {"site": "a b"},
        {"site": "a,b"},
        {"site": "x" * 129},
    ],
)
def test_labels_that_a_query_could_not_name_are_refused(pairs):
    with pytest.raises(UsageError, match="label"):
        parse_labels(pairs)
