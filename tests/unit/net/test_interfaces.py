"""Which addresses of a snapshot may be used, and what changed between two."""

from __future__ import annotations

import ipaddress

import attrs
import pytest

from edgeice.net import DEFAULT_EXCLUDED, Interface, InterfaceAddress, InterfacePolicy, Snapshot, assess, delta
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
    found = usable_addresses(snapshot(*interfaces), policy or InterfacePolicy())
    return [(each.ip, each.interface) for each in found]


def why(*interfaces: Interface, policy: InterfacePolicy | None = None) -> dict[str, str]:
    return {each.ip: each.why for each in assess(snapshot(*interfaces), policy or InterfacePolicy()) if each.why}


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
    [
        "docker0",
        "br-1f0c",
        "kube-bridge",
        "gre0",
        "dummy0",
        "nebula1",
        "veth12ab",
        "virbr0",
        "tun0",
        "tap1",
        "wg0",
        "tailscale0",
        "ztabc",
        "cni0",
        "cali1",
    ],
)
def test_virtual_interfaces_are_left_out_with_a_reason_unless_included(name: str) -> None:
    assert usable(interface(name, V4)) == []
    pattern, _, why = str(InterfacePolicy().objection(name)).partition(": ")
    assert DEFAULT_EXCLUDED[pattern] == why
    assert usable(interface(name, V4), policy=InterfacePolicy(include=(name[:2] + "*",))) == [("192.0.2.7", name)]


def test_only_the_named_interfaces_are_used_where_some_are_named_also_virtual_ones() -> None:
    policy = InterfacePolicy(only=("wwan*", "wg0"), exclude=("wwan1",))
    names = ["eth0", "wwan0", "wwan1", "wg0", "wg1"]
    assert [name for name in names if policy.objection(name) is None] == ["wwan0", "wg0"]
    assert policy.objection("eth0") == "is none of those that alone are to be used"


def test_networks_choose_among_addresses() -> None:
    eth = interface("eth0", V4, V6, InterfaceAddress("192.0.2.9", 24), InterfaceAddress("198.51.100.1", 24))
    within = InterfacePolicy(
        networks=(ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")),
        exclude_networks=(ipaddress.ip_network("192.0.2.9/32"),),
    )
    assert usable(eth, policy=within) == [("192.0.2.7", "eth0"), ("2001:db8::7", "eth0")]
    assert why(eth, policy=within) == {
        "192.0.2.9": "192.0.2.9/32: excluded by configuration",
        "198.51.100.1": "is in none of the networks that alone are to be used",
    }


def test_ice_01_a_network_can_ask_for_the_stable_sibling_of_a_privacy_address() -> None:
    private = InterfaceAddress("2001:db8::1234", 64, TEMPORARY)
    policy = InterfacePolicy(networks=(ipaddress.ip_network("2001:db8::7/128"),))
    assert usable(interface("wlan0", V6, private), policy=policy) == [("2001:db8::7", "wlan0")]


def test_everything_that_is_left_out_has_its_reason() -> None:
    private = InterfaceAddress("2001:db8::1234", 64, TEMPORARY)
    found = assess(
        snapshot(
            interface("lo", InterfaceAddress("127.0.0.1", 8), index=1, flags=READY | LOOPBACK),
            interface("eth0", V4, V6, private, InterfaceAddress("fe80::1", 64), index=2),
            interface("wlan0", attrs.evolve(V4, flags=TENTATIVE), attrs.evolve(V6, flags=DEPRECATED), index=3),
            interface("docker0", InterfaceAddress("172.17.0.1", 16), index=4),
            interface("eth1", V4, index=5, flags=UP),
            interface("eth2", V4, index=6, flags=0),
            interface("wwan0", index=7),
            interface("usb0", InterfaceAddress("fec0::1", 64), attrs.evolve(V4, flags=DADFAILED), index=8),
        ),
        InterfacePolicy(),
    )
    assert [(each.interface, each.ip, each.why) for each in found] == [
        ("lo", "", "loopback: reaches only this host"),
        ("eth0", "192.0.2.7", ""),
        ("eth0", "2001:db8::7", "another, privacy address of the same network is used instead"),
        ("eth0", "2001:db8::1234", ""),
        ("eth0", "fe80::1", "link-local: reaches only neighbors of one link"),
        ("wlan0", "192.0.2.7", "tentative: not known yet to be this host's alone"),
        ("wlan0", "2001:db8::7", "deprecated: about to go"),
        ("docker0", "", "docker*: container bridge: reaches only containers of this host"),
        ("eth1", "", "has no carrier"),
        ("eth2", "", "is set down"),
        ("wwan0", "", "has no address"),
        ("usb0", "192.0.2.7", "another host has it"),
        ("usb0", "fec0::1", "site-local: deprecated by RFC 3879"),
    ]


@pytest.mark.parametrize("name", ["eth0", "wlan0", "wwan0", "usb0", "ppp0", "enp3s0", "end0", "br0", "bond0"])
def test_other_interfaces_are_used_unless_excluded(name: str) -> None:
    assert InterfacePolicy().objection(name) is None
    policy = InterfacePolicy(exclude=(name,), include=(name,))
    assert policy.objection(name) == f"{name}: excluded by configuration"


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
