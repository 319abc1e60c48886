"""Restarts with data on the way: nothing is lost by them, and they keep a session alive where much else is lost."""

from __future__ import annotations

import random

import pytest

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import IceConfig
from edgeice.peer import ConnectionEnded, ConnectionState, PathChanged, RestartEnded
from edgeice.sansio import Transmit
from tests.unit.peer.pair import End, Pair

NEXT = Base(TransportAddress("192.0.2.11", 4000), "eth1")


def exchange(pair: Pair, offerer: End) -> None:
    """An offer that restarts ICE and its answer, without delay."""
    other = pair.b if offerer is pair.a else pair.a
    answer = other.connection.accept_offer(offerer.connection.restart(now=pair.now), now=pair.now)
    offerer.connection.accept_answer(answer, now=pair.now)


@pytest.mark.parametrize("offers", ["a", "b"])
def test_ice_59_ten_messages_a_second_cross_a_restart_to_another_interface_and_none_is_lost(offers: str) -> None:
    pair = Pair(ice=IceConfig(interface_ranks={"eth0": 1}))  # both bases are there, and the next is better
    channel = pair.a.connection.channels.open("fast", ordered=False, max_retransmits=0, now=pair.now)
    pair.channel = channel
    pair.run(1.0)
    pair.a.events.clear()
    pair.b.events.clear()
    sent = [b"%d" % number for number in range(100)]
    offerer, answerer = pair.ends if offers == "a" else pair.ends[::-1]
    answer = ""
    ways: list[str] = []
    for number, data in enumerate(sent):
        pair.send(pair.a, data)
        pair.send(pair.b, data)
        if number == 30:
            pair.a.also(NEXT)
        if number == 33:
            answer = answerer.connection.accept_offer(offerer.connection.restart(now=pair.now), now=pair.now)
        if number == 40:  # 0.7 s is what the answer takes
            offerer.connection.accept_answer(answer, now=pair.now)
        pair.run(0.1)
        current = pair.a.connection.pathways.current.path
        assert current is not None
        ways.append(current.local.ip)
    assert pair.a.messages == pair.b.messages == sent
    for end in pair.ends:
        assert [event.succeeded for event in end.of(RestartEnded)] == [True]
        assert None not in {event.path for event in end.of(PathChanged)}
    # The former path carries data until the new one is there, and does not come back.
    # A, who nominates, needs no answer where it has given one.
    moved = 40 if offers == "a" else 33
    assert ways == [pair.a.base.address.ip] * moved + [NEXT.address.ip] * (100 - moved)


class Lossy:
    """Loses 30 % of the datagrams each way, each by itself, and counts what became of the path."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self._pair = pair
        self._dice = random.Random(seed)
        self._carry = pair.carry
        pair.carry = self.carry  # type: ignore[method-assign]  # the link
        self.restarts = 0

    def carry(self, _sender: End, sent: Transmit) -> None:
        if self._dice.random() >= 0.3:
            self._carry(_sender, sent)

    def keep(self) -> None:
        """What the owners of both ends do: restart when the path fades or is lost, by signaling that takes a while."""
        for end in self._pair.ends:
            current = end.connection.pathways.current
            if current.path is None or current.fading:
                self._pair.run(0.5)
                exchange(self._pair, end)
                self._pair.run(5.0)
                self.restarts += 1
                return


@pytest.mark.slow
def test_con_03_a_session_lives_for_an_hour_on_a_link_that_loses_thirty_percent() -> None:
    pair = Pair()
    link = Lossy(pair, seed=3)
    sent = [b"%d" % number for number in range(360)]
    for data in sent:
        pair.send(pair.a, data)
        pair.run(10.0)
        link.keep()
    pair.run(120.0)
    assert pair.b.messages == sent
    assert pair.a.of(ConnectionEnded) == pair.b.of(ConnectionEnded) == []
    assert 5 <= link.restarts <= 200
    lost = [event for end in pair.ends for event in end.of(PathChanged) if event.path is None]
    assert len(lost) <= link.restarts / 5


def test_a_path_that_ends_as_the_offer_of_a_restart_is_taken_is_not_overlooked() -> None:
    """What ICE has to say goes by while the answer is put together: the association must hear of it all the same."""
    pair = Pair(ice=IceConfig(mobility=False))
    a, b = pair.a, pair.b
    offer = a.connection.restart(now=pair.now)
    (checked,) = b.connection._link.ice._slots.current.checklist
    assert checked.consent is not None
    b.connection.accept_offer(offer, now=checked.consent.expires_at)  # its timers have not fired yet
    assert b.connection._link.ice.send_path is None
    assert b.connection.state is ConnectionState.INTERRUPTED
    assert b.connection._channels is not None
    assert b.connection._channels.next_timeout() is None  # no time counts against the peer
