"""Which way a connection to the broker takes, by what is known of the own addresses."""

from __future__ import annotations

import pytest

from edgeice.signaling.ways import MAX_PINNED, Footing, Network, Usable, Way

BROKER, BROKER6 = "203.0.113.1", "2001:db8::1"
WLAN = Usable("192.168.1.2", "wlan0", 10)
WWAN = Usable("10.0.0.7", "wwan0", 900)
ETH = Usable("192.168.2.2", "eth0", 0)
WWAN6 = Usable("2001:db8:7::7", "wwan0", 900)


def network(*usable: Usable) -> Network:
    made = Network()
    made.update(usable)
    return made


def kernel(source: str, address: str = BROKER) -> Way:
    return Way(address, source=source)


def pinned(interface: str, address: str = BROKER) -> Way:
    return Way(address, interface=interface)


@pytest.mark.parametrize(
    ("usable", "source", "expected"),
    [
        # The kernel's route is on a usable address: its interface is first, others follow by cost.
        ((WWAN, WLAN, ETH), WLAN.ip, [pinned("wlan0"), pinned("eth0"), pinned("wwan0"), kernel(WLAN.ip)]),
        ((WWAN,), WWAN.ip, [pinned("wwan0"), kernel(WWAN.ip)]),
        # It is not: a carrier was lost, and the route of it still wins.
        ((WWAN, ETH), WLAN.ip, [pinned("eth0"), kernel(WLAN.ip), pinned("wwan0")]),
        ((WWAN,), WLAN.ip, [pinned("wwan0"), kernel(WLAN.ip)]),
        # There is no route at all.
        ((WWAN,), None, [pinned("wwan0")]),
        ((), None, []),
        # Nothing is usable: the kernel may know better.
        ((), WLAN.ip, [kernel(WLAN.ip)]),
        # Another family's addresses lead nowhere.
        ((WWAN6,), WLAN.ip, [kernel(WLAN.ip)]),
        # Two addresses of an interface are one way.
        ((WWAN, Usable("10.0.0.8", "wwan0", 900)), WLAN.ip, [pinned("wwan0"), kernel(WLAN.ip)]),
        # A broker of this host.
        ((WLAN, WWAN), "127.0.0.1", [kernel("127.0.0.1")]),
        ((WLAN, WWAN), BROKER, [kernel(BROKER)]),
    ],
)
def test_the_order_of_ways(usable: tuple[Usable, ...], source: str | None, expected: list[Way]) -> None:
    assert network(*usable).ways(BROKER, source) == expected


def test_the_ways_of_version_6() -> None:
    made = network(WLAN, WWAN, WWAN6)
    assert made.ways(BROKER6, None) == [pinned("wwan0", BROKER6)]
    assert made.ways("fe80::1%wwan0", "fe80::2") == [kernel("fe80::2", "fe80::1%wwan0")]


def test_without_a_watcher_the_kernel_chooses() -> None:
    assert Network().ways(BROKER, WLAN.ip) == [kernel(WLAN.ip)]
    assert Network().ways(BROKER, None) == []


def test_the_number_of_interfaces_is_bounded() -> None:
    usable = [Usable(f"10.0.{number}.1", f"eth{number}") for number in range(20)]
    assert len(network(*usable).ways(BROKER, None)) == MAX_PINNED


def test_where_the_broker_fell_silent_is_tried_last_until_it_is_reached_or_the_network_changes() -> None:
    made = network(WLAN, WWAN)
    usual = [pinned("wlan0"), pinned("wwan0"), kernel(WLAN.ip)]
    others_first = [pinned("wwan0"), pinned("wlan0"), kernel(WLAN.ip)]
    assert made.ways(BROKER, WLAN.ip) == usual
    made.fell_silent(WLAN.ip)
    assert made.ways(BROKER, WLAN.ip) == others_first
    made.reached()
    assert made.ways(BROKER, WLAN.ip) == usual
    made.fell_silent(WWAN.ip)
    assert made.ways(BROKER, WLAN.ip) == [pinned("wlan0"), kernel(WLAN.ip), pinned("wwan0")]
    made.fell_silent(WLAN.ip)
    assert not made.update([WLAN, WWAN])
    assert made.ways(BROKER, WLAN.ip) == others_first
    assert made.update([WLAN, WWAN, ETH])
    assert made.ways(BROKER, WLAN.ip) == [pinned("wlan0"), pinned("eth0"), pinned("wwan0"), kernel(WLAN.ip)]


class Kernel:
    """Chooses a source."""

    def __init__(self, source: str | None) -> None:
        self.source = source

    def __call__(self) -> str | None:
        return self.source


def footing(made: Network, way: Way, local: str) -> Footing:
    return Footing(made, way, local, Kernel(way.source or None))


def test_a_connection_loses_its_address_or_its_interface() -> None:
    made = network(WLAN, WWAN)
    by_wlan = footing(made, pinned("wlan0"), WLAN.ip)
    by_wwan = footing(made, pinned("wwan0"), WWAN.ip)
    loopback = footing(made, kernel("127.0.0.1"), "127.0.0.1")
    made.update([WWAN, Usable("192.168.1.3", "wlan0", 10)])
    assert [each.is_lost() for each in (by_wlan, by_wwan, loopback)] == [True, False, False]
    made.update([WLAN, Usable("10.0.0.9", "wwan0", 900)])
    assert [each.is_lost() for each in (by_wlan, by_wwan, loopback)] == [False, True, False]
    # The address is there, but on another interface.
    made.update([Usable(WLAN.ip, "br0"), WWAN])
    assert [each.is_lost() for each in (by_wlan, by_wwan, loopback)] == [True, False, False]
    made.update([])
    assert [each.is_lost() for each in (by_wlan, by_wwan, loopback)] == [True, True, False]


def test_an_address_that_is_none_of_the_usable_ones_goes_with_the_interface_that_it_is_pinned_to() -> None:
    made = network(WWAN, WWAN6)
    unlisted = footing(made, pinned("wwan0", BROKER6), "2001:db8:7::8")
    assert not unlisted.is_lost()
    made.update([WWAN])
    assert unlisted.is_lost()


def test_a_connection_that_was_there_before_anybody_watched() -> None:
    made = Network()
    early, foreign = footing(made, kernel(WLAN.ip), WLAN.ip), footing(made, kernel("10.8.0.2"), "10.8.0.2")
    assert not early.is_lost()
    made.update([WLAN, WWAN])
    assert (early.is_lost(), early.interface, foreign.interface) == (False, "wlan0", "")
    made.update([WWAN])
    assert early.is_lost()
    assert not foreign.is_lost()


@pytest.mark.parametrize(
    ("source", "is_lost"),
    [
        (WWAN.ip, False),
        # A better link appeared, or one without carrier wins: packets with our address leave by it.
        (ETH.ip, True),
        ("192.168.1.99", True),
        (None, True),
        # Another address of the same interface is chosen for what begins now, as IPv6's change over time.
        ("10.0.0.8", False),
    ],
)
def test_a_connection_that_is_not_pinned_is_lost_when_the_kernel_sends_by_another_interface(
    source: str | None, is_lost: bool
) -> None:
    made, choice = network(WWAN, ETH, Usable("10.0.0.8", "wwan0", 900)), Kernel(WWAN.ip)
    loose = Footing(made, kernel(WWAN.ip), WWAN.ip, choice)
    held = Footing(made, pinned("wwan0"), WWAN.ip, choice)
    choice.source = source
    assert (loose.is_lost(), held.is_lost()) == (is_lost, False)
