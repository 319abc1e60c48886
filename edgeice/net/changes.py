"""What changed between two snapshots of the interfaces, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from edgeice.net.interfaces import Interface, Snapshot

__all__ = ["delta"]

_FAMILIES: Final[tuple[tuple[Literal[4, 6], str], ...]] = ((4, ""), (6, "IPv6 "))


def delta(old: Snapshot, new: Snapshot) -> list[str]:
    """What changed, losses first.

    What was lost while it was held back firmly is not told, nor what is found while it is.
    """
    lost: list[str] = []
    gained: list[str] = []
    for index in old.interfaces.keys() | new.interfaces.keys():
        before, after = old.interfaces.get(index), new.interfaces.get(index)
        if before is not None and not old.holds(before.name):
            ips = {each.ip for each in before.addresses if old.holds(before.name, each.ip)}
            lost += _losses(before, after, ips)
        if after is not None and not new.holds(after.name):
            ips = {each.ip for each in after.addresses if new.holds(after.name, each.ip)}
            gained += _gains(before, after, ips)
    held = [f"{_what(key)} held back for {new.held[key].why}" for key in new.held.keys() - old.held.keys()]
    let_go = [f"{_what(key)} no longer held back" for key in old.held.keys() - new.held.keys()]
    return sorted(lost) + sorted(held) + list(_moves(old, new)) + sorted(gained) + sorted(let_go)


def _what(key: tuple[str, str]) -> str:
    interface, ip = key
    return f"address {ip} on {interface}" if ip else interface


def _losses(before: Interface, after: Interface | None, held: set[str]) -> Iterator[str]:
    if after is None:
        yield f"{before.name} removed"
        return
    if before.name != after.name:
        yield f"{before.name} renamed to {after.name}"
    if before.is_up and not after.is_up:
        yield f"{after.name} set down"
    elif before.has_carrier and not after.has_carrier:
        yield f"carrier lost on {after.name}"
    remaining = {address.ip: address for address in after.addresses}
    for address in before.addresses:
        now = remaining.get(address.ip)
        if address.ip in held:
            continue
        if now is None:
            yield f"address {address.ip} removed from {after.name}"
        elif address.is_usable and not now.is_usable:
            yield f"address {address.ip} no longer preferred on {after.name}"


def _moves(old: Snapshot, new: Snapshot) -> Iterator[str]:
    for family, which in _FAMILIES:
        before, after = old.default_route(family), new.default_route(family)
        was, name = before and before.name, after and after.name
        if was == name or (before and after and before.index == after.index):
            continue
        if name is None:
            yield f"{which}default route lost from {was}"
        elif was is None:
            yield f"{which}default route found by {name}"
        else:
            yield f"{which}default route moved from {was} to {name}"


def _gains(before: Interface | None, after: Interface, held: set[str]) -> Iterator[str]:
    if before is None:
        yield f"{after.name} added"
        return
    if before.mtu != after.mtu:
        yield f"MTU of {after.name} is {after.mtu} now"
    if before.link_class != after.link_class:
        yield f"{after.name} is {after.link_class} now"
    if after.is_up and not before.is_up:
        yield f"{after.name} set up"
    elif after.has_carrier and not before.has_carrier:
        yield f"carrier found on {after.name}"
    earlier = {address.ip: address for address in before.addresses}
    for address in after.addresses:
        then = earlier.get(address.ip)
        if address.ip not in held and address.is_usable and (then is None or not then.is_usable):
            yield f"address {address.ip} added to {after.name}"
