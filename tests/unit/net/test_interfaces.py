"""Which addresses of a snapshot may be used, and what changed between two."""

from __future__ import annotations

import attrs
import pytest

from edgeice.net import DEFAULT_EXCLUDED, Interface, InterfaceAddress, InterfacePolicy, Snapshot, delta
from edgeice.net.interfaces import usable_addresses

UP = 0x1
LOOPBACK = 0x8
RUNNING = 0x40
LOWER_UP = 0x10000
READY = UP | RUNNING | LOWER_UP

TEMPORARY = 0x01
DADFAILED = 0x08
DEPRECATED = 0x20
TENTATIVE = 0x40
PERMANENT = 0x80


def interface(
    name: str, *addresses: InterfaceAddress, index: int = 2, flags: int = READY, mtu: int = 1500
) -> Interface:
    return Interface(index, name, flags, mtu, frozenset(addresses))


def snapshot(*interfaces: Interface) -> Snapshot:
    return Snapshot({each.index: each for each in interfaces})


def usable(*interfaces: Interface, policy: InterfacePolicy | None = None) -> list[tuple[str, str]]:
    return usable_addresses(snapshot(*interfaces), policy or InterfacePolicy())


V4 = InterfaceAddress("192.0.2.7", 24)
V6 = InterfaceAddress("2001:db8::7", 64)


def test_usable_addresses_are_ordered_by_interface_then_ipv4_first() -> None:
    found = usable(interface("wlan0", V6, V4, index=3), interface("eth0", InterfaceAddress("198.51.100.1", 24)))
    assert found == [("198.51.100.1", "eth0"), ("192.0.2.7", "wlan0"), ("2001:db8::7", "wlan0")]


@pytest.mark.parametrize(
    ("ip", "prefix"),
    [
        ("127.0.0.1", 8),
        ("::1", 128),
        ("169.254.3.4", 16),
        ("fe80::1", 64),
        ("224.0.0.1", 4),
        ("0.0.0.0", 0),
        ("::192.0.2.1", 96),
        ("::ffff:192.0.2.1", 96),
        ("fec0::1", 64),
    ],
)
def test_ice_01_addresses_that_are_no_way_to_a_peer_are_left_out(ip: str, prefix: int) -> None:
    assert usable(interface("eth0", V4, InterfaceAddress(ip, prefix))) == [("192.0.2.7", "eth0")]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (READY, True),
        (READY | LOOPBACK, False),
        (RUNNING | LOWER_UP, False),  # set down
        (UP | RUNNING, False),  # no carrier
        (UP | LOWER_UP, False),  # associated, but 802.1X or WPA not done: operstate DORMANT
        (0, False),
    ],
)
def test_interface_must_be_up_and_connected(flags: int, *, expected: bool) -> None:
    assert bool(usable(interface("wlan0", V4, flags=flags))) is expected


@pytest.mark.parametrize("flag", [TENTATIVE, DEPRECATED, DADFAILED, TENTATIVE | DADFAILED])
def test_address_must_be_ready(flag: int) -> None:
    assert usable(interface("eth0", attrs.evolve(V6, flags=PERMANENT | flag))) == []
    assert usable(interface("eth0", attrs.evolve(V6, flags=PERMANENT))) == [("2001:db8::7", "eth0")]


def test_ice_01_privacy_address_replaces_its_stable_sibling_only() -> None:
    private = InterfaceAddress("2001:db8::1234", 64, TEMPORARY)
    other_network = InterfaceAddress("2001:db8:1::7", 64)
    found = usable(interface("wlan0", V6, private, other_network), interface("eth0", V6, index=3))
    assert found == [("2001:db8::1234", "wlan0"), ("2001:db8:1::7", "wlan0"), ("2001:db8::7", "eth0")]


@pytest.mark.parametrize("flag", [TENTATIVE, DEPRECATED])
def test_privacy_address_that_is_not_ready_replaces_nothing(flag: int) -> None:
    private = InterfaceAddress("2001:db8::1234", 64, TEMPORARY | flag)
    assert usable(interface("wlan0", V6, private)) == [("2001:db8::7", "wlan0")]


