"""Default routes, what is held back, and how their changes are told."""

from __future__ import annotations

from typing import Literal

import attrs
import pytest

from edgeice.net import (
    DefaultRoute,
    Held,
    Interface,
    InterfaceAddress,
    InterfacePolicy,
    LinkPolicy,
    Snapshot,
    UsableAddress,
    assess,
    delta,
    usable_addresses,
)

UP = 0x1
READY = UP | 0x40 | 0x10000

V4 = InterfaceAddress("192.0.2.7", 24)
ETH = Interface(2, "eth0", READY, 1500, frozenset({V4}), "wired")
WWAN = Interface(3, "wwan0", READY, 1500, frozenset({InterfaceAddress("198.51.100.7", 24)}), "cellular")
BY_ETH, BY_WWAN = DefaultRoute(2, 4, 100), DefaultRoute(3, 4, 700)
FIRM, LOOSE = Held("8 s: why", is_firm=True), Held("8 s: why")


def snapshot(*interfaces: Interface, routes: tuple[DefaultRoute, ...] = (), **held: Held) -> Snapshot:
    """`held` by interface name, or by the name, two low lines and the IP with low lines."""
    keys = {(name.partition("__")[0], name.partition("__")[2].replace("_", ".")): each for name, each in held.items()}
    return Snapshot({each.index: each for each in interfaces}, frozenset(routes), keys)


def without_carrier(interface: Interface) -> Interface:
    return attrs.evolve(interface, flags=UP)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (snapshot(ETH, WWAN, routes=(BY_ETH, BY_WWAN)), "eth0"),
        (snapshot(ETH, WWAN, routes=(BY_WWAN,)), "wwan0"),
        (snapshot(ETH, WWAN), None),
        (snapshot(ETH, WWAN, routes=(attrs.evolve(BY_ETH, family=6),)), None),
        # The kernel keeps such routes in its table, and uses them.
        (snapshot(without_carrier(ETH), WWAN, routes=(BY_ETH, BY_WWAN)), "wwan0"),
        (snapshot(ETH, WWAN, routes=(attrs.evolve(BY_ETH, is_down=True), BY_WWAN)), "wwan0"),
        (snapshot(ETH, WWAN, routes=(BY_ETH, BY_WWAN), eth0=FIRM), "wwan0"),
        (snapshot(ETH, WWAN, routes=(BY_ETH, BY_WWAN), eth0=LOOSE), "eth0"),
    ],
)
def test_the_default_route_is_that_with_the_least_metric_that_works(found: Snapshot, expected: str | None) -> None:
    best = found.default_route(4)
    assert (best and best.name) == expected


@pytest.mark.parametrize(("family", "which"), [(4, ""), (6, "IPv6 ")])
def test_where_the_default_route_leads_is_told(family: Literal[4, 6], which: str) -> None:
    by_eth, by_wwan = attrs.evolve(BY_ETH, family=family), attrs.evolve(BY_WWAN, family=family)
    both, one = snapshot(ETH, WWAN, routes=(by_eth, by_wwan)), snapshot(ETH, WWAN, routes=(by_wwan,))
    none = snapshot(ETH, WWAN)
    assert delta(both, one) == [f"{which}default route moved from eth0 to wwan0"]
    assert delta(one, both) == [f"{which}default route moved from wwan0 to eth0"]
    assert delta(one, none) == [f"{which}default route lost from wwan0"]
    assert delta(none, one) == [f"{which}default route found by wwan0"]
    assert delta(both, snapshot(ETH, WWAN, routes=(by_eth,))) == []


def test_a_loss_a_move_and_a_gain_are_told_in_this_order() -> None:
    wlan = Interface(4, "wlan0", READY)
    old = snapshot(ETH, WWAN, routes=(BY_ETH, BY_WWAN))
    new = snapshot(without_carrier(ETH), WWAN, wlan, routes=(BY_ETH, BY_WWAN))
    assert delta(old, new) == ["carrier lost on eth0", "default route moved from eth0 to wwan0", "wlan0 added"]


