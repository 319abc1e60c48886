"""A session without a path: restarts, one after the other, and the end of patience; in virtual time."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from edgeice.addresses import Path, TransportAddress
from edgeice.sansio import Event
from edgeice.signaling import AnswerReceived, OfferExpired, Party, SessionId
from edgeice.transport import PathRecovery, SignaledConnection

SESSION = SessionId(Party.device("home", "pi"), "kid", "sid")
PATH = Path(TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", 2))
EXPIRED = OfferExpired(SESSION, 1)
ANSWERED = AnswerReceived(SESSION, 1, "")


@attrs.define
class Situation:
    path: Path | None = None
    fading: bool = False


@attrs.define
class Peer:
    path: Situation = attrs.field(factory=Situation)
    awaits_answer: bool = False


class Session:
    """A session whose restarts are only written down."""

    def __init__(self) -> None:
        self.peer = Peer(Situation(PATH))
        self.restarts: list[float] = []
        #: All offers, those for a path that still is included.
        self.offers: list[float] = []
        self.recovery = PathRecovery(cast("SignaledConnection", self), self.note, patience=120.0)
        self.given_up: list[float] = []
        self._begun = trio.current_time()

    def note(self) -> None:
        self.restarts.append(round(trio.current_time() - self._begun, 3))

    def restart(self) -> None:
        if not self.peer.awaits_answer:
            self.offers.append(round(trio.current_time() - self._begun, 3))
        self.peer.awaits_answer = True

    def lose_path(self) -> None:
        self.peer.path.path = None
        self.recovery.path_changed()

    def get_path(self) -> None:
        self.peer.path.path = PATH
        self.recovery.path_changed()

    def fade(self, *, fading: bool = True) -> None:
        self.peer.path.fading = fading
        self.recovery.path_changed()

    def hear(self, event: Event) -> None:
        self.peer.awaits_answer = False
        self.recovery.take(event)

    async def run(self) -> None:
        await self.recovery.run()
        self.given_up.append(round(trio.current_time() - self._begun, 3))


@pytest.fixture
def session(nursery: trio.Nursery) -> Session:
    session = Session()
    nursery.start_soon(session.run)
    return session


async def test_nothing_happens_while_there_is_a_path(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    await trio.sleep(1000)
    assert (session.restarts, session.given_up) == ([], [])


async def test_a_lost_path_is_answered_with_a_restart_at_once(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    await trio.sleep(5)
    session.lose_path()
    await trio.sleep(3)
    session.hear(ANSWERED)
    await trio.sleep(2)
    session.get_path()
    await trio.sleep(1000)
    assert (session.restarts, session.given_up) == ([5.0], [])


async def test_an_offer_that_expires_is_followed_by_another_until_patience_ends(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.lose_path()
    for _ in range(20):
        await trio.sleep(10)
        session.hear(EXPIRED)
    assert session.restarts == [10.0 * number for number in range(12)]
    assert session.given_up == [120.0]


async def test_an_answered_restart_gets_ten_seconds(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    session.lose_path()
    for _ in range(3):
        await trio.sleep(4)
        session.hear(ANSWERED)
        await trio.sleep(10)
    assert session.restarts == [0.0, 14.0, 28.0]


async def test_rejected_at_once_it_does_not_spin(autojump_clock: trio.testing.MockClock, session: Session) -> None:
    session.lose_path()
    for _ in range(50):
        await trio.sleep(0.1)
        session.hear(EXPIRED)
    assert session.restarts == [0.0, 1.0, 2.0, 3.0, 4.0]


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
        await trio.sleep(10)
    assert session.offers == [0.0, 11.0, 22.0]


async def test_con_03_a_path_that_fades_and_then_is_lost_is_answered_with_the_offer_that_is_out(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.fade()
    await trio.sleep(10)
    session.lose_path()
    await trio.sleep(5)
    assert (session.offers, session.restarts) == ([0.0], [10.0])
    session.hear(EXPIRED)
    await trio.sleep(1)
    assert session.offers == [0.0, 15.0]
    await trio.sleep(200)
    assert session.given_up == [130.0]


async def test_con_03_a_rejected_restart_of_a_fading_path_does_not_spin(
    autojump_clock: trio.testing.MockClock, session: Session
) -> None:
    session.fade()
    for _ in range(50):
        await trio.sleep(0.1)
        session.hear(EXPIRED)
    assert session.offers == [0.0, 1.0, 2.0, 3.0, 4.0]