def test_secondary_ipv4_address_is_no_privacy_address() -> None:
    """IFA_F_SECONDARY and IFA_F_TEMPORARY are the same bit."""
    secondary = InterfaceAddress("192.0.2.8", 24, TEMPORARY)
    assert usable(interface("eth0", V4, secondary)) == [("192.0.2.7", "eth0"), ("192.0.2.8", "eth0")]


@pytest.mark.parametrize(
    "name",
    ["docker0", "br-1f0c", "veth12ab", "virbr0", "tun0", "tap1", "wg0", "tailscale0", "ztabc", "cni0", "cali1"],
)
def test_virtual_interfaces_are_left_out_with_a_reason_unless_included(name: str) -> None:
    assert usable(interface(name, V4)) == []
    assert InterfacePolicy().objection(name) in DEFAULT_EXCLUDED.values()
    assert usable(interface(name, V4), policy=InterfacePolicy(include=(name[:2] + "*",))) == [("192.0.2.7", name)]


@pytest.mark.parametrize("name", ["eth0", "wlan0", "wwan0", "usb0", "ppp0", "enp3s0", "end0", "br0", "bond0"])
def test_other_interfaces_are_used_unless_excluded(name: str) -> None:
    assert InterfacePolicy().objection(name) is None
    policy = InterfacePolicy(exclude=(name,), include=(name,))
    assert policy.objection(name) == "excluded by configuration"


ETH = interface("eth0", V4, V6)


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ([ETH], [ETH], []),
        ([], [ETH], ["eth0 added"]),
        ([ETH], [], ["eth0 removed"]),
        ([ETH], [attrs.evolve(ETH, flags=UP)], ["carrier lost on eth0"]),
        ([attrs.evolve(ETH, flags=UP)], [ETH], ["carrier found on eth0"]),
        ([ETH], [attrs.evolve(ETH, flags=0)], ["eth0 set down"]),
        ([attrs.evolve(ETH, flags=0)], [ETH], ["eth0 set up"]),
        ([ETH], [attrs.evolve(ETH, addresses=frozenset({V4}))], ["address 2001:db8::7 removed from eth0"]),
        ([interface("eth0", V4)], [ETH], ["address 2001:db8::7 added to eth0"]),
        ([ETH], [attrs.evolve(ETH, mtu=1280)], ["MTU of eth0 is 1280 now"]),
        ([ETH], [attrs.evolve(ETH, name="wan")], ["eth0 renamed to wan"]),
        (
            [ETH],
            [interface("eth0", V4, attrs.evolve(V6, flags=DEPRECATED))],
            ["address 2001:db8::7 no longer preferred on eth0"],
        ),
        (
            [interface("eth0", V4, attrs.evolve(V6, flags=TENTATIVE))],
            [ETH],
            ["address 2001:db8::7 added to eth0"],
        ),
        ([interface("eth0", V4)], [interface("eth0", V4, attrs.evolve(V6, flags=TENTATIVE))], []),
    ],
)
def test_delta_says_what_changed(old: list[Interface], new: list[Interface], reasons: list[str]) -> None:
    assert delta(snapshot(*old), snapshot(*new)) == reasons


def test_delta_names_losses_first() -> None:
    wlan = interface("wlan0", index=3)
    renumbered = interface("eth0", InterfaceAddress("192.0.2.9", 24))
    assert delta(snapshot(interface("eth0", V4), wlan), snapshot(renumbered)) == [
        "address 192.0.2.7 removed from eth0",
        "wlan0 removed",
        "address 192.0.2.9 added to eth0",
    ]


def test_flags_that_do_not_matter_are_no_change() -> None:
    promiscuous = attrs.evolve(ETH, flags=READY | 0x100)
    assert promiscuous == ETH
    assert attrs.evolve(V6, flags=PERMANENT) == V6
