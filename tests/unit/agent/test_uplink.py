"""What kind of link the device's traffic takes, from what the kernel shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.agent.uplink import uplink_kind

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def route(interface: str, metric: int = 0, *, to: str = "00000000", mask: str = "00000000", flags: str = "0003") -> str:
    return f"{interface}\t{to}\t0100A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def route_6(
    interface: str, metric: str = "00000400", *, to: str = "0" * 32, length: str = "00", flags: str = "3"
) -> str:
    nowhere = f"{'0' * 32} 00 {'0' * 32}"
    return f"{to} {length} {nowhere} {metric} 00000001 00000000 {flags.zfill(8)} {interface:>8}\n"


def kernel(root: Path, interfaces: dict[str, str], *, routes: str = "", routes_6: str | None = "") -> Path:
    """What a kernel with these interfaces, each with one thing in its folder, and these routes shows."""
    net = root / "proc" / "net"
    net.mkdir(parents=True)
    (net / "route").write_text(HEAD + routes)
    if routes_6 is not None:
        (net / "ipv6_route").write_text(routes_6)
    for name, thing in interfaces.items():
        folder = root / "sys" / "class" / "net" / name
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"{thing if '=' in thing else ''}\nINTERFACE={name}\nIFINDEX=2\n".lstrip())
        if thing and "=" not in thing:
            (folder / thing).mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "thing", "kind"),
    [
        ("eth0", "device", "wired"),
        ("wlan0", "phy80211", "wifi"),
        ("wlan0", "wireless", "wifi"),
        ("wwan0", "device", "cellular"),
        ("ppp0", "", "cellular"),
        ("usb0", "DEVTYPE=wwan", "cellular"),
        ("wg0", "DEVTYPE=wireguard", "other"),
        ("br0", "bridge", "other"),
    ],
)
def test_kinds(tmp_path: Path, name: str, thing: str, kind: str) -> None:
    assert uplink_kind(kernel(tmp_path, {name: thing}, routes=route(name))) == kind


ETHERNET_AND_WIFI = {"eth0": "device", "wlan0": "phy80211"}


def test_the_least_metric_decides(tmp_path: Path) -> None:
    routes = route("eth0", 600) + route("wlan0", 100)
    assert uplink_kind(kernel(tmp_path, ETHERNET_AND_WIFI, routes=routes)) == "wifi"


@pytest.mark.parametrize(
    "other",
    [
        route("wlan0", to="0000A8C0", mask="00FFFFFF"),
        route("wlan0", mask="000000FE"),
        route("wlan0", flags="0002"),
        route("wlan0", flags="0201"),
    ],
    ids=["network", "half", "down", "reject"],
)
def test_only_usable_default_routes_count(tmp_path: Path, other: str) -> None:
    assert uplink_kind(kernel(tmp_path, ETHERNET_AND_WIFI, routes=other + route("eth0", 900))) == "wired"


def test_where_only_ipv6_leads_out(tmp_path: Path) -> None:
    routes = (
        route_6("lo", "ffffffff", flags="00200200")
        + route_6("wlan0", "00000100", to=f"fe80{'0' * 28}", length="40", flags="1")
        + route_6("wlan0", "00000400")
        + route_6("eth0", "00000064")
    )
    assert uplink_kind(kernel(tmp_path, ETHERNET_AND_WIFI, routes_6=routes)) == "wired"


def test_no_default_route(tmp_path: Path) -> None:
    assert uplink_kind(kernel(tmp_path, ETHERNET_AND_WIFI, routes_6=None)) == "other"


def test_no_such_files(tmp_path: Path) -> None:
    assert uplink_kind(tmp_path) == "other"
