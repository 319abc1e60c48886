"""One session's candidate pairs seen from above: a way to send datagrams, and a filter for those that come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from edgeice import stun
from edgeice.addresses import Path
from edgeice.errors import DecodeError
from edgeice.ice import CandidatePolicy, IceCredentials, IceSession, NamedCandidate, decode_candidate
from edgeice.peer.hidden import HiddenCandidates
from edgeice.peer.routes import Routes
from edgeice.sansio import Action, DropCounter, Transmit
from edgeice.trace import Record, Tracer, ignore

__all__ = ["IceLink"]

#: Datagrams kept while no path has consent yet, such as a server's answer to an early ClientHello.
HELD_LIMIT = 32
#: Characters of a candidate line that cannot be used in a trace.
_SHOWN = 200

_BINDING_REQUEST = b"\0\1"


class IceLink:
    """An ICE session with its routes: what a session with DTLS and one without have in common.

    Args:
        session_id: The session's key in the routing tables.
        ice: The ICE session.
        routes: The Endpoint's routing tables.
        tracer: Hears what happens to the session.

    Attributes:
        drops: Datagrams dropped here, by reason: `no-path` (nothing has consent), `held-full`, and those of candidate
            lines that are ignored (RFC 8839 §5.1): those of the decoder, of `HiddenCandidates`, and `candidate_mdns`
            (names are not looked up here).
    """

    def __init__(self, session_id: int, ice: IceSession, routes: Routes[int], tracer: Tracer = ignore) -> None:
        self.ice = ice
        self._tracer = tracer
        self.drops = DropCounter()
        self._session_id = session_id
        self._routes = routes
        self._hidden = HiddenCandidates(ice.knows_remote, self.drops)
        self._held: deque[bytes] = deque()
        self._out: deque[Transmit] = deque()
        self._closed = False
        routes.bind_ufrags(session_id, ice.ufrags())

    @property
    def is_traced(self) -> bool:
        """Whether anybody hears what happens."""
        return self._tracer is not ignore

    def trace(self, now: float, name: str, **fields: object) -> None:
        """Record what happened."""
        if self.is_traced:
            self._tracer(Record(now, "peer", name, fields))

    def receive(self, data: bytes, path: Path, *, now: float) -> bool:
        """Take a datagram; True if it is for the layer above."""
        if not stun.is_stun(data):
            return True
        self.ice.receive_stun(data, path, now=now)
        if self._routes.by_path(path) is None and self.ice.accepts(path):
            self._routes.claim(self._session_id, path)
        return False

    def send(self, data: bytes) -> None:
        """Send a datagram on the path that carries data; before the first one it waits (RFC 7675 §5.1)."""
        path = self.ice.send_path
        if path is not None:
            self._out.append(Transmit(path, data))
        elif len(self._held) < HELD_LIMIT:
            self._held.append(data)
        else:
            self.drops.count("held-full")

    def release(self) -> None:
        """Send what waited, now that a path carries data."""
        path = self.ice.send_path
        while path is not None and self._held:
            self._out.append(Transmit(path, self._held.popleft()))

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that has come."""
        self.ice.handle_timeout(now=now)
        self._routes.age(now=now)

    def add_remote_candidates(self, lines: Iterable[str], ufrag: str, *, now: float) -> None:
        """Take candidate lines of the peer; one that cannot be used is counted and ignored (RFC 8839 §5.1)."""
        candidates = []
        for line in lines:
            try:
                candidate = decode_candidate(line)
            except DecodeError as error:
                self.drops.count(error.reason)
                self.trace(now, "remote_candidate", ufrag=ufrag, candidate=line[:_SHOWN], ignored=error.reason)
                continue
            self.trace(now, "remote_candidate", ufrag=ufrag, candidate=line)
            if isinstance(candidate, NamedCandidate):
                self._add_hidden(candidate, ufrag)
            else:
                candidates.append(candidate)
        if candidates:
            self.ice.add_remote_candidates(candidates, ufrag=ufrag, now=now)

    def remove_remote_candidates(self, lines: Iterable[str], ufrag: str, *, now: float) -> None:
        """Take candidate lines that the peer withdrew; one that cannot be read is counted and ignored."""
        candidates = []
        for line in lines:
            try:
                candidate = decode_candidate(line)
            except DecodeError as error:
                self.drops.count(error.reason)
                continue
            self.trace(now, "remote_candidate_withdrawn", ufrag=ufrag, candidate=line)
            if isinstance(candidate, NamedCandidate):
                self.drops.count("candidate_mdns")  # who hides addresses so does not know mobility
            else:
                candidates.append(candidate)
        if candidates:
            self.ice.remove_remote_candidates(candidates, ufrag=ufrag, now=now)

    def _add_hidden(self, candidate: NamedCandidate, ufrag: str) -> None:
        config = self.ice.config
        # A session that only relays tells nothing on the local network (draft-ietf-mmusic-mdns-ice-candidates §3.2.1).
        if config.resolve_names and config.policy is not CandidatePolicy.RELAY:
            self._hidden.add(candidate, ufrag)
        else:
            self.drops.count("candidate_mdns")

    def end_of_candidates(self, ufrag: str, *, now: float) -> None:
        """The peer has no more candidates of this generation; names that are still looked up are waited for."""
        if self._hidden.end(ufrag):
            self.ice.end_of_remote_candidates(ufrag=ufrag, now=now)

    def resolved(self, name: str, addresses: Sequence[str], *, now: float) -> bool:
        """A name was looked up; False if it is no candidate's of this session."""
        if name not in self._hidden:
            return False
        for candidate, ufrag in self._hidden.resolved(name, addresses):
            self.ice.add_remote_candidate(candidate, ufrag=ufrag, now=now)
        for ufrag in self._hidden.take_ended():
            self.ice.end_of_remote_candidates(ufrag=ufrag, now=now)
        return True

    def restart(self, *, now: float) -> IceCredentials:
        """Open a new generation beside the working one; gives its credentials."""
        credentials = self.ice.restart(now=now)
        self.rebind()
        return credentials

    def note_selected(self, path: Path | None) -> None:
        """Tell the routing tables which pair the ends agreed on."""
        self._routes.select(self._session_id, path)

    def rebind(self) -> None:
        """Tell the routing tables which ufrags are alive, after a restart began or ended."""
        if not self._closed:
            self._routes.bind_ufrags(self._session_id, self.ice.ufrags())

    def close(self, *, now: float) -> None:
        """End the ICE session and let go of every route."""
        self.ice.close(now=now)
        self._closed = True
        self._held.clear()
        self._hidden.clear()
        self._routes.forget(self._session_id)

    def poll_action(self) -> Action | None:
        """Checks first, then data, then names to look up."""
        action = self.ice.poll_action()
        if action is None:
            return self._out.popleft() if self._out else self._hidden.poll_action()
        is_request = isinstance(action, Transmit) and action.data[:2] == _BINDING_REQUEST
        # On a path that is the session's own every answer comes to it.
        if is_request and self._routes.by_path(action.path) != self._session_id:
            self._routes.note_request(self._session_id, action.data[8:20])
        return action
