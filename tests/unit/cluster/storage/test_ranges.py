"""What is requested of an object, and that the bytes are right whatever is expected and read."""

from __future__ import annotations

import io
import threading
from contextlib import closing
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import StorageError
from cluster.storage import Entry
from cluster.storage import ranges as ranges_module
from cluster.storage.inputs import column_ranges
from cluster.storage.ranges import GAP, KEPT, PIECE, TAIL, RangeFile, pieces_of

RANGES = st.lists(st.tuples(st.integers(0, 10 * PIECE), st.integers(0, 3 * PIECE)), max_size=8).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


@given(RANGES)
def test_pieces_cover_what_is_expected_and_little_more(ranges):
    pieces = pieces_of(ranges)
    assert all(0 < stop - start <= PIECE for start, stop in pieces)
    assert all(left[1] <= right[0] for left, right in pairwise(pieces))
    for start, stop in ranges:
        inside = sum(min(stop, b) - max(start, a) for a, b in pieces if a < stop and b > start)
        assert inside == stop - start
    wanted = sorted(one for one in ranges if one[0] < one[1])
    assert sum(b - a for a, b in pieces) <= sum(b - a for a, b in wanted) + GAP * max(0, len(wanted) - 1)


class Requests:
    """An object in memory that counts what is asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.seen, self.lock = data, [], threading.Lock()

    def fetch(self, start: int, stop: int) -> bytes:
        with self.lock:
            self.seen.append((start, stop))
        assert 0 <= start < stop <= len(self.data)
        return self.data[start:stop]

    def open(self) -> RangeFile:
        entry = Entry(key="x", size=len(self.data), etag="e")
        return RangeFile(entry=entry, where="s3://b/x", fetch=self.fetch)


@settings(max_examples=50)
@given(
    size=st.integers(0, 300),
    expected=st.none() | st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=5),
    reads=st.lists(st.tuples(st.integers(0, 300), st.integers(-1, 300)), max_size=10),
)
def test_the_bytes_are_those_of_the_object(size, expected, reads):
    data = bytes(number % 251 for number in range(size))
    with pytest.MonkeyPatch.context() as patched, closing(Requests(data).open()) as file:
        for name, small in {"PIECE": 20, "GAP": 7, "TAIL": 30}.items():
            patched.setattr(ranges_module, name, small)
        if expected is not None:
            file.expect([(min(a, b, size), min(max(a, b), size)) for a, b in expected])
        for start, length in reads:
            at = file.seek(min(start, size))
            wanted = data[at:] if length < 0 else data[at : at + length]
            assert file.read(length) == wanted
            assert file.tell() == at + len(wanted)


def test_a_footer_is_one_request_and_what_follows_a_piece_comes_ahead():
    requests = Requests(bytes(10 * PIECE))
    with closing(requests.open()) as file:
        for back in (8, 4000, TAIL):
            file.seek(-back, 2)
            file.read(back)
        assert requests.seen == [(10 * PIECE - TAIL, 10 * PIECE)]
        requests.seen.clear()
        file.expect([(0, 5 * PIECE)])
        file.seek(0)
        file.read(10)
        file.seek(2 * PIECE)
        file.read(10)  # its piece was ahead
    assert sorted(requests.seen)[:3] == [(0, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, 3 * PIECE)]
    assert len(set(requests.seen)) == len(requests.seen)


def test_only_some_pieces_are_held():
    requests = Requests(bytes(3 * KEPT * PIECE))
    with closing(requests.open()) as file:
        file.expect([(0, len(requests.data))])
        while file.read(PIECE):
            assert len(file._held) <= KEPT
    assert len(requests.seen) == 3 * KEPT


def test_an_error_of_the_store_reaches_the_reader_of_parquet():
    def fail(_start: int, _stop: int) -> bytes:
        raise StorageError("s3://b/x: the store failed: 503")

    entry = Entry(key="x", size=100, etag="e")
    with (
        closing(RangeFile(entry=entry, where="s3://b/x", fetch=fail)) as file,
        pytest.raises(StorageError, match="the store failed: 503"),
    ):
        pq.ParquetFile(file.source)


def test_ranges_of_columns_are_all_of_them_and_no_others():
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": bytes(50), "path": "p"}] * 20, kind)
    table = pa.table({"other": [b"o" * 1000] * 20, "image": cells, "number": range(20)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=5, use_dictionary=["number"])
    requests = Requests(buffer.getvalue())
    metadata = pq.ParquetFile(pa.BufferReader(requests.data)).metadata
    found = column_ranges(metadata, range(1, 3), ["image", "number"])
    assert len(found) == 2 * 3  # the image's two leaves and the number, of two row groups
    other = metadata.row_group(1).column(0)
    assert all(stop <= other.data_page_offset or start > other.data_page_offset for start, stop in found)
    with closing(requests.open()) as file, pq.ParquetFile(file.source, pre_buffer=False, buffer_size=64) as parquet:
        file.expect(found)
        assert parquet.read_row_group(1, columns=["image", "number"]) == table.select(["image", "number"]).slice(5, 5)
