"""A peer connection joined to its signaling session: what one has to say, the other carries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from edgeice.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from edgeice.peer import CandidateGathered, CandidatesEnded, CandidateWithdrawn, ConnectionState, PathChanged
from edgeice.sansio import DropCounter, Event
from edgeice.signaling import (
    AnswerReceived,
    CandidatesReceived,
    EndOfCandidatesReceived,
    LocalOfferCanceled,
    OfferExpired,
    OfferReceived,
    OfferRejected,
    Reject,
    RejectCode,
    SignalingSession,
)
from edgeice.transport.channel import DataChannel
from edgeice.transport.peer import PeerConnection, Progress
from edgeice.transport.pump import WallClock

__all__ = ["SIGNAL_PROTOCOL", "SignaledConnection"]

SIGNAL_PROTOCOL = "edgeice.signal.1"

#: Own generations that candidates may still be sent for: the one in use, one on its way, and what was rolled back.
_GENERATIONS: Final = 4


def _nobody() -> None:
    """Where there is no broker to ask."""


class SignaledConnection:
    """Carries descriptions and candidates between a session's machine and its peer connection, on either side.

    Args:
        session: The session's signaling.
        wall: The wall clock.
        flush: Drains the signaling machine after a command to it.
        probe: Finds out whether the broker is still heard; called where the session's own path is not, or is given up
            on, which may be by the fault of a network that they share.
    """

    def __init__(
        self,
        session: SignalingSession,
        wall: WallClock,
        flush: Callable[[], None],
        probe: Callable[[], None] = _nobody,
    ) -> None:
        self.session = session
        self._peer: PeerConnection | None = None
        self._wall = wall
        self._flush = flush
        self._probe = probe
        #: Generations of the own ufrags that candidates may still be sent for.
        self._generations: dict[str, int] = {}
        self._channel: DataChannel | None = None
        self._drops = DropCounter()

    @property
    def peer(self) -> PeerConnection:
        """The peer connection; raises LocalProtocolError before `attach`."""
        if self._peer is None:
            raise LocalProtocolError("no peer connection yet")
        return self._peer

    def attach(self, peer: PeerConnection) -> None:
        """Join the peer connection, which was made with `watch` of this object."""
        self._peer = peer

    def watch(self, progress: Progress) -> None:
        """Hear what the peer connection has to say: candidates, those that go too, are sent on."""
        match progress:
            case CandidateGathered():
                self._send_candidates(progress.ufrag, (progress.candidate,))
            case CandidateWithdrawn():
                self._send_candidates(progress.ufrag, removed=(progress.candidate,))
            case CandidatesEnded():
                self._send_candidates(progress.ufrag, end=True)
            case PathChanged() if progress.path is None or progress.fading or progress.cause == "silent":
                self._probe()
            case _:
                pass

    def answer_first(self, event: OfferReceived) -> None:
        """Answer the offer that opened the session; raises DecodeError if it cannot be answered."""
        self._answer(event)

    def take(self, event: Event) -> None:
        """Act on an event of the signaling session that concerns the peer connection.

        An answer to a restart that cannot be used takes the restart back; raises DecodeError or RemoteProtocolError for
        one to the first offer.
        """
        if self.peer.state is ConnectionState.CLOSED:
            return
        match event:
            case OfferReceived():
                self._take_offer(event)
            case AnswerReceived():
                self._take_answer(event)
            case CandidatesReceived():
                for line in event.removed:
                    self.peer.remove_candidate(line, event.ufrag)
                for line in event.candidates:
                    self.peer.add_candidate(line, event.ufrag)
            case EndOfCandidatesReceived():
                self.peer.end_of_candidates(event.ufrag)
            case LocalOfferCanceled() | OfferExpired() | OfferRejected():
                if event.gen > 0:
                    self.peer.rollback()
            case _:
                raise LocalProtocolError(f"not an event of a session: {event!r}")

    def restart(self) -> None:
        """Offer an ICE restart on both roads; an own offer that is out, or a restart under way, gives way to it."""
        if self.peer.state is ConnectionState.CLOSED or self.session.ended:
            return
        if self.peer.awaits_answer:
            self.peer.rollback()
        gen = self.session.next_gen
        sdp = self.peer.restart()
        self._note_generation(gen)
        self._probe()
        self.session.offer(sdp, now=trio.current_time(), wall=self._wall())
        self._flush()

    def describe_first(self) -> str:
        """The description for the first offer."""
        sdp = self.peer.create_offer()
        self._note_generation(0)
        return sdp

    async def run_channel(self, channel: DataChannel, receive: Callable[[str], None]) -> None:
        """Use a signal channel until it closes: the session's second road.

        Canceled, it leaves the road open for sending: who ends a session has still to say goodbye.
        """
        self._channel = channel
        self.session.channel_open = True
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in channel:
                if isinstance(message, str):
                    receive(message)
                    self._flush()
                else:
                    self._drops.count("binary")
        if self._channel is channel:
            self.session.channel_open = False
            self._channel = None

    def send_on_channel(self, jws: bytes) -> None:
        """Send a message by the second road; dropped where that is not open."""
        if self._channel is not None and not self._channel.closed:
            self._channel.send_nowait(jws.decode("ascii"))

    def drops(self) -> dict[str, int]:
        """Input that was dropped, by layer and reason; what the signaling machine drops, it counts itself."""
        own = {f"signal.{reason}": count for reason, count in self._drops.snapshot().items()}
        return self.peer.drops() | own

    # Inside

    def _note_generation(self, gen: int) -> None:
        self._generations[self.peer.ufrag] = gen
        if len(self._generations) > _GENERATIONS:
            del self._generations[next(iter(self._generations))]

    def _send_candidates(
        self, ufrag: str, lines: tuple[str, ...] = (), *, removed: tuple[str, ...] = (), end: bool = False
    ) -> None:
        gen = self._generations.get(ufrag)
        if gen is not None:
            self.session.send_candidates(
                gen, ufrag, lines, removed=removed, end=end, now=trio.current_time(), wall=self._wall()
            )
            self._flush()

    def _take_offer(self, event: OfferReceived) -> None:
        if event.rolled_back or self.peer.awaits_answer:
            self.peer.rollback()
        try:
            self._answer(event)
        except DecodeError as error:
            self._reject(event, RejectCode.MALFORMED, str(error))
        except RemoteProtocolError as error:
            self._reject(event, RejectCode.UNSUPPORTED, str(error))

    def _take_answer(self, event: AnswerReceived) -> None:
        try:
            self.peer.accept_answer(event.sdp)
        except (DecodeError, RemoteProtocolError):
            if event.gen == 0:
                raise  # there is no session without it
            self._drops.count("answer")
            self.peer.rollback()

    def _answer(self, event: OfferReceived) -> None:
        sdp = self.peer.accept_offer(event.sdp)
        self._note_generation(event.gen)
        self.session.answer(event.gen, sdp, wall=self._wall())
        self._flush()

    def _reject(self, event: OfferReceived, code: RejectCode, reason: str) -> None:
        self.session.reject(event.gen, Reject(code, reason), now=trio.current_time(), wall=self._wall())
        self._flush()
