from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.input.sampling import Sample, limited
from cluster.plan import InputFile, RowGroup

fractions = st.floats(0, 1, exclude_min=True)
group_lists = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=4)


def files_of(counts):
    return [
        InputFile(path=f"/{index}", etag="e", groups=tuple(RowGroup(rows, 10 * rows) for rows in rows_of_groups))
        for index, rows_of_groups in enumerate(counts)
    ]


@given(fractions, st.integers(0, 1000), st.integers(0, 300), st.integers(0, 300))
def test_a_sample_does_not_depend_on_how_the_rows_are_cut(fraction, seed, cut, more):
    sample = Sample(fraction=fraction, seed=seed)
    whole = sample.rows("/in", 0, cut + more).tolist()
    assert whole == [*sample.rows("/in", 0, cut).tolist(), *sample.rows("/in", cut, cut + more).tolist()]


@given(fractions, fractions)
def test_a_larger_sample_holds_the_smaller(one, other):
    small, large = sorted((one, other))
    assert set(Sample(fraction=small).rows("/in", 0, 300)) <= set(Sample(fraction=large).rows("/in", 0, 300))


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.9, 1])
def test_about_the_fraction_is_taken_of_each_stretch(fraction):
    for start in (0, 100_000):
        taken = len(Sample(fraction=fraction).rows("/in", start, start + 100_000))
        assert taken == pytest.approx(100_000 * fraction, abs=5 * (100_000 * fraction * (1 - fraction)) ** 0.5)


def test_files_and_seeds_have_samples_of_their_own():
    samples = [tuple(Sample(fraction=0.5, seed=seed).rows(path, 0, 100)) for seed in (0, 1) for path in ("/a", "/b")]
    assert len(set(samples)) == 4


@given(group_lists, st.integers(1, 200))
def test_a_limit_takes_the_first_rows_in_the_order_of_paths(counts, limit):
    files = files_of(counts)
    taken = list(limited(reversed(files), limit, None))
    assert sum(file.rows for file in taken) == min(limit, sum(file.rows for file in files))
    for found, whole in zip(taken, files, strict=False):
        assert found.path == whole.path
        assert len(found.groups) == len(whole.groups)  # so that their numbers stay
        assert all(group.size == 10 * group.rows for group in found.groups)


@given(group_lists, st.integers(1, 100), fractions)
def test_a_limit_counts_rows_of_the_sample(counts, limit, fraction):
    files, sample = files_of(counts), Sample(fraction=fraction)

    def sampled(of):
        return [(file.path, row) for file in of for row in sample.rows(file.path, 0, file.rows).tolist()]

    assert sampled(limited(files, limit, sample)) == sampled(files)[:limit]
