"""Lost datagrams of the handshake (checklist DTLS-05).  OpenSSL has its own clock, so these tests wait for real."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from edgeice.dtls import DtlsState
from tests.support.dtls_pair import DtlsPair


def run_all(pairs: dict[DtlsPair, Callable[[int], bool]], limit: float) -> float:
    """Drive all pairs at once, sleeping only for their deadlines; the time that it took."""
    begun = time.monotonic()
    for pair, lose in pairs.items():
        pair.start(begun)
        pair.pump(begun, lose=lose)
    while True:
        now = time.monotonic()
        ends = [end for pair in pairs for end in (pair.client, pair.server)]
        deadlines = [at for end in ends if (at := end.next_timeout()) is not None]
        if not deadlines or now > begun + limit:
            return now - begun
        time.sleep(max(0.0, min(deadlines) - now))
        now = time.monotonic()
        for pair, lose in pairs.items():
            for end in (pair.client, pair.server):
                end.handle_timeout(now=now)
            pair.pump(now, lose=lose)


@pytest.mark.slow
def test_dtls_05_each_lost_datagram_is_repaired_after_a_second() -> None:
    # At an MTU of 320 the handshake takes several datagrams a flight, so the parts of one get lost, too.
    pairs: dict[DtlsPair, Callable[[int], bool]] = {}
    for mtu in (320, 1200):
        plain = DtlsPair(mtu=mtu)
        plain.start()
        plain.pump()
        for lost in range(len(plain.log)):
            pairs[DtlsPair(mtu=mtu)] = lost.__eq__
    took = run_all(pairs, limit=3)
    assert all(pair.client.state is pair.server.state is DtlsState.ESTABLISHED for pair in pairs)
    assert len(pairs) >= 4 + 6
    assert 0.9 < took < 1.5


@pytest.mark.slow
def test_dtls_05_loss_of_30_percent_is_survived() -> None:
    random = Random(30)
    pairs = {DtlsPair(): lambda _index: random.random() < 0.3 for _ in range(20)}
    run_all(pairs, limit=2.9)
    done = [pair for pair in pairs if pair.client.state is pair.server.state is DtlsState.ESTABLISHED]
    # Four datagrams of 30 % loss and at most three rounds: three of four handshakes are done by then.
    assert len(done) >= 12


def test_dtls_timer_does_nothing_before_the_deadline() -> None:
    pair = DtlsPair()
    pair.start(100.0)
    assert pair.client.poll_transmit() is not None
    at = pair.client.next_timeout()
    assert at is not None
    assert 100.8 < at <= 101.0
    pair.client.handle_timeout(now=at - 0.5)
    assert pair.client.next_timeout() == at
    assert pair.client.poll_transmit() is None


def test_dtls_timer_asks_again_where_the_clocks_disagree() -> None:
    """The caller's clock has jumped, OpenSSL's has not: no flight is repeated, and nothing spins."""
    pair = DtlsPair()
    pair.start(0.0)
    assert pair.client.poll_transmit() is not None
    pair.client.handle_timeout(now=50.0)
    at = pair.client.next_timeout()
    assert at is not None
    assert at >= 50.005
    assert pair.client.poll_transmit() is None
