"""What carries the device's traffic: the kind of the interface with the default route (wire contract §5)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["uplink_kind"]

#: Route flags of linux/route.h: usable, and one that refuses.
_RTF_UP: Final = 0x0001
_RTF_REJECT: Final = 0x0200


def uplink_kind(root: Path = Path("/")) -> str:
    """`wired`, `wifi`, `cellular`, or `other`: a tunnel, a bridge, a container's interface, or no default route.

    Reads a few small files of the kernel's; what it cannot tell is `other`.

    Args:
        root: Where `proc` and `sys` are.
    """
    interface = _default_interface(root / "proc" / "net")
    return "other" if interface is None else _kind(root / "sys" / "class" / "net" / interface)


def _default_interface(proc: Path) -> str | None:
    """The interface that the best default route leads to, IPv4's before IPv6's."""
    for routes in (_default_routes(proc / "route"), _default_routes_6(proc / "ipv6_route")):
        if routes:
            return min(routes)[1]
    return None


def _default_routes(path: Path) -> list[tuple[int, str]]:
    """Metrics and interfaces of IPv4's default routes."""
    found = []
    for line in _lines(path)[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == fields[7] == "00000000" and _is_usable(fields[3]):
            found.append((int(fields[6]), fields[0]))
    return found


def _default_routes_6(path: Path) -> list[tuple[int, str]]:
    """The same of IPv6's."""
    found = []
    for line in _lines(path):
        fields = line.split()
        if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00" and _is_usable(fields[8]):
            found.append((int(fields[5], 16), fields[9]))
    return found


def _is_usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP


def _kind(interface: Path) -> str:
    if (interface / "wireless").exists() or (interface / "phy80211").exists():
        return "wifi"
    # Modems that pose as Ethernet are told apart by the kernel's device type only.
    if interface.name.startswith(("ppp", "wwan")) or "DEVTYPE=wwan" in _lines(interface / "uevent"):
        return "cellular"
    return "wired" if (interface / "device").exists() else "other"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
