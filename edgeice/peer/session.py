"""What all sessions have in common: an ICE session below, an Endpoint that feeds it, an owner who hears events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from functools import partial

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.peer.events import ConnectionEnded, ConnectionState, StateChanged
from edgeice.peer.link import IceLink
from edgeice.peer.pathways import Pathways
from edgeice.peer.verdict import Phases, session_verdict
from edgeice.sansio import Action, Event

__all__ = ["PeerSession"]


class PeerSession(ABC):
    """A session of an Endpoint: it brings what happens to its ICE session, and `_pump` draws the conclusions.

    Args:
        session_id: The session's key in the Endpoint.
        link: Its ICE session and routes.
        now: Present time.
    """

    def __init__(self, session_id: int, link: IceLink, *, now: float) -> None:
        self.session_id = session_id
        self._link = link
        self._events: deque[Event] = deque()
        self._pathways = Pathways(link, self._events.append)
        self._pathways.take_events(now=now)  # candidates on the bases that there are
        self._state = ConnectionState.NEW
        self._phases = Phases(now)
        #: What ended it, with its verdict.
        self._ended: ConnectionEnded | None = None
        #: When the peer was last heard, seconds; 0 before that.  Only what is authenticated is the peer's.
        self.heard_at = 0.0
        #: What was authenticated by then.
        self._heard = 0

    @property
    def state(self) -> ConnectionState:
        """Where the session stands."""
        return self._state

    @property
    def pathways(self) -> Pathways:
        """The candidate pair in use, and what is known of it."""
        return self._pathways

    @property
    def mobility(self) -> bool:
        """Whether both ends move data from pair to pair by themselves (`edgeice-mobility`)."""
        return self._link.ice.mobility

    def verdict(self, *, now: float) -> Mapping[str, object]:
        """What was tried, what became of it, and where the time went: see `edgeice.peer.verdict`."""
        return self._judge(None, self._state, now) if self._ended is None else self._ended.verdict

    # Commands

    def add_remote_candidate(self, line: str, ufrag: str, *, now: float) -> None:
        """Take a trickled candidate line; what cannot be used is counted and ignored."""
        self._link.add_remote_candidates((line,), ufrag, now=now)
        self._pump(now)

    def remove_remote_candidate(self, line: str, ufrag: str, *, now: float) -> None:
        """The peer withdrew a candidate; what is not known is counted and ignored."""
        self._link.remove_remote_candidates((line,), ufrag, now=now)
        self._pump(now)

    def end_of_candidates(self, ufrag: str, *, now: float) -> None:
        """The peer has no more candidates of this generation."""
        self._link.end_of_candidates(ufrag, now=now)
        self._pump(now)

    def close(self, *, now: float) -> None:
        """End the session at once; the peer is told where there is a protocol for it."""
        self._end(ConnectionEnded("closed", "closed here"), now)

    # From the endpoint

    def base_added(self, base: Base, *, now: float) -> None:
        """A base can be used."""
        self._link.ice.base_added(base, now=now)
        self._pump(now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """A base is gone."""
        self._link.ice.base_removed(address, now=now)
        self._pump(now)

    def server_reflexive_learned(
        self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress, *, now: float
    ) -> None:
        """A STUN server sees `base` as `mapped`."""
        self._link.ice.add_server_reflexive(base, mapped, server, now=now)
        self._pump(now)

    def resolved(self, name: str, addresses: list[str], *, now: float) -> bool:
        """A name was looked up; False if it is no candidate's of this session."""
        if not self._link.resolved(name, addresses, now=now):
            return False
        self._pump(now)
        return True

    def socket_error(self, path: Path, errno: int, *, now: float) -> bool:
        """A datagram could not be sent on a path; False if the session checks no pair there."""
        if not self._link.ice.socket_error(path, errno, now=now):
            return False
        self._pump(now)
        return True

    def gathering_finished(self, *, now: float) -> None:
        """No more local candidates will come of their own."""
        self._link.ice.end_of_local_candidates(now=now)
        self._pump(now)

    # Inputs

    @abstractmethod
    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a datagram that the endpoint routed here."""

    def batch_received(self, *, now: float) -> None:
        """Act on the datagrams that came."""
        heard = self._authenticated
        if heard != self._heard:
            self._heard = heard
            self.heard_at = now
            self._pathways.heard(now=now)
        self._pump(now)

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that has come."""
        if self._state is not ConnectionState.CLOSED:
            self._link.handle_timeout(now=now)
            self._pump(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        return None if self._state is ConnectionState.CLOSED else self._link.ice.next_timeout()

    def poll_action(self) -> Action | None:
        """The next datagram to send."""
        return self._link.poll_action()

    def poll_event(self) -> Event | None:
        """The next thing that the owner should know."""
        return self._events.popleft() if self._events else None

    # Inside

    @property
    def _authenticated(self) -> int:
        """Datagrams so far that only the peer can have sent."""
        return self._link.ice.authenticated

    @abstractmethod
    def _pump(self, now: float) -> None:
        """Act on what the ICE session has to say."""

    def _end(self, ended: ConnectionEnded, now: float) -> None:
        """Let go of everything; does nothing a second time."""
        if self._state is not ConnectionState.CLOSED:
            # Put together only for who asks: most sessions end as they should.
            self._ended = attrs.evolve(ended, judge=partial(self._judge, ended, self._state, now))
            self._set_state(ConnectionState.CLOSED, now)
            self._link.close(now=now)
            self._events.append(self._ended)

    def _judge(self, ended: ConnectionEnded | None, state: ConnectionState, now: float) -> dict[str, object]:
        ice = self._link.ice
        verdict = session_verdict(
            report=ice.report(now=now),
            phases=self._phases,
            state=state,
            path=self._pathways.last,
            ended=ended,
            now=now,
        )
        return {
            **verdict,
            "gathered": self._pathways.gathered_after(self._phases.began_at),
            "policy": ice.config.policy.value,
            "role": ice.role.value,
            "generation": ice.generation,
        }

    def _set_state(self, state: ConnectionState, now: float) -> None:
        if state is not self._state:
            self._link.trace(now, "state", state=state, was=self._state)
            self._state = state
            self._phases.enter(state, now)
            self._events.append(StateChanged(state))
