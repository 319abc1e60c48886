"""What kind of link an interface is, from what the kernel knows of it, and what sending on it costs.

Names say little: udev renames everything, and modems pose as Ethernet.  So the kernel's own facts count, in this
order: its type of the device (`DEVTYPE`), a radio's presence, the driver, the kind of hardware.  Three drivers are
ambiguous, for the same USB class is spoken by modems, tethered phones, Ethernet adapters and other computers on a
cable: `cdc_ether`, `cdc_ncm` and `rndis_host`.  There the maker decides, or what else the device has: a modem's serial
ports, or RNDIS as its wireless class, which phones speak.  All others are taken for a cable.  PPP is ambiguous too:
a modem's more often than a DSL line's.  Where any of that is wrong, the configuration's patterns say what is right.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

__all__ = ["METERED_FROM", "Link", "LinkClass", "LinkPolicy", "SystemFacts", "classify", "read_facts"]

_Key = TypeVar("_Key")

LinkClass: TypeAlias = Literal["wired", "wifi", "cellular", "other"]

#: What a link of a class costs as long as nobody says more.
_COSTS: Final[dict[LinkClass, int]] = {"wired": 0, "wifi": 10, "other": 50, "cellular": 900}
#: From this cost on, each byte is paid for.
METERED_FROM: Final = 500
_METERED: Final = 900
_UNMETERED_CELLULAR: Final = 100

# <linux/if_arp.h>: of hardware that is of one class, whatever drives it.
_HARDWARE: Final[dict[int, LinkClass]] = {
    32: "wired",  # InfiniBand
    512: "cellular",  # PPP
    519: "cellular",  # IP without a frame, of Qualcomm's modems
    801: "wifi",
    802: "wifi",
    803: "wifi",
}
#: What drives nothing but modems, and iPhones (ipheth), whose tethering is their mobile network.
_MODEM_DRIVERS: Final = frozenset({
    "cdc_mbim", "GobiNet", "hso", "huawei_cdc_ncm", "iosm", "ipheth", "lg-vl600", "mhi_net", "mhi_wwan_mbim",
    "mtk_t7xx", "qmi_wwan", "qmi_wwan_f", "qmi_wwan_q", "qmi_wwan_s", "rmnet_usb", "sierra_net",
})  # fmt: skip
_AMBIGUOUS_DRIVERS: Final = frozenset({"cdc_ether", "cdc_ncm", "rndis_host"})
#: Serial ports that only modems have.  Not cdc_acm: microcontrollers and other computers have that one too.
_MODEM_PORTS: Final = frozenset({"option", "qcserial", "sierra", "cdc-wdm"})
#: USB's numbers of those who make modems, and phones, but no Ethernet adapters.
_MODEM_MAKERS: Final = frozenset({
    "04e8", "05c6", "0af0", "0bdb", "0e8d", "0fce", "1004", "1199", "12d1", "1410", "1508", "1546", "1782", "18d1",
    "19d2", "1bbb", "1bc7", "1e0e", "1e2d", "2020", "22b8", "22d9", "2717", "2a70", "2c7c", "2cb7", "2dee",
})  # fmt: skip
#: bInterfaceClass, bInterfaceSubClass, bInterfaceProtocol of RNDIS over a wireless controller.
_WIRELESS_RNDIS: Final = ("e0", "01", "03")


@attrs.frozen(kw_only=True)
class SystemFacts:
    """What sysfs tells of an interface, empty or False where it tells nothing."""

    #: `DEVTYPE` of its uevent.
    devtype: str = ""
    has_radio: bool = False
    #: Whether there is a device behind it; without, it is made of software.
    has_device: bool = False
    driver: str = ""
    #: USB: the maker's number, class, subclass and protocol of the interface, drivers of the other interfaces.
    vendor: str = ""
    usb_class: tuple[str, str, str] = ("", "", "")
    beside: frozenset[str] = frozenset()


def classify(hardware: int, facts: SystemFacts) -> LinkClass:
    """The class of an interface, from its ARPHRD number and what sysfs tells."""
    if facts.devtype == "wwan" or facts.driver in _MODEM_DRIVERS:
        return "cellular"
    if facts.has_radio or facts.devtype == "wlan":
        return "wifi"
    if hardware in _HARDWARE:
        return _HARDWARE[hardware]
    if facts.driver in _AMBIGUOUS_DRIVERS and _is_modem(facts):
        return "cellular"
    return "wired" if facts.has_device else "other"


def _is_modem(facts: SystemFacts) -> bool:
    is_wireless_rndis = facts.driver == "rndis_host" and facts.usb_class == _WIRELESS_RNDIS
    return facts.vendor in _MODEM_MAKERS or is_wireless_rndis or not _MODEM_PORTS.isdisjoint(facts.beside)


def read_facts(name: str, index: int, sys: Path = Path("/sys")) -> SystemFacts:
    """Read a few small files of sysfs; empty facts where it shows no such interface, or another network namespace's.

    Args:
        name: The interface.
        index: Its index, by which it is known from another one of that name.
        sys: Where sysfs is.
    """
    folder = sys / "class" / "net" / name
    if not name or "/" in name or name in {".", ".."} or _read(folder / "ifindex") != str(index):
        return SystemFacts()
    kinds = (line.removeprefix("DEVTYPE=") for line in _read(folder / "uevent").splitlines() if "DEVTYPE=" in line)
    device = folder / "device"
    has_radio = (folder / "phy80211").exists() or (folder / "wireless").exists()
    facts = SystemFacts(
        devtype=next(kinds, ""), has_radio=has_radio, has_device=device.exists(), driver=_driver(device)
    )
    return _with_usb(facts, device) if facts.driver in _AMBIGUOUS_DRIVERS else facts


def _with_usb(facts: SystemFacts, device: Path) -> SystemFacts:
    function = Path(os.path.realpath(device))
    try:
        siblings = [each for each in function.parent.iterdir() if ":" in each.name and each != function]
    except OSError:
        siblings = []
    return attrs.evolve(
        facts,
        vendor=_read(function.parent / "idVendor"),
        usb_class=(
            _read(function / "bInterfaceClass"),
            _read(function / "bInterfaceSubClass"),
            _read(function / "bInterfaceProtocol"),
        ),
        beside=frozenset(map(_driver, siblings)),
    )


def _driver(device: Path) -> str:
    try:
        return os.path.basename(os.readlink(device / "driver"))  # noqa: PTH115, PTH119  # one call, and no object for it
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


@attrs.frozen
class Link:
    """How sessions see an interface's link."""

    kind: LinkClass
    #: 0 to 999; see `Base.cost`.
    cost: int

    @property
    def is_metered(self) -> bool:
        """Whether each byte is paid for."""
        return self.cost >= METERED_FROM


