"""How soon data goes: as soon as the peer is known, with the packet that makes the association."""

from __future__ import annotations

import pytest

from edgeice.errors import LocalProtocolError
from edgeice.peer import ConnectionState, StateChanged
from tests.unit.peer.pair import Pair

#: Seconds that a datagram takes on a pair's link.
_HOP = 0.001


def connected(pair: Pair, end: int) -> bool:
    return StateChanged(ConnectionState.CONNECTED) in pair.ends[end].events


def run_until_connected(pair: Pair) -> None:
    """Let time pass until A, the DTLS server, knows its peer."""
    for _ in range(4000):
        if connected(pair, 0):
            return
        pair.run(_HOP / 4)
    raise AssertionError("never connected")


def test_no_channel_is_opened_before_the_peer_proved_who_it_is() -> None:
    pair = Pair(connected=False)
    with pytest.raises(LocalProtocolError, match="no data channels while checking"):
        _ = pair.a.connection.channels


def test_data_goes_with_the_third_packet_of_the_association() -> None:
    pair = Pair(connected=False)
    run_until_connected(pair)
    asked_at = pair.now
    assert not pair.a.connection.channels.established
    channel = pair.a.connection.channels.open("label", now=pair.now)
    pair.a.connection.channels.send(channel, b"at once", now=pair.now)
    pair.a.connection.flush(now=pair.now)
    while not pair.b.messages:
        pair.run(_HOP / 4)
        assert pair.now < asked_at + 1
    # INIT, INIT ACK, and COOKIE ECHO with the data (RFC 9260 §5.1): three times across, less what had gone already.
    assert pair.now - asked_at <= 3 * _HOP + _HOP / 4
    assert pair.b.messages == [b"at once"]
    pair.run(1.0)
    assert pair.b.messages == [b"at once"]
