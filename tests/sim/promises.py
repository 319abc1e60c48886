"""What is promised of a session that roams: how long its data may pause, and that it keeps off what costs."""

from __future__ import annotations

from typing import Final

from edgeice.addresses import Path
from tests.sim.faults import BrokerDown, Lose, Step
from tests.sim.happenings import Happenings
from tests.sim.roamers import Roamer
from tests.sim.roaming_rules import RoamingMonitor

__all__ = ["METERED", "interface_of", "promised_pause"]

#: The cost from which on an interface is metered.
METERED: Final = 500
#: Round trips that a move to a living pair takes: a check one way, and what the peer sends from then on.
_ROUND_TRIPS: Final = 1.5
#: Seconds between two pieces of the stream, of what a link adds by chance, and of pacing.
_SLACK: Final = 0.05 + 0.02 + 0.02


def interface_of(end: Roamer) -> str:
    """The name of the interface that an end's data leaves by; empty where it does not."""
    path = end.path.path
    base = None if path is None else end.agent.endpoint._bases.get(path.local)
    return "" if base is None else base.interface


def promised_pause(
    step: Step, ends: tuple[Roamer, Roamer], happenings: Happenings, monitor: RoamingMonitor
) -> float | None:
    """The longest pause of the data that a step may bring, seconds; None where nothing is promised.

    One interface goes, and data can go on by another pair that both ends keep alive: nothing but that pair is needed
    (a check with NOMINATION, followed at once by the peer, whose own consent there is fresh).
    """
    faults = [fault for _, fault in step.faults if not isinstance(fault, BrokerDown)]
    if len(faults) != 1 or not isinstance(fault := faults[0], Lose) or not monitor.mobile:
        return None
    now = happenings.now
    if not all(end.is_settled for end in ends) or any(moves[-1][0] > now - 5.0 for moves in monitor.moves.values()):
        return None
    place = fault.host, fault.interface
    if place not in happenings.up or happenings.broken:
        return None
    ips = happenings.plans[place].ips
    lost = set(ips[:1] if fault.how == "address" else ips)
    end = next(each for each in ends if each.name == fault.host)
    bases = end.agent.endpoint._bases
    left: list[float] = []
    round_trips = _ROUND_TRIPS
    theirs = _valid(end.peer)
    for pair in _valid(end):
        base = bases.get(pair.local)
        if base is None or pair.local.ip in lost:
            continue
        if base.interface == fault.interface:
            if lost >= set(ips):
                continue
            return None  # data may go on by the interface's other address, or by a relay that the lost one reached
        if monitor.mirrors.get((end.name, pair)) not in theirs:
            round_trips = _ROUND_TRIPS + 1.0  # it may be chosen, and the peer has to check it first
        left.append(monitor.round_trips.get((end.name, pair), 1.0))
    return round_trips * max(left) + _SLACK if left else None


def _valid(end: Roamer) -> set[Path]:
    """The pairs that an end could move to."""
    return {pair.path for pair in end.connection._link.ice._slots.current.checklist.valid()}