def test_a_device_that_took_the_name_of_another_is_told_as_such() -> None:
    assert delta(snapshot(ETH), snapshot(attrs.evolve(ETH, index=9))) == ["eth0 removed", "eth0 added"]


def test_a_renamed_device_leads_as_before() -> None:
    lan = attrs.evolve(ETH, name="lan0")
    assert delta(snapshot(ETH, routes=(BY_ETH,)), snapshot(lan, routes=(BY_ETH,))) == ["eth0 renamed to lan0"]


def test_what_is_held_back_is_told_with_its_reason_and_then_left_alone() -> None:
    away, there = snapshot(attrs.evolve(ETH, addresses=frozenset())), snapshot(ETH)
    held_away = attrs.evolve(away, held={("eth0", ""): FIRM})
    held_there = attrs.evolve(there, held={("eth0", ""): FIRM})
    assert delta(there, held_away) == ["address 192.0.2.7 removed from eth0", "eth0 held back for 8 s: why"]
    assert delta(there, held_there) == ["eth0 held back for 8 s: why"]
    assert delta(held_away, held_there) == delta(held_there, held_away) == []
    assert delta(held_there, attrs.evolve(there, held={("eth0", ""): LOOSE})) == []
    assert delta(held_there, there) == ["eth0 no longer held back"]


def test_an_address_that_is_held_back_is_told_apart_from_its_interface() -> None:
    key = ("eth0", "192.0.2.7")
    away = Snapshot({2: attrs.evolve(ETH, mtu=1280, addresses=frozenset())}, held={key: FIRM})
    there = Snapshot({2: ETH}, held={key: FIRM})
    assert delta(snapshot(ETH), there) == ["address 192.0.2.7 on eth0 held back for 8 s: why"]
    assert delta(there, away) == ["MTU of eth0 is 1280 now"]
    assert delta(there, snapshot(ETH)) == ["address 192.0.2.7 on eth0 no longer held back"]


def test_what_is_in_use_although_it_went_often_is_told() -> None:
    """Where there is nothing else."""
    old, new = snapshot(ETH, routes=(BY_ETH,), eth0=LOOSE), snapshot(without_carrier(ETH), eth0=FIRM)
    assert delta(old, new) == ["carrier lost on eth0", "default route lost from eth0"]


def test_what_is_held_back_is_left_out_as_long_as_there_is_anything_else() -> None:
    def used(found: Snapshot) -> list[str]:
        return [each.interface for each in assess(found, InterfacePolicy()) if not each.why]

    def why(found: Snapshot) -> list[tuple[str, str]]:
        return [(each.ip, each.why) for each in assess(found, InterfacePolicy()) if each.why]

    assert used(snapshot(ETH, WWAN, eth0=LOOSE)) == ["wwan0"]
    assert why(snapshot(ETH, WWAN, eth0=LOOSE)) == [("", "held back for 8 s: why")]
    assert used(snapshot(ETH, eth0=LOOSE)) == ["eth0"]
    assert used(snapshot(ETH, eth0=FIRM)) == []
    assert used(snapshot(ETH, without_carrier(WWAN), eth0=LOOSE)) == ["eth0"]
    assert used(snapshot(ETH, WWAN, eth0=LOOSE, wwan0=FIRM)) == ["eth0"]
    address = snapshot(ETH, WWAN, eth0__192_0_2_7=LOOSE)
    assert used(address) == ["wwan0"]
    assert why(address) == [("192.0.2.7", "held back for 8 s: why")]
    assert used(snapshot(ETH, eth0__192_0_2_7=LOOSE)) == ["eth0"]


def test_usable_addresses_have_the_costs_of_their_links() -> None:
    policy = InterfacePolicy(links=LinkPolicy(metered=("eth*",), unmetered=("wwan*",)))
    found = snapshot(ETH, WWAN)
    assert usable_addresses(found, InterfacePolicy()) == [
        UsableAddress("192.0.2.7", "eth0", 0),
        UsableAddress("198.51.100.7", "wwan0", 900),
    ]
    assert [each.cost for each in usable_addresses(found, policy)] == [900, 100]
