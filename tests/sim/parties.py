"""The owners of sessions: they carry signaling to and fro, and restart ICE when the path is lost."""

from __future__ import annotations

from collections.abc import Iterable

from edgeice.errors import LocalProtocolError
from edgeice.ice import IceCredentials, RemoteParameters, Role
from edgeice.peer import (
    CandidateGathered,
    CandidatesEnded,
    ConnectionEnded,
    ConnectionState,
    DatagramReceived,
    IceConnection,
    PathChanged,
    RestartEnded,
)
from edgeice.sansio import Event
from tests.sim.agents import Agent
from tests.sim.signaling import (
    CandidateSaid,
    CandidatesEndedSaid,
    Description,
    Mailbox,
    Message,
    RestartWanted,
)

__all__ = ["Party"]


class Party:
    """The owner of one end of a session: it carries signaling to and fro, and restarts ICE when the path is lost.

    Args:
        agent: Whose session it is.
        role: Who nominates.
        offers: This end makes the offers, also those of restarts.
        trickles: Offers and answers go out at once; otherwise when gathering has ended.
    """

    def __init__(self, agent: Agent, role: Role, *, offers: bool, trickles: bool = True) -> None:
        self.agent = agent
        self.offers = offers
        self.trickles = trickles
        self.peer: Party
        self.mailbox: Mailbox
        #: Counts restarts.
        self.generation = 0
        self.path = PathChanged(None)
        self.ended: ConnectionEnded | None = None
        self.received: list[bytes] = []
        #: Whether the owner restarts when the path is lost.
        self.recovers = True
        #: Candidates that a description waits for, while this end does not trickle; None while none is to be made.
        self._waiting: list[str] | None = None
        #: An offer that is answered once all candidates are known, and what the peer said after it.
        self._unanswered: Description | None = None
        self._held: list[CandidateSaid | CandidatesEndedSaid] = []
        #: An offer is out or a restart under way.
        self._restarting = False
        #: The peer's parameters were taken once.
        self.is_answered = False
        self.connection: IceConnection = agent.endpoint.connect_raw(role, now=agent.now)
        agent.parties.append(self)

    @property
    def name(self) -> str:
        """Of its host."""
        return self.agent.name

    @property
    def is_connected(self) -> bool:
        """Whether a nominated pair carries data."""
        return self.connection.state is ConnectionState.CONNECTED and self.path.nominated

    @property
    def is_settled(self) -> bool:
        """Connected, and no restart is under way."""
        return self.is_connected and not self._restarting

    def say(self, message: Message) -> None:
        """Signal something to the peer."""
        self.agent.watch.said(self, message)
        self.mailbox.send(message)

    # Commands

    def describe(self) -> None:
        """Make an offer or answer; where this end does not trickle, once all candidates are known."""
        if self.ended is not None:
            return
        candidates, ended = self.connection.local_candidates(now=self.agent.now)
        if ended or self.trickles:
            self._say_description(candidates, ended=ended)
        else:
            self._waiting = list(candidates)
        self.agent.settle()

    def _say_description(self, candidates: Iterable[str], *, ended: bool) -> None:
        self._waiting = None
        credentials = self.connection.credentials
        self.say(
            Description(
                is_offer=self.offers,
                generation=self.generation,
                ufrag=credentials.ufrag,
                pwd=credentials.pwd,
                candidates=tuple(candidates),
                ended=ended,
                trickle=self.trickles,
                pacing=self.agent.config.pacing,
            )
        )
        if self._unanswered is not None:
            offer, self._unanswered = self._unanswered, None
            self._take_parameters(offer)
            held, self._held = self._held, []
            for message in held:
                self._take_candidate(message)

    def restart(self, *, again: bool = False) -> None:
        """Restart ICE, by an offer or by asking for one; `again`: also while a restart is under way."""
        if self.ended is not None or not self.is_answered or (self._restarting and not again):
            return  # before the first answer there is nothing to restart
        if not self.offers:
            self.say(RestartWanted(self.generation))
            return
        self._begin_generation(self.generation + 1)
        self.describe()

    def _begin_generation(self, generation: int) -> None:
        self.generation = generation
        self._restarting = True
        self._waiting = None
        self.connection.restart(now=self.agent.now)

    def close(self) -> None:
        """End the session."""
        self.connection.close(now=self.agent.now)
        self.agent.settle()

    def _release(self) -> None:
        """Let go of what has ended."""
        self.agent.parties.remove(self)
        self.agent.endpoint.release(self.connection, now=self.agent.now)
        self.agent.settle()

    def send(self, data: bytes) -> bool:
        """Send a datagram; False where no path carries data."""
        try:
            self.connection.send(data)
        except LocalProtocolError:
            return False
        self.agent.settle()
        return True

    # What comes

    def deliver(self, message: Message, again: bool) -> None:
        """Take a message of the peer."""
        if self.ended is not None:
            return
        if not again:
            self.agent.watch.heard(self, message)
        if isinstance(message, Description):
            if not again:
                self._take_description(message)
        elif isinstance(message, RestartWanted):
            if not again and message.generation == self.generation:
                self.restart(again=True)
        elif self._unanswered is not None and message.ufrag == self._unanswered.ufrag:
            self._held.append(message)
        else:
            self._take_candidate(message)
        self.agent.settle()

    def _take_description(self, message: Description) -> None:
        if self.offers:
            if message.generation == self.generation:  # otherwise another offer has replaced the one it answers
                self._take_parameters(message)
            return
        if message.generation > self.generation:
            self._begin_generation(message.generation)
        # Nothing is asked of the peer before it knows who asks.
        self._unanswered = message
        self._held.clear()
        self.describe()

    def _take_parameters(self, message: Description) -> None:
        now = self.agent.now
        self.is_answered = True
        self.agent.watch.taken(self, message)
        parameters = RemoteParameters(
            credentials=IceCredentials.parse(message.ufrag, message.pwd), trickle=message.trickle, pacing=message.pacing
        )
        self.connection.set_remote(parameters, now=now)
        for line in message.candidates:
            self.connection.add_remote_candidate(line, message.ufrag, now=now)
        if message.ended:
            self.connection.end_of_candidates(message.ufrag, now=now)

    def _take_candidate(self, message: CandidateSaid | CandidatesEndedSaid) -> None:
        now = self.agent.now
        if isinstance(message, CandidateSaid):
            self.connection.add_remote_candidate(message.line, message.ufrag, now=now)
        else:
            self.connection.end_of_candidates(message.ufrag, now=now)

    def take(self, event: Event) -> None:
        """Hear what the session tells."""
        self.agent.watch.told(self, event)
        match event:
            case CandidateGathered() | CandidatesEnded():
                self._say_candidate(event)
            case PathChanged():
                self.path = event
                if event.path is None and self.recovers:
                    self.agent.network.clock.after(0.0, self._recover)
            case RestartEnded():
                self._restarting = False
                if not event.succeeded and self.recovers:
                    self.agent.network.clock.after(1.0, self._recover)
            case ConnectionEnded():
                self.ended = event
                self.agent.network.clock.after(0.0, self._release)
            case DatagramReceived():
                self.received.append(event.data)
            case _:
                pass

    def _say_candidate(self, event: CandidateGathered | CandidatesEnded) -> None:
        if self._waiting is None:
            if isinstance(event, CandidatesEnded):
                self.say(CandidatesEndedSaid(event.ufrag))
            else:
                self.say(CandidateSaid(event.candidate, event.ufrag))
        elif isinstance(event, CandidatesEnded):
            self._say_description(self._waiting, ended=True)
        else:
            self._waiting.append(event.candidate)

    def _recover(self) -> None:
        if self.path.path is None and self.ended is None:
            self.restart()
