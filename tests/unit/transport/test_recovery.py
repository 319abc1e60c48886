"""A session without a path: restarts, one after the other, and the end of patience; in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.peer import PathChanged, RestartEnded
from edgeice.sansio import Event
from edgeice.signaling import AnswerReceived, OfferExpired, OfferReceived, OfferRejected, Party, SessionId
from edgeice.transport import (
    NetworkMissing,
    NetworkReturned,
    PathRecovery,
    RestartOffered,
    SignaledConnection,
    Trouble,
)
from edgeice.transport.restarts import Need

SESSION = SessionId(Party.device("home", "pi"), "kid", "sid")
WLAN = Base(TransportAddress("192.0.2.1", 1), "wlan0", cost=10)
WWAN = Base(TransportAddress("198.51.100.1", 1), "wwan0", cost=900)
ETH = Base(TransportAddress("203.0.113.1", 1), "eth0")
PEER = TransportAddress("192.0.2.99", 2)
EXPIRED = OfferExpired(SESSION, 1)
ANSWERED = AnswerReceived(SESSION, 1, "")
OFFERED = OfferReceived(SESSION, 1, "", ())
#: What a link that goes on and off for ten seconds, a hundred times a second, may cost.
FLAPS = 1000


@attrs.define
class Peer:
    path: PathChanged = attrs.field(factory=lambda: on(WLAN))
    awaits_answer: bool = False
    mobility: bool = False
    heard_at: float = attrs.field(factory=trio.current_time)
    ended: object = None


@attrs.define
class Signaling:
    id: SessionId = SESSION


def on(base: Base | None, cause: str = "first", *, fading: bool = False) -> PathChanged:
    """A nominated path from a base."""
    if base is None:
        return PathChanged(None, cause=cause)
    return PathChanged(
        Path(base.address, PEER), "host", "host", nominated=True, fading=fading, interface=base.interface, cause=cause
    )


class Session:
    """A session whose restarts are only written down, at a host whose addresses come and go."""

    def __init__(self, *bases: Base, mobility: bool = False, offerer: bool = True, patience: float = 120.0) -> None:
        self.peer = Peer(mobility=mobility)
        self.session = Signaling()
        self.bases = list(bases or (WLAN,))
        #: All offers, and those for a path that is lost.
        self.offers: list[float] = []
        self.restarts: list[float] = []
        self.said: list[tuple[float, Trouble]] = []
        self.given_up: list[float] = []
        #: Where offers expire after ten seconds.
        self.expires_in: trio.Nursery | None = None
        self._watchers: list[Callable[[], None]] = []
        self._begun = trio.current_time()
        self.recovery = PathRecovery(
            cast("SignaledConnection", self), self, self.note, offerer=offerer, patience=patience
        )
        self.recovery.watch(self.peer.path)

    @property
    def now(self) -> float:
        return round(trio.current_time() - self._begun, 3)

    def note(self, trouble: Trouble) -> None:
        self.said.append((self.now, trouble))
        if trouble == RestartOffered(Need.LOST):
            self.restarts.append(self.now)

    def restart(self) -> None:
        self.offers.append(self.now)
        self.peer.awaits_answer = True
        if self.expires_in is not None:
            self.expires_in.start_soon(self._expire)

    async def _expire(self) -> None:
        await trio.sleep(10)
        self.hear(EXPIRED)

    def watch_network(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def have(self, *bases: Base) -> None:
        """The host has these addresses from now on."""
        self.bases = list(bases)
        for changed in self._watchers:
            changed()

    def move(self, path: PathChanged) -> None:
        self.peer.path = path
        self.recovery.watch(path)

    def lose_path(self) -> None:
        self.move(on(None, "consent"))

    def get_path(self) -> None:
        self.move(on(WLAN, "restart"))

    def fade(self, *, fading: bool = True) -> None:
        self.move(on(WLAN, fading=fading))

    def hear(self, event: Event) -> None:
        self.peer.awaits_answer = False
        self.recovery.take(event)

    def end_restart(self, *, succeeded: bool) -> None:
        self.peer.awaits_answer = False
        self.recovery.watch(RestartEnded(succeeded))

    async def run(self) -> None:
        await self.recovery.run()
        self.given_up.append(self.now)


@pytest.fixture
def session(nursery: trio.Nursery) -> Session:
    session = Session()
    nursery.start_soon(session.run)
    return session


async def test_nothing_happens_while_there_is_a_path(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    await trio.sleep(1000)
    assert (session.offers, session.given_up) == ([], [])


async def test_a_lost_path_is_answered_with_a_restart_at_once(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    await trio.sleep(5)
    session.lose_path()
    await trio.sleep(3)
    session.hear(ANSWERED)
    await trio.sleep(2)
    session.get_path()
    session.end_restart(succeeded=True)
    await trio.sleep(1000)
    assert (session.restarts, session.given_up) == ([5.0], [])


async def test_an_offer_that_expires_is_followed_by_another_until_patience_ends(
    autojump_clock: trio.testing.MockClock, session: Session, nursery: trio.Nursery
) -> None:
    """Nothing changes: the next one comes once the last has expired, and from the sixth on every 15 s."""
    session.expires_in = nursery
    session.lose_path()
    await trio.sleep(200)
    assert session.restarts == [0.0, 10.0, 20.0, 30.0, 40.0, 55.0, 70.0, 85.0, 100.0, 115.0]
    assert session.given_up == [120.0]


async def test_an_answered_restart_gets_ten_seconds(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    session.lose_path()
    for _ in range(3):
        await trio.sleep(4)
        session.hear(ANSWERED)
        await trio.sleep(10.1)
    assert session.restarts == [0.0, 14.0, 28.1, 42.2]


async def test_a_restart_that_the_peer_offered_and_this_end_answered_gets_them_too(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.lose_path()
    await trio.sleep(1)
    session.hear(OFFERED)
    await trio.sleep(9)
    assert session.restarts == [0.0]
    await trio.sleep(2)
    assert session.restarts == [0.0, 11.0]


async def test_restarts_that_fail_at_once_are_spaced_out(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.lose_path()
    for _ in range(700):
        await trio.sleep(0.1)
        session.hear(EXPIRED)
    assert session.restarts == [0.0, 1.0, 3.0, 7.0, 15.0, 30.0, 45.0, 60.0]


async def test_patience_begins_anew_with_each_loss(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    session.lose_path()
    await trio.sleep(119)
    session.get_path()
    await trio.sleep(10)
    session.lose_path()
    await trio.sleep(119)
    assert session.given_up == []
    await trio.sleep(2)
    assert session.given_up == [249.0]


async def test_patience_goes_on_whatever_the_host_s_addresses_do(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.lose_path()
    for _ in range(5):
        await trio.sleep(10)
        session.have()
        session.lose_path()
        await trio.sleep(10)
        session.have(WWAN)
    await trio.sleep(100)
    assert session.given_up == [120.0]


async def test_patience_ends_in_ten_minutes_by_default(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session()
    session.recovery = PathRecovery(cast("SignaledConnection", session), session, session.note, offerer=True)
    nursery.start_soon(session.run)
    session.lose_path()
    await trio.sleep(1000)
    assert session.given_up == [600.0]


async def test_con_03_a_path_that_fades_is_replaced_before_it_is_lost(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    await trio.sleep(5)
    session.fade()
    await trio.sleep(1)
    session.hear(ANSWERED)
    await trio.sleep(1)
    session.fade(fading=False)
    await trio.sleep(1000)
    assert (session.offers, session.restarts, session.given_up) == ([5.0], [], [])


async def test_con_03_a_path_that_goes_on_fading_is_tried_again_at_intervals(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.fade()
    for _ in range(3):
        await trio.sleep(1)
        session.hear(ANSWERED)
        await trio.sleep(10.1)
    assert session.offers == [0.0, 11.0, 22.1, 33.2]


async def test_con_03_a_path_that_fades_and_then_is_lost_is_answered_with_the_offer_that_is_out(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.fade()
    await trio.sleep(8)
    session.lose_path()
    await trio.sleep(1)
    assert (session.offers, session.restarts) == ([0.0], [])
    session.hear(EXPIRED)
    await trio.sleep(1)
    assert (session.offers, session.restarts) == ([0.0, 9.0], [9.0])
    await trio.sleep(200)
    assert session.given_up == [128.0]


async def test_con_03_a_rejected_restart_of_a_fading_path_does_not_spin(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.fade()
    for _ in range(50):
        await trio.sleep(0.1)
        session.hear(EXPIRED)
    assert session.offers == [0.0, 1.0, 3.0]


async def test_silence_asks_for_a_restart_until_it_ends(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.recovery.fell_silent(silent=True)
    await trio.sleep(1)
    session.hear(ANSWERED)
    await trio.sleep(10.5)
    session.recovery.fell_silent(silent=False)
    await trio.sleep(100)
    assert (session.offers, session.restarts) == ([0.0, 11.0], [])


async def test_what_was_tried_is_reported(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    assert session.recovery.report() == {}
    session.lose_path()
    await trio.sleep(5)
    session.hear(EXPIRED)
    await trio.sleep(5)
    session.hear(OfferRejected(SESSION, 2, "unsupported", "", None))
    await trio.sleep(5)
    session.hear(ANSWERED)
    session.end_restart(succeeded=False)
    await trio.sleep(5)
    session.have()
    await trio.sleep(20)
    session.have(WLAN)
    await trio.sleep(5)
    session.have()
    await trio.sleep(0.25)
    tried = {"offered": 5, "unanswered": 1, "refused": 1, "failed": 1, "no_network": 20.2}
    assert session.recovery.report() == tried


# The network


async def test_without_a_network_the_session_waits_says_so_once_and_goes_on_at_once(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    await trio.sleep(5)
    session.have()
    session.move(on(None, "base_gone"))
    await trio.sleep(90)
    assert (session.offers, session.said) == ([], [(5.5, NetworkMissing(119.5))])
    session.have(WWAN)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert session.restarts == [95.0]
    assert session.said[1:] == [(95.0, NetworkReturned(90.0)), (95.0, RestartOffered(Need.LOST))]
    session.end_restart(succeeded=True)
    session.move(on(WWAN, "restart"))
    await trio.sleep(1000)
    assert (len(session.said), session.given_up) == (3, [])


async def test_without_a_network_patience_ends_too(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    session.have()
    session.move(on(None, "base_gone"))
    await trio.sleep(1000)
    assert (session.offers, session.given_up) == ([], [120.0])


async def test_an_interface_that_is_set_up_anew_is_not_called_a_missing_network(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.have()
    session.move(on(None, "base_gone"))
    await trio.sleep(0.4)
    session.have(WLAN)
    await trio.sleep(5)
    assert session.said == [(0.4, RestartOffered(Need.LOST))]


async def test_an_address_that_comes_replaces_an_offer_that_is_out_at_once(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    """The offer that is out does not know it; what only goes is no news."""
    session.have(WLAN, ETH)
    await trio.sleep(1)
    session.lose_path()
    await trio.sleep(2)
    session.have(ETH)
    await trio.sleep(2)
    assert session.offers == [1.0]
    session.have(ETH, WWAN)
    await trio.sleep(2)
    assert session.offers == [1.0, 5.0]


@pytest.mark.parametrize("mobility", [False, True])
async def test_host_16_an_interface_that_flaps_a_hundred_times_a_second_makes_few_offers(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, mobility: bool
) -> None:
    """Three at once, then one every two seconds, the last one with the address that stayed."""
    session = Session(mobility=mobility)
    nursery.start_soon(session.run)
    for port in range(FLAPS):
        session.have()
        session.move(on(None, "base_gone"))
        await trio.sleep(0.005)
        session.have(attrs.evolve(WLAN, address=TransportAddress("192.0.2.1", 1000 + port)))
        await trio.sleep(0.005)
    assert len(session.offers) == 7
    await trio.sleep(2)
    assert len(session.offers) == 8
    await trio.sleep(100)
    assert session.said[-1][1] == RestartOffered(Need.LOST)
    assert not [said for _, said in session.said if isinstance(said, NetworkMissing)]


# Peers that only a restart moves


async def test_a_peer_without_mobility_is_told_at_once_that_the_base_is_gone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session(WLAN, ETH)
    nursery.start_soon(session.run)
    await trio.sleep(1)
    session.have(ETH)
    session.move(on(ETH, "base_gone"))
    await trio.sleep(1)
    session.hear(ANSWERED)
    session.end_restart(succeeded=True)
    await trio.sleep(1000)
    assert session.said == [(1.0, RestartOffered(Need.BASE_GONE))]


async def test_a_restart_that_failed_while_the_path_works_is_made_anew_while_its_reason_is_there(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session(WLAN, ETH)
    nursery.start_soon(session.run)
    session.have(ETH)
    session.move(on(ETH, "base_gone"))
    await trio.sleep(0.5)
    session.hear(EXPIRED)
    await trio.sleep(1)
    session.hear(ANSWERED)
    session.end_restart(succeeded=False)
    await trio.sleep(2)
    assert session.offers == [0.0, 1.0, 3.0]
    session.end_restart(succeeded=True)
    await trio.sleep(1000)
    assert session.offers == [0.0, 1.0, 3.0]


@pytest.mark.parametrize("mobility", [False, True])
async def test_a_cheaper_interface_is_used_by_a_restart_once_it_was_there_for_three_seconds(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, mobility: bool
) -> None:
    """Peers with mobility nominate it themselves."""
    session = Session(WLAN, mobility=mobility)
    nursery.start_soon(session.run)
    await trio.sleep(10)
    session.have(WLAN, WWAN)
    await trio.sleep(10)
    session.have(WLAN, WWAN, ETH)
    await trio.sleep(2)
    session.have(WLAN, WWAN)
    await trio.sleep(10)
    session.have(WLAN, WWAN, ETH)
    await trio.sleep(4)
    assert session.said == ([] if mobility else [(35.0, RestartOffered(Need.BETTER))])


async def test_an_interface_that_a_restart_did_not_lead_to_is_not_asked_for_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session(WWAN)
    session.move(on(WWAN))
    nursery.start_soon(session.run)
    session.have(WWAN, WLAN)
    await trio.sleep(4)
    session.end_restart(succeeded=True)
    await trio.sleep(1000)
    assert session.offers == [3.0]
    session.expires_in = nursery
    session.have(WWAN, WLAN, ETH)
    await trio.sleep(1000)
    # Nobody answers it: it is no reason to go on for ever.
    assert [round(at - 1004) for at in session.offers[1:]] == [3, 13, 23, 33]


# Peers that move by themselves


@pytest.mark.parametrize("cause", ["base_gone", "silent", "peer_moved"])
async def test_after_a_failover_there_is_one_restart_for_good_order_when_all_is_quiet(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, cause: str
) -> None:
    session = Session(WLAN, WWAN, mobility=True)
    nursery.start_soon(session.run)
    await trio.sleep(10)
    session.move(on(WWAN, cause))
    await trio.sleep(1.5)
    session.move(on(WLAN, cause))
    await trio.sleep(1.9)
    assert session.offers == []
    await trio.sleep(0.7)
    assert [said for _, said in session.said] == [RestartOffered(Need.ORDER)]
    session.hear(ANSWERED)
    session.end_restart(succeeded=True)
    session.move(on(WLAN, "restart"))
    await trio.sleep(1000)
    assert len(session.offers) == 1


@pytest.mark.parametrize(
    ("cause", "offerer"),
    [("nominated", True), ("better", True), ("restart", True), ("first", True), ("peer_moved", False)],
)
async def test_after_a_move_that_was_wished_for_there_is_none(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, cause: str, offerer: bool
) -> None:
    """Who does not nominate is moved by the peer also where that only prefers another path."""
    session = Session(WLAN, WWAN, mobility=True, offerer=offerer)
    nursery.start_soon(session.run)
    session.move(on(WWAN, cause))
    await trio.sleep(1000)
    assert session.offers == []


async def test_of_both_ends_the_one_that_opened_the_session_restarts_for_good_order(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """More than a second before the other one would, which hears of it by then."""
    ends = [Session(WLAN, WWAN, mobility=True, offerer=offerer) for offerer in (True, False)]
    for end in ends:
        nursery.start_soon(end.run)
        end.move(on(WWAN, "peer_moved" if end is ends[0] else "base_gone"))
    await trio.sleep(2.5)
    assert [len(end.offers) for end in ends] == [1, 0]
    ends[1].hear(OFFERED)
    for end in ends:
        end.end_restart(succeeded=True)
    await trio.sleep(1000)
    assert [len(end.offers) for end in ends] == [1, 0]


async def test_where_it_is_not_heard_of_the_other_end_restarts_for_good_order(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session(WLAN, WWAN, mobility=True, offerer=False)
    nursery.start_soon(session.run)
    session.move(on(WWAN, "silent"))
    await trio.sleep(3.4)
    assert session.offers == []
    await trio.sleep(0.7)
    assert len(session.offers) == 1
