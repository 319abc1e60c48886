"""DNS messages as they come from a network: read in full or refused (RFC 1035 §4)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.dns import SRV, Record, address_of, decode_response, encode_question, labels_of
from edgeice.errors import DecodeError
from tests.support.dns_wire import address_record, encode_name, record, response

QUESTION = encode_name("a.example") + b"\0\1\0\1"


def refused(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_response(data)
    return caught.value.reason


def test_the_sections_that_are_read() -> None:
    first, second, third = (address_record("a.example", f"192.0.2.{n}", klass=1) for n in range(3))
    found = decode_response(response(first, questions=(QUESTION,), authorities=(second,), additional=(third,)))
    labels = (b"a", b"example")
    assert found == [Record(labels, 1, 1, 120, bytes([192, 0, 2, n])) for n in (0, 2)]
    assert [address_of(each) for each in found] == ["192.0.2.0", "192.0.2.2"]


def test_names_are_followed_through_pointers() -> None:
    # The question's name stands at 12, its "example" at 14.
    answer = record(b"\3SUB\xc0\x0c", 1, b"\xc0\0\2\1")
    (found,) = decode_response(response(answer, questions=(QUESTION,)))
    assert found.name == (b"sub", b"a", b"example")


def test_a_service_names_its_target() -> None:
    data = b"\0\1\0\2\x0d\x96" + b"\4stun\xc0\x0e"
    (found,) = decode_response(response(record(b"\xc0\x0c", SRV, data), questions=(QUESTION,)))
    assert found.target == (b"stun", b"example")
    assert found.data == data


def test_questions_go_to_the_letter() -> None:
    assert encode_question(labels_of("A.Example."), 1) == bytes.fromhex("000000000001000000000000") + QUESTION


GOOD = response(address_record("a.example", "192.0.2.1"), questions=(QUESTION,))
MALFORMED = {
    "a query": GOOD[:2] + b"\0\0" + GOOD[4:],
    "refused by the server": GOOD[:2] + b"\x84\x03" + GOOD[4:],
    "another operation": GOOD[:2] + b"\xa4\x00" + GOOD[4:],
    "a record more than there are": GOOD[:6] + b"\0\2" + GOOD[8:],
    "257 records": GOOD[:6] + b"\1\0" + GOOD[8:],
    "65535 of each": GOOD[:4] + b"\xff" * 8 + GOOD[12:],
    "data past the end": response(record(encode_name("a"), 1, bytes(4), size=5)),
    "a pointer to itself": response(record(b"\xc0\x0c", 1, bytes(4))),
    "a pointer forward": response(record(b"\xc0\x20", 1, bytes(40))),
    "a label of kind 0x40": response(record(b"\x40" + bytes(70), 1, bytes(4))),
    "a label of kind 0x80": response(record(b"\x80\0", 1, bytes(4))),
    "a pointer to a label of kind 0x80": response(record(b"\0", 16, b"\x80\0"), record(b"\xc0\x17", 1, bytes(4))),
    "a name of 256 bytes": response(record(encode_name(".".join(["a" * 63] * 4)), 1, bytes(4))),
    "a service whose target ends early": response(record(b"\0", SRV, bytes(6) + b"\0\0")),
    "a service whose target ends late": response(record(b"\0", SRV, bytes(6) + b"\1")),
    "a service without target": response(record(b"\0", SRV, bytes(6))),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_messages(data: bytes) -> None:
    assert refused(data) == "dns_message"


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_every_message_that_is_cut_off_is_refused(size: int) -> None:
    assert refused(GOOD[:size]) == "dns_message"


def test_pointers_to_pointers_are_followed_a_few_times() -> None:
    def chain(length: int) -> bytes:
        # A name at 12, then pointers, each to the one before, as a question each.
        names = [encode_name("a")] + [(0xC000 | at).to_bytes(2) for at in (12, *range(19, 19 + 6 * length, 6))]
        return response(record(names[-1], 1, bytes(4)), questions=tuple(each + bytes(4) for each in names[:-1]))

    assert decode_response(chain(15))[0].name == (b"a",)
    assert refused(chain(16)) == "dns_message"


def test_the_longest_name_is_read_for_as_many_records_as_are_looked_at() -> None:
    name = b"".join(b"\1" + bytes([n]) for n in range(127)) + b"\0"
    data = response(record(name, 1, bytes(4)), *[record(b"\xc0\x0c", 1, bytes(4))] * 255)
    assert {len(each.name) for each in decode_response(data)} == {127}
    assert refused(response(*[record(b"\0", 1, bytes(4))] * 257)) == "dns_message"


@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.binary(max_size=4))
def test_any_bytes_are_read_or_refused(data: bytes, at: int, change: bytes) -> None:
    for each in (data, b"\0\0\x84\0" + data, GOOD[:at] + change + GOOD[at + len(change) :]):
        with contextlib.suppress(DecodeError):
            decode_response(each)
