from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatch.crashes import CONFIRMATIONS, FANOUT, Search, pieces


def search(rows: int, deadly: set[int]) -> tuple[Search, list[tuple[int, int]], int]:
    """Return the ended search, all its probes, and how many of them killed."""
    state, probes, deaths = Search.of(rows), [], 0
    while (part := state.part) is not None:
        died = bool(deadly.intersection(range(*part)))
        probes.append(part)
        deaths += died
        state = state.after(died=died)
    return state, probes, deaths


@given(st.data(), st.integers(1, 300))
def test_all_rows_that_kill_are_found_and_no_other(data, rows):
    deadly = data.draw(st.sets(st.integers(0, rows - 1), max_size=5))
    state, _, _ = search(rows, deadly)
    assert sorted(state.found) == sorted(deadly)


@given(st.integers(1, 10_000), st.data())
def test_one_row_costs_a_process_a_cut(rows, data):
    deadly = {data.draw(st.integers(0, rows - 1))}
    _, probes, deaths = search(rows, deadly)
    cuts = next(cuts for cuts in range(9) if FANOUT**cuts >= rows)
    assert deaths <= cuts + CONFIRMATIONS
    assert len(probes) <= FANOUT * cuts + CONFIRMATIONS


@given(st.integers(1, 200), st.data())
def test_whatever_is_answered_the_search_ends_and_convicts_only_who_was_alone(rows, data):
    state, deaths = Search.of(rows), {}
    for _ in range(4 * rows + 4):
        if (part := state.part) is None:
            break
        died = data.draw(st.booleans())
        deaths[part] = deaths.get(part, 0) + died
        state = state.after(died=died)
    assert state.part is None
    assert all(deaths[row, row + 1] >= CONFIRMATIONS for row in state.found)


@given(st.integers(0, 50), st.integers(1, 50), st.sets(st.integers(0, 120)))
def test_pieces_are_the_part_and_spare_the_rows_that_kill(start, rows, spared):
    part = (start, start + rows)
    cut = list(pieces(part, spared))
    assert [row for piece, _ in cut for row in range(*piece)] == list(range(*part))
    assert {row for piece, usable in cut if not usable for row in range(*piece)} == spared.intersection(range(*part))
    assert all(stop - begin == 1 for (begin, stop), usable in cut if not usable)
