from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import WorkersError
from cluster.pool.seats import NEEDS, Node, Seat, divide, least, parse_threads, parse_workers, seats
from cluster.worker.spec import Threads
from runtime.providers import ALIASES


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", None), ("3", {"cpu": 3}), ("cpu=2", {"cpu": 2}), ("cuda=4,cpu=16", {"cuda": 4, "cpu": 16})],
)
def test_specifications(text, expected):
    assert parse_workers(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "cpu=", "warp=1", "two", "1.5", "99999999", "cpu=1,cpu=2", "cpu=1,", "cuda=0,cpu=1"]
)
def test_other_specifications_are_refused(text):
    with pytest.raises(WorkersError, match="auto, N or cpu=N, or several like cuda=4,cpu=16"):
        parse_workers(text)


def test_every_provider_says_what_it_needs():
    assert set(ALIASES) <= set(NEEDS)


@given(st.integers(1, 256), st.none() | st.integers(1, 512))
def test_the_workers_never_reserve_more_than_there_is(cores, workers):
    division = divide(cores, workers)
    assert division.workers == (workers or cores)
    assert division.workers * division.cpus <= cores + 1e-6
    assert division.cpus > 0
    if division.cpus > 1:
        assert division.threads.session + division.threads.decode == division.cpus


def test_a_worker_with_many_cores_gives_a_quarter_to_decoding_and_one_with_one_does_both_in_a_thread():
    assert (divide(16, 2).threads.session, divide(16, 2).threads.decode) == (6, 2)
    assert (divide(2, 2).threads.session, divide(2, 2).threads.decode) == (1, 0)


def test_a_worker_fits_on_one_node():
    assert divide(8, 1, largest=4).cpus == 4


def node(name: str, cpus: int, **more: float) -> Node:
    return Node(id=name, resources={"CPU": cpus, "memory": 1e9, **more})


PLAIN, ACCELERATED, PHONE = node("plain", 3), node("accelerated", 16, GPU=2), node("phone", 2, qnn=1)


def who(found: list[Seat]) -> Counter:
    return Counter((seat.kind, seat.node) for seat in found)


def test_auto_has_a_worker_for_each_accelerator_and_for_each_core_of_the_other_nodes():
    found = seats([PLAIN, ACCELERATED, PHONE], None, "auto", 100)
    assert who(found) == {("gpu", "accelerated"): 2, ("qnn", "phone"): 1, ("cpu", "plain"): 3}
    assert NEEDS[found[0].kind] == "GPU"
    assert found[0].resources == {"CPU": 8, "GPU": 1}
    assert (found[0].provider, found[0].threads) == ("auto", Threads(decode=8))


def test_an_accelerator_whose_proof_failed_leaves_its_node_to_the_cores():
    found = seats([ACCELERATED], None, "auto", 100, frozenset({("gpu", "accelerated")}))
    assert who(found) == {("cpu", "accelerated"): 16}


def test_auto_with_a_provider_takes_what_that_one_runs_on():
    nodes = [PLAIN, ACCELERATED, PHONE]
    assert who(seats(nodes, None, "cuda", 100)) == {("gpu", "accelerated"): 2}
    assert {seat.provider for seat in seats(nodes, None, "cuda", 100)} == {"cuda"}
    assert who(seats(nodes, None, "qnn", 100)) == {("qnn", "phone"): 1}
    assert {seat.kind for seat in seats(nodes, None, "cpu", 100)} == {"cpu"}
    assert len(seats(nodes, None, "cpu", 100)) == 21


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        ("auto", {"CPU": 1}),
        ("openvino:cpu", {"CPU": 1}),
        ("cuda", {"CPU": 1, "GPU": 1}),
        ("qnn", {"CPU": 1, "qnn": 1}),
    ],
)
def test_where_no_node_has_a_seat_it_is_known_what_one_must_offer(provider, asked):
    assert seats([node("head", 0)], None, provider, 100) == []
    assert least(provider) == asked
    assert seats([Node(id="new", resources=asked)], None, provider, 100)


def test_a_machine_that_will_not_grow_lets_a_core_say_why_a_provider_does_not_run_there():
    assert seats([PLAIN], None, "cuda", 1) == []
    (found,) = seats([PLAIN], None, "cuda", 1, sharing=True)
    assert (found.kind, found.provider, found.cpus) == ("cpu", "cuda", 1)


def test_numbers_are_taken_as_they_are_the_accelerated_first():
    counts = parse_workers("cpu=3,cuda=2")
    found = seats([PLAIN], counts, "auto", 100)
    assert who(found) == {("cuda", None): 2, ("cpu", None): 3}
    assert [(seat.kind, seat.provider) for seat in found[:3]] == [("cuda", "cuda"), ("cuda", "cuda"), ("cpu", "auto")]
    assert who(seats([PLAIN], counts, "auto", 100, frozenset({("cuda", None)}))) == {("cpu", None): 3}


def test_more_workers_than_cores_share_them_here_and_wait_for_nodes_elsewhere():
    assert {seat.cpus for seat in seats([PLAIN], {"cpu": 12}, "auto", 100, sharing=True)} == {0.25}
    assert {seat.cpus for seat in seats([PLAIN], {"cpu": 12}, "auto", 100)} == {1}


def test_a_node_that_joins_brings_its_workers_and_leaves_the_others_theirs():
    before = Counter(seats([PLAIN], None, "auto", 100))
    after = Counter(seats([PLAIN, PHONE], None, "auto", 100))
    assert not before - after
    assert who(list((after - before).elements())) == {("qnn", "phone"): 1}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=4), st.integers(1, 20))
def test_no_node_gives_more_than_it_has_and_no_more_workers_than_work(sizes, most):
    nodes = [node(str(number), cpus, GPU=gpus) for number, (cpus, gpus) in enumerate(sizes)]
    found = seats(nodes, None, "auto", most)
    assert len(found) <= most
    for one in nodes:
        taken = [seat for seat in found if seat.node == one.id]
        assert sum(seat.cpus for seat in taken) <= one.cores
        assert sum(seat.resources.get("GPU", 0) for seat in taken) <= one.resources["GPU"]


def test_threads_are_two_numbers():
    assert parse_threads("12:4") == (12, 4)
    for text in ("", "4", "0:1", "1:0", "a:b", "1:2:3"):
        with pytest.raises(WorkersError, match="expected SESSION:DECODE"):
            parse_threads(text)