@attrs.frozen(kw_only=True)
class LinkPolicy:
    """What the configuration says of links, by patterns of interface names as of the shell.

    A name itself goes before every pattern; among patterns, the first field of those here goes first.
    """

    wired: tuple[str, ...] = ()
    wifi: tuple[str, ...] = ()
    cellular: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    metered: tuple[str, ...] = ()
    unmetered: tuple[str, ...] = ()

    def link(self, name: str, kind: LinkClass) -> Link:
        """The link of an interface that the kernel says is of class `kind`."""
        classes: dict[LinkClass, tuple[str, ...]] = {
            "wired": self.wired, "wifi": self.wifi, "cellular": self.cellular, "other": self.other,
        }  # fmt: skip
        kind = _first(name, classes) or kind
        said = _first(name, {"metered": self.metered, "unmetered": self.unmetered})
        cost = _COSTS[kind]
        if said == "metered":
            cost = max(cost, _METERED)
        elif said == "unmetered" and kind == "cellular":
            cost = _UNMETERED_CELLULAR
        return Link(kind, cost)


def _first(name: str, patterns: Mapping[_Key, Iterable[str]]) -> _Key | None:
    """Whose pattern an interface's name matches."""
    exact = (key for key, each in patterns.items() if name in each)
    return next(exact, None) or next(
        (key for key, each in patterns.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in each)), None
    )
