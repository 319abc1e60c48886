"""Bytes by interface."""

from __future__ import annotations

from edgeice.net.traffic import TrafficTable


def test_an_interface_that_comes_back_counts_on() -> None:
    table = TrafficTable()
    table.of("wlan0").sent += 5
    table.of("wlan0").received += 7
    table.of("wlan0").sent += 1
    table.of("eth0")
    assert table.snapshot() == {"wlan0": (6, 7), "eth0": (0, 0)}


def test_the_interface_that_was_used_longest_ago_is_forgotten_at_the_limit() -> None:
    table = TrafficTable()
    for number in range(64):
        table.of(f"usb{number}").sent += 1
    table.of("usb0")
    table.of("usb64")
    found = table.snapshot()
    assert len(found) == 64
    assert "usb1" not in found
    assert found["usb0"] == (1, 0)
