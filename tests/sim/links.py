"""Links that lose, delay, duplicate and reorder by seeded dice, and the fairness that bounds what they lose.

Invariants are exact only where luck has a limit.  A link looks at what it carries, as no real one does: of one STUN
transaction, requests and answers together, so many datagrams are lost at most, and so many transactions in a row of
one asker to one destination are hit at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, TypeAlias

from edgeice.addresses import TransportAddress
from tests.sim.topology import LinkPlan

__all__ = ["PROBE", "Fairness", "Link", "transaction_of"]

#: What a datagram has that no link harms, also where a relay wraps it: what the simulation measures with.  DTLS by
#: its first byte (RFC 7983 §7).
PROBE: Final = b"\x16probe"

_COOKIE: Final = b"\x21\x12\xa4\x42"
_PEER_ATTRIBUTE: Final = 0x0012
_DATA_ATTRIBUTE: Final = 0x0013
#: Of a link's backlog in seconds, beyond which it drops.
_BACKLOG: Final = 2.0


def transaction_of(data: bytes) -> tuple[bytes, bytes] | None:
    """The id of the STUN transaction that a datagram belongs to, also where a relay wraps it; None for data.

    The second value tells what a relay wraps for one peer from what it wraps for another, and from the rest.
    """
    if 0x40 <= data[0] <= 0x4F:
        inner = transaction_of(data[4:]) if len(data) > 4 else None
        return None if inner is None else (inner[0], data[:2])
    if data[0] > 3 or data[4:8] != _COOKIE:
        return None
    if data[:2] in {b"\x00\x16", b"\x00\x17"}:  # Send and Data indications
        attributes = dict(_attributes(data))
        payload = attributes.get(_DATA_ATTRIBUTE, b"")
        inner = transaction_of(payload) if payload else None
        # Of IPv4, XOR leaves equal addresses equal.
        return None if inner is None else (inner[0], attributes.get(_PEER_ATTRIBUTE, b""))
    return data[8:20], b""


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 20
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + 4 + size]
        at += 4 + (size + 3 & ~3)


#: An asker, whom it asks, and for which peer of a relay.
Flow: TypeAlias = tuple[TransportAddress, TransportAddress, bytes]


class Fairness:
    """Says what may be lost, over all links of a network.

    Args:
        per_transaction: Datagrams of one transaction that may be lost.
        in_row: Transactions of one flow in a row that may be hit; data datagrams likewise.
    """

    def __init__(self, *, per_transaction: int = 2, in_row: int = 2) -> None:
        self._per_transaction = per_transaction
        self._in_row = in_row
        self._losses: dict[bytes, int] = {}
        self._latest: dict[Flow, bytes] = {}
        self._row: dict[Flow, int] = {}

    def begin(self, transaction: bytes | None, flow: Flow) -> None:
        """A datagram enters the network."""
        if transaction is None or transaction in self._losses:
            return
        before = self._latest.get(flow)
        row = self._row.get(flow, 0) + 1 if before is not None and self._losses[before] else 0
        self._row[flow] = row
        self._latest[flow] = transaction
        # After so many in a row this one is safe: it counts as one that has lost all it may.
        self._losses[transaction] = 0
        if row >= self._in_row:
            self._row[flow] = 0
            self._latest.pop(flow)
            self._losses[transaction] = self._per_transaction

    def may_lose(self, transaction: bytes) -> bool:
        """Whether one more datagram of a transaction may be lost; it is, if so."""
        lost = self._losses.get(transaction, self._per_transaction)
        if lost >= self._per_transaction:
            return False
        self._losses[transaction] = lost + 1
        return True


class Link:
    """One direction of an interface's link.

    Args:
        plan: What it does to datagrams.
        dice: Its luck.
        fairness: The limit of that.
    """

    def __init__(self, plan: LinkPlan, dice: random.Random, fairness: Fairness) -> None:
        self.plan = plan
        #: Swallows everything while set.
        self.broken = False
        self._dice = dice
        self._fairness = fairness
        self._busy_until = 0.0
        #: Data datagrams lost in a row.
        self._data_row = 0

    def arrivals(self, data: bytes, transaction: bytes | None, now: float) -> list[float]:
        """When a datagram that enters now comes out: once, twice, or never."""
        plan, dice = self.plan, self._dice
        if self.broken:
            return []
        if PROBE in data:
            return [now + plan.delay]
        if plan.loss and dice.random() < plan.loss and self._may_lose(transaction):
            return []
        self._data_row = 0 if transaction is None else self._data_row
        at = now + plan.delay
        if plan.rate is not None:
            begins = max(now, self._busy_until)
            if begins - now > _BACKLOG and self._may_lose(transaction):
                return []
            self._busy_until = begins + (len(data) + 28) / plan.rate
            at += self._busy_until - now
        if plan.jitter:
            at += dice.random() * plan.jitter
        if plan.reordering and dice.random() < plan.reordering:
            at += dice.uniform(0.1, 0.3)
        if plan.duplication and dice.random() < plan.duplication:
            return [at, at + dice.random() * 0.05]
        return [at]

    def _may_lose(self, transaction: bytes | None) -> bool:
        if transaction is not None:
            return self._fairness.may_lose(transaction)
        self._data_row += 1
        return self._data_row <= 2
