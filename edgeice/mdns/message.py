"""Questions and answers about `.local` names (RFC 6762 §5, §6, §18)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgeice.dns import AAAA, IN, A, Labels, address_of, decode_response, encode_question
from edgeice.errors import DecodeError

__all__ = ["MESSAGE_LIMIT", "decode_addresses", "encode_questions"]

#: Bytes of a message that are looked at (RFC 6762 §17 allows 9000 with headers, and asks for one Ethernet frame).
MESSAGE_LIMIT: Final = 9000
#: RFC 6762 §5.4, in questions: a unicast answer is welcome; §10.2, in records: others of the name are outdated.
_TOP_BIT: Final = 0x8000
#: QR, in the third byte of a message (RFC 1035 §4.1.1).
_RESPONSE: Final = 0x80


def encode_questions(name: Labels, *, unicast: bool) -> tuple[bytes, bytes]:
    """A message for each family: responders in browsers take one question at a time.

    Args:
        name: What is asked for.
        unicast: Whether to set the bit that says that a unicast answer is welcome (RFC 6762 §5.4).
    """
    klass = IN | _TOP_BIT if unicast else IN
    return encode_question(name, A, klass=klass), encode_question(name, AAAA, klass=klass)


def decode_addresses(data: bytes, wanted: Iterable[Labels]) -> dict[Labels, tuple[str, ...]]:
    """The addresses that a response has for the names that are wanted, each once.

    Raises:
        DecodeError: `dns_message`, as `decode_response`, or `mdns_size`.
    """
    if len(data) > MESSAGE_LIMIT:
        raise DecodeError("mdns_size", f"{len(data)} bytes")
    if len(data) > 2 and not data[2] & _RESPONSE:
        return {}  # a question, such as this host's own
    names = frozenset(wanted)
    found: dict[Labels, dict[str, None]] = {}
    for record in decode_response(data):
        # RFC 6762 §10.1: what has no time to live is withdrawn.
        if record.name in names and record.klass & ~_TOP_BIT == IN and record.ttl:
            address = address_of(record)
            if address is not None:
                found.setdefault(record.name, {})[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}
