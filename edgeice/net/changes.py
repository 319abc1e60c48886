"""What changed between two snapshots of the interfaces, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from edgeice.net.interfaces import Interface, Snapshot

__all__ = ["delta"]

_FAMILIES: Final[tuple[tuple[Literal[4, 6], str], ...]] = ((4, ""), (6, "IPv6 "))


def delta(old: Snapshot, new: Snapshot) -> list[str]:
    """What changed, losses first; nothing of interfaces and addresses that are and were held back."""
    lost: list[str] = []
    gained: list[str] = []
    for index in old.interfaces.keys() | new.interfaces.keys():
        before, after = old.interfaces.get(index), new.interfaces.get(index)
        if any(each is not None and _stays_held(old, new, each.name, "") for each in (before, after)):
            continue
        if after is None:
            assert before is not None
            lost.append(f"{before.name} removed")
        elif before is None:
            gained.append(f"{after.name} added")
        else:
            changed = {each.ip for each in before.addresses ^ after.addresses}
            told = {ip for ip in changed if not _stays_held(old, new, after.name, ip)}
            lost += _losses(before, after, told)
            gained += _gains(before, after, told)
    held = [f"{_what(key)} held back for {new.held[key].why}" for key in new.held.keys() - old.held.keys()]
    let_go = [f"{_what(key)} no longer held back" for key in old.held.keys() - new.held.keys()]
    return sorted(lost) + sorted(held) + list(_moves(old, new)) + sorted(gained) + sorted(let_go)


def _stays_held(old: Snapshot, new: Snapshot, interface: str, ip: str) -> bool:
    key = (interface, ip)
    return key in old.held and key in new.held


def _what(key: tuple[str, str]) -> str:
    interface, ip = key
    return f"address {ip} on {interface}" if ip else interface


def _losses(before: Interface, after: Interface, told: set[str]) -> Iterator[str]:
    if before.name != after.name:
        yield f"{before.name} renamed to {after.name}"
    if before.is_up and not after.is_up:
        yield f"{after.name} set down"
    elif before.has_carrier and not after.has_carrier:
        yield f"carrier lost on {after.name}"
    remaining = {address.ip: address for address in after.addresses}
    for address in before.addresses:
        now = remaining.get(address.ip)
        if address.ip not in told:
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


def _gains(before: Interface, after: Interface, told: set[str]) -> Iterator[str]:
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
        if address.ip in told and address.is_usable and (then is None or not then.is_usable):
            yield f"address {address.ip} added to {after.name}"
