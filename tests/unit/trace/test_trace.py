"""Trace records: plain, of a session, without secrets."""

from __future__ import annotations

from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Role
from edgeice.trace import Record, entry_of, ignore, of_session, plain, without_secrets

HERE, THERE = TransportAddress("192.0.2.1", 1), TransportAddress("2001:db8::1", 2)


def test_records_of_a_session_say_which() -> None:
    heard: list[Record] = []
    of_session(heard.append, 7)(Record(1.5, "ice", "check_sent", {"path": "x"}))
    assert heard == [Record(1.5, "ice", "check_sent", {"session": 7, "path": "x"})]
    assert of_session(ignore, 7) is ignore


def test_no_secret_and_no_bytes_are_left() -> None:
    fields = {"pwd": "hush", "password": "p", "credential": "c", "key": "k", "token": "t", "nonce": "n"}
    record = without_secrets(Record(1.0, "ice", "x", {**fields, "data": b"hush", "ufrag": "ab"}))
    assert record.fields == {**dict.fromkeys(fields, "[secret]"), "data": "[4 bytes]", "ufrag": "ab"}


def test_an_entry_is_json() -> None:
    fields = {"path": Path(HERE, THERE), "role": Role.CONTROLLING, "rtt": 0.123456, "n": 3, "no": None, "yes": True}
    assert entry_of(Record(1.23456, "ice", "x", fields)) == {
        "at": 1.2346,
        "layer": "ice",
        "name": "x",
        "path": "192.0.2.1:1->[2001:db8::1]:2",
        "role": "controlling",
        "rtt": 0.1235,
        "n": 3,
        "no": None,
        "yes": True,
    }
    assert plain({Role.CONTROLLED: (HERE, [1.0])}) == {"controlled": ["192.0.2.1:1", [1.0]]}
