"""The rtnetlink decoder: bytes of a kernel, made-up messages, and noise."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.net import DefaultRoute, Interface, InterfaceAddress, LinkClass
from edgeice.net.netlink import (
    AddressMessage,
    DumpDone,
    DumpInterrupted,
    LinkMessage,
    Message,
    RouteMessage,
    assemble,
    decode,
    dump_addresses,
    dump_links,
    dump_routes,
)


def message(kind: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + padded


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(
    name: bytes = b"eth0\0", *, index: int = 2, flags: int = 0x11043, family: int = 0, extra: bytes = b""
) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0)
    return body + attribute(3, name) + attribute(4, struct.pack("=I", 1500)) + extra


def address(*attributes: bytes, family: int = 2, prefix: int = 24, flags: int = 0x80, index: int = 2) -> bytes:
    return struct.pack("=BBBBI", family, prefix, flags, 0, index) + b"".join(attributes)


def default_route(
    *attributes: bytes, family: int = 2, to: int = 0, source: int = 0, table: int = 254, kind: int = 1, flags: int = 0
) -> bytes:
    return struct.pack("=BBBBBBBBI", family, to, source, 0, table, 4, 0, kind, flags) + b"".join(attributes)


def by(index: int, metric: int | None = None) -> bytes:
    priority = b"" if metric is None else attribute(6, struct.pack("=I", metric))
    return attribute(4, struct.pack("=I", index)) + priority


def hop(index: int, flags: int = 0) -> bytes:
    gateway = attribute(5, bytes([192, 0, 2, 1]))
    return struct.pack("=HBBi", 8 + len(gateway), flags, 0, index) + gateway


LOCAL = attribute(2, bytes([192, 0, 2, 1]))
PEER = attribute(1, bytes([192, 0, 2, 99]))
V6_RAW = bytes.fromhex("20010db8000000000000000000000007")


def test_dump_requests_are_as_the_kernel_wants_them() -> None:
    without_statistics = bytes.fromhex("0800 1d00 08000000")
    assert dump_links(7) == bytes.fromhex("28000000 1200 0103 07000000 00000000") + bytes(16) + without_statistics
    assert dump_addresses(8) == bytes.fromhex("18000000 1600 0103 08000000 00000000") + bytes(8)
    main_table = bytes.fromhex("00 00 00 00 fe 00 00 01 00000000")
    assert dump_routes(9) == bytes.fromhex("1c000000 1a00 0103 09000000 00000000") + main_table


def test_link_message() -> None:
    expected = Interface(2, "eth0", 0x11043, 1500)
    assert decode(message(16, link())) == [LinkMessage(expected, hardware=1)]
    assert decode(message(17, link())) == [LinkMessage(expected, removed=True, hardware=1)]


def test_bridge_port_messages_and_wireless_scans_say_nothing_about_the_link() -> None:
    leaves_bridge = message(17, link(family=7))
    scan = message(16, link(extra=attribute(11, bytes(8))))
    assert decode(leaves_bridge + scan + message(16, link(b"wlan0\0", index=3))) == [
        LinkMessage(Interface(3, "wlan0", 0x11043, 1500), hardware=1)
    ]


@pytest.mark.parametrize("extra", [b"", attribute(1 << 15 | 26, attribute(10, bytes(40))), attribute(1000, b"x")])
def test_unknown_and_nested_attributes_are_skipped(extra: bytes) -> None:
    assert decode(message(16, link(extra=extra))) == [LinkMessage(Interface(2, "eth0", 0x11043, 1500), hardware=1)]


def test_name_that_is_no_text_is_replaced() -> None:
    [found] = decode(message(16, link(b"\xff\xfe\0")))
    assert isinstance(found, LinkMessage)
    assert found.interface.name == "\ufffd\ufffd"


def test_address_message_takes_the_local_end_of_a_point_to_point_link() -> None:
    expected = InterfaceAddress("192.0.2.1", 24)
    assert decode(message(20, address(PEER, LOCAL))) == [AddressMessage(2, expected)]
    assert decode(message(21, address(PEER, LOCAL))) == [AddressMessage(2, expected, removed=True)]


def test_address_flags_come_from_the_attribute_where_there_is_one() -> None:
    plain = address(attribute(1, V6_RAW), family=10, prefix=64, flags=0x40)
    wide = plain + attribute(8, struct.pack("=I", 0x801))
    assert decode(message(20, plain)) == [AddressMessage(2, InterfaceAddress("2001:db8::7", 64, 0x40))]
    assert decode(message(20, wide)) == [AddressMessage(2, InterfaceAddress("2001:db8::7", 64, 0x01))]


def test_address_of_another_family_is_skipped() -> None:
    assert decode(message(20, address(attribute(1, bytes(2)), family=5))) == []


@pytest.mark.parametrize("error", [0, 1, 16])
def test_end_of_dump_carries_its_sequence_and_error(error: int) -> None:
    body = struct.pack("=i", -error)
    assert decode(message(3, body, sequence=9)) == [DumpDone(9, error)]
    assert decode(message(2, body + bytes(16), sequence=9)) == [DumpDone(9, error)]


def test_interrupted_dump_is_told() -> None:
    assert decode(message(3, bytes(4), flags=0x12)) == [DumpInterrupted(), DumpDone(0, 0)]


@pytest.mark.parametrize(
    "data",
    [
        bytes(15),
        message(16, link())[:-1],
        struct.pack("=IHHII", 15, 16, 0, 0, 0),  # shorter than its header
        message(16, bytes(15)),
        message(20, bytes(7)),
        message(16, link(extra=struct.pack("=HH", 3, 1))),  # attribute shorter than its header
        message(16, link(extra=struct.pack("=HH", 9, 1) + bytes(4))),  # longer than the message
        message(20, address(attribute(1, bytes(5)))),
        message(20, address()),  # no address at all
        message(20, address(LOCAL, prefix=33)),
        message(20, address(LOCAL, family=10)),
        message(24, default_route()[:-1]),
        message(24, default_route(attribute(9, struct.pack("=HBBi", 7, 0, 0, 2)))),
        message(24, default_route(attribute(9, struct.pack("=HBBi", 12, 0, 0, 2)))),
        message(16, link(extra=attribute(18, struct.pack("=HH", 3, 1)))),
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(data)
    assert refused.value.reason == "netlink"


@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)


@given(st.sampled_from([2, 3, 16, 17, 20, 21, 24, 25]), st.binary(max_size=120))
def test_any_body_is_accepted_or_refused(kind: int, body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(message(kind, body))


def test_default_route_of_each_family() -> None:
    assert decode(message(24, default_route(by(3, 600)))) == [RouteMessage((DefaultRoute(3, 4, 600),))]
    assert decode(message(24, default_route(by(3)))) == [RouteMessage((DefaultRoute(3, 4, 0),))]
    gone = decode(message(25, default_route(by(2, 1024), family=10)))
    assert gone == [RouteMessage((DefaultRoute(2, 6, 1024),), removed=True)]


@pytest.mark.parametrize("flags", [1, 16], ids=["dead", "linkdown"])
def test_default_route_that_leads_nowhere_is_marked(flags: int) -> None:
    expected = DefaultRoute(3, 4, 0, is_down=True)
    assert decode(message(24, default_route(by(3), flags=flags))) == [RouteMessage((expected,))]


def test_default_route_with_several_ways_is_told_as_several() -> None:
    ways = attribute(9, hop(2) + hop(3, flags=16))
    expected = (DefaultRoute(2, 4, 7), DefaultRoute(3, 4, 7, is_down=True))
    priority = attribute(6, struct.pack("=I", 7))
    assert decode(message(24, default_route(priority, ways))) == [RouteMessage(expected)]


@pytest.mark.parametrize(
    "other",
    [
        default_route(by(2), to=24),
        default_route(by(2), source=24),
        default_route(by(2), table=255),
        default_route(by(2), attribute(15, struct.pack("=I", 51820)), table=0),
        default_route(by(2), kind=7),  # unreachable
        default_route(by(2), family=28),  # MPLS
    ],
)
def test_other_routes_are_skipped(other: bytes) -> None:
    assert decode(message(24, other)) == []


def test_assemble_joins_links_addresses_and_routes() -> None:
    eth0 = Interface(2, "eth0", 0x11043, 1500)
    one, two = InterfaceAddress("192.0.2.1", 24), InterfaceAddress("2001:db8::7", 64)
    unknown = AddressMessage(9, InterfaceAddress("192.0.2.2", 24))
    routes = RouteMessage((DefaultRoute(2, 4, 100), DefaultRoute(9, 4, 50)))
    messages: list[Message] = [
        LinkMessage(eth0),
        AddressMessage(2, one),
        AddressMessage(2, two),
        unknown,
        routes,
        DumpDone(2, 0),
    ]
    found = assemble(messages, lambda _link: "wired")
    assert found.interfaces == {2: Interface(2, "eth0", 0x11043, 1500, frozenset({one, two}), "wired")}
    assert found.routes == {DefaultRoute(2, 4, 100)}


def stacked(**classes: LinkClass) -> dict[str, LinkClass]:
    """The classes of interfaces that lie on a bond of eth0 and wlan0, and on wwan0; `classes` are the kernel's."""
    kinds = {
        "eth0": ("", 3, 0),
        "wlan0": ("", 3, 0),
        "bond0": ("bond", 0, 0),
        "bond0.7": ("vlan", 0, 3),
        "wwan0": ("", 0, 0),
        "qmap0": ("vlan", 0, 5),
        "br0": ("bridge", 0, 0),
        "veth0": ("veth", 7, 1),  # what it names is its other end
        "vlan9": ("vlan", 0, 9),  # on itself
        "gone.1": ("vlan", 0, 99),
    }
    links = [
        LinkMessage(Interface(index, name, 0x11043), kind=kind, master=master, lower=lower)
        for index, (name, (kind, master, lower)) in enumerate(kinds.items(), 1)
    ]
    found = assemble(links, lambda link: classes.get(link.interface.name, "other"))
    return {each.name: each.link_class for each in found.interfaces.values()}


def test_what_lies_on_other_links_is_of_their_class() -> None:
    assert stacked(eth0="wired", wlan0="wifi", wwan0="cellular") == {
        "eth0": "wired",
        "wlan0": "wifi",
        "bond0": "wifi",
        "bond0.7": "wifi",
        "wwan0": "cellular",
        "qmap0": "cellular",
        "br0": "other",
        "veth0": "other",
        "vlan9": "other",
        "gone.1": "other",
    }
