"""Whole agents: an allocation on a TURN server, to whose answers an attacker adds damaged copies."""

from __future__ import annotations

from functools import partial

from edgeice import stun
from edgeice.errors import DecodeError
from edgeice.stun import Attribute, Method
from edgeice.turn import AllocationState
from tests.property.faults import damaged, example_scripts, faults_of
from tests.property.target import TAKEN, Target
from tests.property.wire import repaired_stun
from tests.support.turn_server import PEER, Link, TurnServer

__all__ = ["RELAYING"]

_MEMORY = 16
_MOVES = 8
#: Requests in half an hour of a session: an allocation, its permission and channel kept, and what repeats these.
_REQUESTS = 200


class _WatchedServer(TurnServer):
    """A server whose answers come with damaged copies.

    Args:
        script: Which (`faults`).
        refusals: Whether copies may be errors that nobody signed, which anybody can forge (RFC 8489 §9.2.5).
    """

    def __init__(self, script: bytes, *, refusals: bool) -> None:
        super().__init__()
        self._script = list(faults_of(script))
        self._refusals = refusals
        self._answered: list[bytes] = []

    def receive(self, data: bytes, now: float) -> list[bytes]:
        found: list[bytes] = []
        for answer in super().receive(data, now):
            self._answered.append(answer)
            copies = []
            while self._script and self._script[0][0] < len(self._answered):
                _, fault = self._script.pop(0)
                copy = damaged(answer, fault, self._answered[-_MEMORY:])
                if fault.origin & 1:
                    copy = repaired_stun(copy, b"no key that anybody has")
                if copy and (self._refusals or not _is_refusal(copy)):
                    copies.append(copy)
            found += [*copies, answer]
        return found


def _is_refusal(data: bytes) -> bool:
    try:
        return stun.decode(data).message_class is stun.MessageClass.ERROR
    except DecodeError:
        return False


def _allocated(script: bytes) -> str:
    server = _WatchedServer(script, refusals=False)
    link = Link(server)
    link.exchange()
    for _ in range(3):
        link.send(PEER, b"out")
        link.from_peer(PEER, b"in")
        link.bind(PEER)
        link.send(PEER, b"by channel")
        link.advance(600.0)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert [data for _, data in server.relayed_data].count(b"out") == 3
    assert [data for peer, data in link.received if peer == PEER].count(b"in") == 3
    assert len(server.requests) <= _REQUESTS
    link.close()
    assert server.deleted == 1
    return TAKEN


def _moved(script: bytes) -> str:
    """The client goes from address to address, and what nobody signed ends nothing and moves nothing."""
    server = _WatchedServer(script, refusals=False)
    server.mobility = "given"
    link = Link(server, mobile=True)
    link.exchange()
    link.send(PEER, b"out")
    for number in range(_MOVES):
        server.is_here = False
        assert link.allocation.move(now=link.now)
        link.exchange()
        link.send(PEER, b"%d" % number)
        link.advance(100.0)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert [data for _, data in server.relayed_data] == [b"out", *(b"%d" % number for number in range(_MOVES))]
    shown = [request.get(Attribute.MOBILITY_TICKET) for request in server.requests if request.method == Method.REFRESH]
    # None twice but in the same request, and none once there was a newer one.
    assert list(dict.fromkeys(ticket for ticket in shown if ticket is not None)) == server.tickets[:-1]
    assert len(server.requests) <= _REQUESTS
    return TAKEN


def _refused(script: bytes) -> str:
    """With forged refusals, and over a stream where the script says so: it may fail, but ends and asks for little."""
    server = _WatchedServer(script, refusals=True)
    link = Link(server, stream=bool(script[:1] and script[0] & 0x80))
    link.exchange()
    link.advance(1800.0)
    assert len(server.requests) <= _REQUESTS
    assert len(link.events) <= 20
    link.close()
    link.advance(60.0)
    assert link.allocation.next_timeout() is None
    assert link.allocation.state is not AllocationState.ALLOCATED
    return TAKEN if any("Allocated" in type(event).__name__ for event in link.events) else "failed"


RELAYING = (
    Target(name="turn-client", seeds=partial(example_scripts, 8, 12), check=_allocated, examples=60),
    Target(name="turn-moved", seeds=partial(example_scripts, 8, 12), check=_moved, examples=60),
    Target(name="turn-refused", seeds=partial(example_scripts, 8, 12), check=_refused, examples=60),
)
