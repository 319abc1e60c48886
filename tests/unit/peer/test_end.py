"""How a session ends, and what each side and each channel hears of it."""

from __future__ import annotations

from itertools import permutations

import pytest

from edgeice.peer import ConnectionEnded, ConnectionState
from edgeice.sansio import Event
from edgeice.sctp import AssociationClosed, ChannelClosed, MessageReceived
from tests.unit.peer.pair import End, Pair
from tests.unit.sctp.link import data_chunk, forge


def heard(end: End) -> list[Event]:
    """What an end was told of its channel and of the end, in order."""
    return [event for event in end.events if isinstance(event, (MessageReceived, ChannelClosed, ConnectionEnded))]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_clean_end_is_clean_in_whatever_order_it_arrives(order: tuple[int, ...]) -> None:
    pair = Pair()
    pair.holds = True
    for data in (b"one", b"two"):
        pair.send(pair.a, data)
    pair.a.connection.close(now=pair.now)
    pair.a.drain()
    assert len(pair.held) == 4  # two messages, ABORT, close_notify
    for number in order:
        pair.deliver(pair.held[number])
    first_end = min(order.index(2), order.index(3))
    arrived = order[:first_end]
    messages = [b"one", b"two"] if {0, 1} <= set(arrived) else [b"one"] if 0 in arrived else []
    assert pair.b.messages == messages
    closed, ended = heard(pair.b)[len(messages) :]
    assert isinstance(closed, ChannelClosed)
    assert not closed.broken
    assert isinstance(ended, ConnectionEnded)
    assert not ended.broken
    assert pair.b.connection.state is ConnectionState.CLOSED


@pytest.mark.parametrize("lost", [0, 1])
def test_either_datagram_of_a_clean_end_is_enough(lost: int) -> None:
    pair = Pair()
    pair.holds = True
    pair.a.connection.close(now=pair.now)
    pair.a.drain()
    assert len(pair.held) == 2
    pair.deliver(pair.held[1 - lost])
    assert [event.step for event in pair.b.of(ConnectionEnded)] == ["closed"]
    assert [event.broken for event in pair.b.of(ChannelClosed)] == [False]


def test_both_ends_close_at_once() -> None:
    pair = Pair()
    for end in pair.ends:
        end.connection.close(now=pair.now)
    pair.run(1.0)
    for end in pair.ends:
        assert end.of(ConnectionEnded) == [ConnectionEnded("closed", "closed here")]
        assert end.of(ChannelClosed) == [ChannelClosed(pair.channel, "closed here", broken=False)]


def break_association(pair: Pair) -> None:
    """B receives a DATA chunk without data from A."""
    channels = pair.b.connection.channels
    dtls = pair.a.connection._dtls
    assert dtls is not None
    assert dtls.send(forge(channels, data_chunk(1, b"")), now=pair.now)
    pair.a.connection.flush(now=pair.now)
    pair.a.drain()


def test_a_broken_end_is_broken_on_both_sides_and_says_why() -> None:
    pair = Pair()
    pair.send(pair.b, b"last")
    break_association(pair)
    pair.run(1.0)
    assert heard(pair.b) == [
        ChannelClosed(pair.channel, "DATA without data", broken=True),
        ConnectionEnded("sctp", "DATA without data"),
    ]
    received, *rest = heard(pair.a)
    assert isinstance(received, MessageReceived)
    assert rest == [
        ChannelClosed(pair.channel, "peer saw an error", broken=True),
        ConnectionEnded("sctp", "peer saw an error"),
    ]
    assert pair.a.of(AssociationClosed) == [AssociationClosed("peer saw an error", broken=True)]


def test_what_breaks_an_end_cannot_be_overtaken_by_close_notify() -> None:
    pair = Pair()
    pair.holds = True
    break_association(pair)
    forged = pair.held.pop()
    pair.send(pair.b, bytes(1_000))  # leaves less room in its datagram than the ABORT needs
    pair.deliver(forged)
    assert len(pair.held) == 2
    pair.deliver(pair.held[1])
    assert pair.a.of(ConnectionEnded) == [ConnectionEnded("sctp", "peer saw an error")]
    assert pair.a.connection._dtls is not None
    assert pair.a.connection._dtls.state.name == "CLOSED"  # close_notify came too
    assert pair.a.connection.next_timeout() is None


def test_a_failure_of_dtls_breaks_the_channels() -> None:
    pair = Pair()
    dtls = pair.b.connection._dtls
    assert dtls is not None
    dtls._fail("record", "bad")
    pair.b.connection.flush(now=pair.now)
    pair.run(1.0)
    assert pair.b.of(ConnectionEnded) == [ConnectionEnded("dtls", "record: bad")]
    assert pair.b.of(ChannelClosed) == [ChannelClosed(pair.channel, "record: bad", broken=True)]
