"""What kind of link an interface is, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.net import Link, LinkClass, LinkPolicy
from edgeice.net.links import SystemFacts, classify, read_facts

ETHERNET = 1
#: IP without a frame: tunnels, and some modems.
NONE = 65534


@pytest.mark.parametrize(
    ("hardware", "facts", "expected"),
    [
        (ETHERNET, SystemFacts(has_device=True, driver="bcmgenet"), "wired"),
        (ETHERNET, SystemFacts(has_device=True, driver="r8152"), "wired"),
        (ETHERNET, SystemFacts(devtype="dsa", has_device=True), "wired"),
        (32, SystemFacts(), "wired"),
        (ETHERNET, SystemFacts(devtype="wlan", has_radio=True, has_device=True, driver="brcmfmac"), "wifi"),
        (ETHERNET, SystemFacts(has_radio=True, has_device=True), "wifi"),
        (ETHERNET, SystemFacts(devtype="wlan", has_device=True), "wifi"),
        (803, SystemFacts(has_device=True), "wifi"),
        (ETHERNET, SystemFacts(devtype="wwan", has_device=True, driver="cdc_ether"), "cellular"),
        (NONE, SystemFacts(devtype="wwan", has_device=True, driver="qmi_wwan"), "cellular"),
        (NONE, SystemFacts(devtype="wwan"), "cellular"),  # of the kernel's WWAN framework
        (512, SystemFacts(), "cellular"),
        (519, SystemFacts(), "cellular"),
        (ETHERNET, SystemFacts(has_device=True, driver="cdc_mbim"), "cellular"),
        (ETHERNET, SystemFacts(has_device=True, driver="huawei_cdc_ncm"), "cellular"),
        (ETHERNET, SystemFacts(has_device=True, driver="ipheth"), "cellular"),
        (ETHERNET, SystemFacts(), "other"),  # bridge, veth
        (NONE, SystemFacts(devtype="wireguard"), "other"),
        (NONE, SystemFacts(), "other"),  # tunnel
    ],
)
def test_the_kernels_facts_tell_the_class(hardware: int, facts: SystemFacts, expected: LinkClass) -> None:
    assert classify(hardware, facts) == expected


@pytest.mark.parametrize("driver", ["cdc_ether", "cdc_ncm", "rndis_host"])
def test_what_modems_and_adapters_have_in_common_is_told_apart_by_the_rest(driver: str) -> None:
    def kind(vendor: str = "0b95", **more: frozenset[str] | tuple[str, str, str]) -> LinkClass:
        facts = SystemFacts(has_device=True, driver=driver, vendor=vendor, **more)  # type: ignore[arg-type]
        return classify(ETHERNET, facts)

    assert kind() == "wired"  # an adapter of ASIX
    assert kind(vendor="12d1") == "cellular"  # Huawei's HiLink modems
    assert kind(vendor="2c7c") == "cellular"  # Quectel
    assert kind(beside=frozenset({"option"})) == "cellular"
    assert kind(beside=frozenset({"cdc_acm"})) == "wired"  # a microcontroller, or another computer
    tethering = ("e0", "01", "03")
    assert kind(usb_class=tethering) == ("cellular" if driver == "rndis_host" else "wired")


def usb(sys: Path, name: str, driver: str, *, vendor: str, beside: str) -> None:
    """A USB device with a network interface and another function, as sysfs shows it."""
    device = sys / "devices" / "usb1" / "1-1"
    for number, each in enumerate((driver, beside)):
        function = device / f"1-1:1.{number}"
        function.mkdir(parents=True)
        (sys / "drivers" / each).mkdir(parents=True)
        (function / "driver").symlink_to(sys / "drivers" / each)
    (device / "idVendor").write_text(f"{vendor}\n")
    (device / "power").mkdir()
    for part, value in (("Class", "02"), ("SubClass", "06"), ("Protocol", "00")):
        (device / "1-1:1.0" / f"bInterface{part}").write_text(f"{value}\n")
    folder = sys / "class" / "net" / name
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(device / "1-1:1.0")
    (folder / "ifindex").write_text("5\n")
    (folder / "uevent").write_text(f"INTERFACE={name}\nIFINDEX=5\n")


def test_facts_are_read_from_sysfs(tmp_path: Path) -> None:
    usb(tmp_path, "usb0", "cdc_ether", vendor="1e0e", beside="option")
    expected = SystemFacts(
        has_device=True,
        driver="cdc_ether",
        vendor="1e0e",
        usb_class=("02", "06", "00"),
        beside=frozenset({"option"}),
    )
    assert read_facts("usb0", 5, tmp_path) == expected


@pytest.mark.parametrize("radio", ["phy80211", "wireless"])
def test_facts_of_a_radio(tmp_path: Path, radio: str) -> None:
    folder = tmp_path / "class" / "net" / "wlan0"
    (folder / radio).mkdir(parents=True)
    (folder / "ifindex").write_text("3\n")
    (folder / "uevent").write_text("DEVTYPE=wlan\nINTERFACE=wlan0\n")
    assert read_facts("wlan0", 3, tmp_path) == SystemFacts(devtype="wlan", has_radio=True)


@pytest.mark.parametrize(("name", "index"), [("usb0", 4), ("usb1", 5), ("", 5), ("..", 5), ("../net/usb0", 5)])
def test_an_interface_that_sysfs_does_not_show_has_no_facts(tmp_path: Path, name: str, index: int) -> None:
    """Sysfs belongs to the network namespace that it was mounted in, where another interface may have the name."""
    usb(tmp_path, "usb0", "cdc_ether", vendor="1e0e", beside="option")
    assert read_facts(name, index, tmp_path) == SystemFacts()


@pytest.mark.parametrize(
    ("kind", "cost", "metered"),
    [("wired", 0, False), ("wifi", 10, False), ("other", 50, False), ("cellular", 900, True)],
)
def test_a_link_costs_what_its_class_does(kind: LinkClass, cost: int, *, metered: bool) -> None:
    link = LinkPolicy().link("eth0", kind)
    assert (link, link.is_metered) == (Link(kind, cost), metered)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LinkPolicy(wired=("usb*",)), Link("wired", 0)),
        (LinkPolicy(wifi=("usb?",)), Link("wifi", 10)),
        (LinkPolicy(other=("usb0",)), Link("other", 50)),
        (LinkPolicy(cellular=("usb0",)), Link("cellular", 900)),
        (LinkPolicy(cellular=("usb0",), unmetered=("usb*",)), Link("cellular", 100)),
        (LinkPolicy(cellular=("usb0",), metered=("usb*",)), Link("cellular", 900)),
        (LinkPolicy(wifi=("usb0",), metered=("usb*",)), Link("wifi", 900)),
        (LinkPolicy(wifi=("usb0",), unmetered=("usb*",)), Link("wifi", 10)),
        (LinkPolicy(wifi=("eth0",), metered=("eth*",)), Link("wired", 0)),
        # A name goes before patterns, and among patterns the order is that of the fields.
        (LinkPolicy(wired=("*",), cellular=("usb0",)), Link("cellular", 900)),
        (LinkPolicy(wifi=("*",), cellular=("usb*",)), Link("wifi", 10)),
        (LinkPolicy(metered=("*",), unmetered=("usb0",)), Link("wired", 0)),
        (LinkPolicy(metered=("usb0",), unmetered=("*",)), Link("wired", 900)),
    ],
)
def test_the_configuration_says_what_the_kernel_does_not_know(policy: LinkPolicy, expected: Link) -> None:
    assert policy.link("usb0", "wired") == expected
