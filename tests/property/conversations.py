"""Whole agents: sessions that come about, carry data, restart and end in the midst of an attack."""

from __future__ import annotations

from functools import partial

from edgeice.addresses import Path
from edgeice.peer import Connection, ConnectionEnded, ConnectionState
from edgeice.sctp import ChannelOpened
from tests.property.attacked import Conversation
from tests.property.faults import example_scripts
from tests.property.target import TAKEN, Target

__all__ = ["CONVERSATIONS"]


def _accompanied(script: bytes, *, raw: bool) -> str:
    options = script[0] if script else 0
    world = Conversation(script[1:], raw=raw, conflict=bool(options & 1), asks=bool(options & 8))
    world.meet()
    world.run(60.0, lambda: world.connected)
    assert world.connected
    if isinstance(opener := world.ends[0].session, Connection):
        opener.channels.open("label", now=world.now)
        opener.flush(now=world.now)
        world.run(2.0)
        assert all(any(isinstance(event, ChannelOpened) for event in end.events) for end in world.ends)
    world.talk()
    if options & 2:
        world.restart()
        world.run(5.0)
        world.talk()
    if options & 4:
        world.run(40.0)  # consent is asked for, and would have ended
        world.talk()
    world.check_bounds()
    for end, peer in zip(world.ends, reversed(world.ends), strict=True):
        path = end.session._link.ice.send_path
        assert path == Path(end.base.address, peer.base.address)
    world.ends[0].session.close(now=world.now)
    world.run(1.0)
    ended = [event for event in world.ends[1].events if isinstance(event, ConnectionEnded)]
    assert [event.step for event in ended] == ([] if raw else ["closed"])
    return TAKEN


def _insider(script: bytes) -> str:
    """A peer that signs what it should not: it may harm the session, and nothing else."""
    options = script[0] if script else 0
    world = Conversation(script[1:], raw=True, conflict=bool(options & 1), insider=True)
    world.meet()
    world.run(5.0)
    a, b = world.ends
    if options & 2:
        world.restart()
        world.run(5.0)
    if options & 4:
        a.endpoint.base_removed(a.base.address, now=world.now)
        world.run(5.0)
        a.endpoint.base_added(a.base, now=world.now)
        world.run(5.0)
        world.restart()
    world.run(90.0)
    world.check_bounds()
    outcome = b.session.state.value
    for end in world.ends:
        end.session.close(now=world.now)
    world.run(1.0)
    assert all(end.session.state is ConnectionState.CLOSED for end in world.ends)
    return TAKEN if outcome == "connected" else outcome


def _handshake(script: bytes) -> str:
    world = Conversation(script, raw=False, handshake=True)
    world.meet()
    world.run(5.0, lambda: world.connected)
    world.check_bounds()
    ended = [event for end in world.ends for event in end.events if isinstance(event, ConnectionEnded)]
    for end in world.ends:
        end.session.close(now=world.now)
    world.run(1.0)
    assert all(end.session.state is ConnectionState.CLOSED for end in world.ends)
    assert not any(end.received for end in world.ends)
    return ended[0].step if ended else TAKEN


CONVERSATIONS = (
    Target(name="ice-session", seeds=example_scripts, check=partial(_accompanied, raw=True), examples=60),
    Target(name="channel-session", seeds=example_scripts, check=partial(_accompanied, raw=False), examples=25),
    Target(name="ice-insider", seeds=example_scripts, check=_insider, examples=40),
    Target(name="dtls-handshake", seeds=example_scripts, check=_handshake, examples=25),
)
