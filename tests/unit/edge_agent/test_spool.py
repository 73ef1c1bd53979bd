"""The spool: order, bounds, counts, and files that a power cut left behind."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.spool import Spool
from runtime.protocol.topics import Channel


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / "spool.sqlite", rows=5) as spool:
        yield spool


def payloads(spool: Spool) -> list[bytes]:
    return [message.payload for message in spool.oldest()]


def test_first_in_first_out_and_gone_only_when_removed(spool):
    for number in range(3):
        spool.put(Channel.TELEMETRY, b"%d" % number)
    assert payloads(spool) == payloads(spool) == [b"0", b"1", b"2"]
    spool.remove([spool.oldest()[0].id])
    assert payloads(spool) == [b"1", b"2"]
    assert len(spool) == 2


def test_it_survives_a_restart(tmp_path):
    with Spool(tmp_path / "spool.sqlite") as spool:
        spool.put(Channel.EVENTS, b"before")
    with Spool(tmp_path / "spool.sqlite") as spool:
        spool.put(Channel.EVENTS, b"after")
        assert payloads(spool) == [b"before", b"after"]
        assert spool.oldest()[0].channel is Channel.EVENTS


def test_a_full_channel_takes_nothing_from_another(spool):
    spool.put(Channel.EVENTS, b"event")
    for number in range(20):
        spool.put(Channel.TELEMETRY, b"%d" % number)
    assert payloads(spool) == [b"event", b"15", b"16", b"17", b"18", b"19"]
    assert spool.take_dropped() == 15
    assert spool.take_dropped() == 0


@settings(max_examples=40)  # every step is real disk
@given(st.lists(st.sampled_from(["put", "send", "restart"]), max_size=60))
def test_what_is_kept_is_the_newest_in_order_and_the_rest_is_counted(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("spool") / "spool.sqlite"
    spool, number, sent, model, dropped = Spool(path, rows=4), 0, [], [], 0
    for step in steps:
        if step == "put":
            spool.put(Channel.TELEMETRY, b"%d" % number)
            model.append(b"%d" % number)
            number += 1
            dropped += len(model) > 4
            model = model[-4:]
        elif step == "send":
            for message in spool.oldest(1):
                sent.append(message.payload)
                spool.remove([message.id])
            model = model[1:]
        else:
            spool.close()
            spool = Spool(path, rows=4)
        assert payloads(spool) == model
    assert spool.take_dropped() == dropped
    assert sent == sorted(sent, key=int)
    assert len(sent) + len(model) + dropped == number
    spool.close()


def test_an_unreadable_file_is_put_aside(tmp_path):
    (tmp_path / "spool.sqlite").write_bytes(b"not a database, by far" * 100)
    with Spool(tmp_path / "spool.sqlite") as spool:
        spool.put(Channel.EVENTS, b"it goes on")
        assert payloads(spool) == [b"it goes on"]
    assert (tmp_path / "spool.broken").read_bytes().startswith(b"not a database")


def test_a_full_disk_costs_messages_and_is_counted(tmp_path):
    with Spool(tmp_path / "spool.sqlite") as spool:
        spool.put(Channel.EVENTS, b"kept")
        pages = spool._database.execute("PRAGMA page_count").fetchone()[0]
        spool._database.execute(f"PRAGMA max_page_count = {pages}")  # what a full disk is to SQLite
        spool.put(Channel.EVENTS, b"lost" * 10_000)
        spool._database.execute("PRAGMA max_page_count = 1000000")
        assert payloads(spool) == [b"kept"]
        assert spool.take_dropped() == 1


def test_it_is_a_write_ahead_log(tmp_path, spool):
    assert sqlite3.connect(tmp_path / "spool.sqlite").execute("PRAGMA journal_mode").fetchone() == ("wal",)
