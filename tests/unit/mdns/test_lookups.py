"""Names hidden behind `.local`: what is asked, when, and which answers count (RFC 6762; checklist MDNS-03, HOST-14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import LocalProtocolError
from edgeice.mdns import MESSAGE_LIMIT, Lookups, NameResolved
from edgeice.mdns.lookups import NAMES_LIMIT
from edgeice.sansio import DropCounter
from tests.support.dns_wire import address_record, encode_name, record, response

NAME = "0b5a4a2e-6b0e-4c5c-9d4c-5e0a1f6d2c77.local"
OTHER = "5f1a9a1c-2b86-4d9a-b2aa-6e2a3ef37c5f.local"


def name(number: int) -> str:
    return f"{number:08x}-6b0e-4c5c-9d4c-5e0a1f6d2c77.local"


def asking(*names: str) -> tuple[Lookups, DropCounter]:
    drops = DropCounter()
    lookups = Lookups(drops)
    for each in names:
        lookups.ask(each, now=10.0)
    return lookups, drops


def queries(lookups: Lookups) -> list[bytes]:
    return list(iter(lookups.poll_query, None))


def events(lookups: Lookups) -> list[NameResolved]:
    return list(iter(lookups.poll_event, None))


def test_mdns_03_a_question_to_the_letter() -> None:
    """One for each family, the second time with the bit that welcomes a unicast answer."""
    lookups, _ = asking(NAME)
    plain = bytes.fromhex("000000000001000000000000") + encode_name(NAME)
    for at, klass in ((10.0, "0001"), (11.0, "8001"), (13.0, "0001")):
        lookups.handle_timeout(now=at)
        assert queries(lookups) == [plain + bytes.fromhex("0001" + klass), plain + bytes.fromhex("001c" + klass)]


def test_mdns_03_a_name_is_asked_for_three_times_and_given_up_after_five_seconds() -> None:
    lookups, _ = asking(NAME)
    sent = [(10.0, len(queries(lookups)))]
    while (at := lookups.next_timeout()) is not None:
        lookups.handle_timeout(now=at - 0.001)
        assert (queries(lookups), events(lookups)) == ([], [])
        lookups.handle_timeout(now=at)
        sent.append((at, len(queries(lookups))))
    assert sent == [(10.0, 2), (11.0, 2), (13.0, 2), (15.0, 0)]
    assert events(lookups) == [NameResolved(NAME, ())]
    assert len(lookups) == 0


@pytest.mark.parametrize(("slept", "asked", "ended"), [(2.5, 2, 0), (4.0, 2, 0), (5.0, 0, 1), (50.0, 0, 1)])
def test_a_host_that_slept_asks_once(slept: float, asked: int, ended: int) -> None:
    lookups, _ = asking(NAME)
    queries(lookups)
    lookups.handle_timeout(now=10.0 + slept)
    assert (len(queries(lookups)), len(events(lookups))) == (asked, ended)


@pytest.mark.parametrize("ip", ["192.0.2.7", "2001:db8::7", "fe80::7"])
def test_mdns_03_an_answer_ends_the_look_up(ip: str) -> None:
    lookups, drops = asking(NAME, OTHER)
    assert lookups.receive(response(address_record(NAME, ip)))
    assert events(lookups) == [NameResolved(NAME, (ip,))]
    assert len(lookups) == 1
    lookups.receive(response(address_record(NAME, "192.0.2.8")))  # it comes too late
    assert events(lookups) == []
    assert drops.total == 0


def test_mdns_03_names_are_the_same_in_any_case() -> None:
    lookups, _ = asking(NAME.upper())
    lookups.ask(NAME, now=10.0)
    assert len(lookups) == 1
    lookups.receive(response(address_record(NAME, "192.0.2.7")))
    assert events(lookups) == [NameResolved(NAME.upper(), ("192.0.2.7",))]


def test_mdns_03_several_addresses_are_told_as_such_wherever_they_stand() -> None:
    lookups, _ = asking(NAME, OTHER)
    first, second = address_record(NAME, "192.0.2.7"), address_record(NAME, "2001:db8::7")
    lookups.receive(response(first, address_record(OTHER, "192.0.2.9"), first, additional=(second,)))
    assert events(lookups) == [NameResolved(NAME, ("192.0.2.7", "2001:db8::7")), NameResolved(OTHER, ("192.0.2.9",))]


IGNORED = {
    "another name": response(address_record(OTHER, "192.0.2.7")),
    "one label": response(record(b"\x2a" + NAME.encode() + b"\0", 1, bytes(4))),
    "a query": response(address_record(NAME, "192.0.2.7"), flags=0x0000),
    "withdrawn": response(address_record(NAME, "192.0.2.7", ttl=0)),
    "another class": response(address_record(NAME, "192.0.2.7", klass=0x8003)),
    "another type": response(record(encode_name(NAME), 16, b"\x04text")),
    "an authority's": response(authorities=(address_record(NAME, "192.0.2.7"),)),
    "an address of 5 bytes": response(record(encode_name(NAME), 1, bytes(5))),
    "an address of 4 bytes for 16": response(record(encode_name(NAME), 28, bytes(4))),
}


@pytest.mark.parametrize("data", IGNORED.values(), ids=IGNORED.keys())
def test_mdns_03_what_answers_nothing(data: bytes) -> None:
    lookups, drops = asking(NAME)
    assert not lookups.receive(data)
    assert drops.total == 0
    assert events(lookups) == []
    assert len(lookups) == 1


def test_host_14_a_message_that_cannot_be_read_is_counted_and_the_next_one_is_heard() -> None:
    lookups, drops = asking(NAME)
    good = response(address_record(NAME, "192.0.2.7"))
    for data in (b"", good[:11], good[:-1], good + bytes(MESSAGE_LIMIT)):
        lookups.receive(data)
    assert events(lookups) == []
    assert drops.snapshot() == {"dns_message": 3, "mdns_size": 1}
    lookups.receive(good)
    assert events(lookups) == [NameResolved(NAME, ("192.0.2.7",))]


def test_host_14_names_beyond_the_limit_have_no_address() -> None:
    lookups, drops = asking(*map(name, range(500)))
    assert len(lookups) == NAMES_LIMIT
    assert len(queries(lookups)) == 2 * NAMES_LIMIT
    assert events(lookups) == [NameResolved(name(number), ()) for number in range(NAMES_LIMIT, 500)]
    assert drops.snapshot() == {"mdns_full": 500 - NAMES_LIMIT}


def test_without_a_link_all_names_end_at_once() -> None:
    lookups, _ = asking(NAME, OTHER)
    lookups.abandon()
    assert events(lookups) == [NameResolved(NAME, ()), NameResolved(OTHER, ())]
    assert lookups.poll_query() is None
    assert lookups.next_timeout() is None


@pytest.mark.parametrize("text", ["", "a..local", ".local", "a" * 64 + ".local", "é.local", ".".join(["a" * 63] * 4)])
def test_what_is_no_host_name_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        asking(text)


@given(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 255))
def test_host_14_any_bytes_are_taken(data: bytes, at: int, byte: int) -> None:
    lookups, _ = asking(NAME)
    lookups.receive(data)
    lookups.receive(b"\0\0\x84\0" + data)
    good = response(address_record(NAME, "192.0.2.7"))
    lookups.receive(good[:at] + bytes([byte]) + good[at + 1 :])
    assert len(events(lookups)) + len(lookups) == 1
