"""Whole agents: sessions that take any description and any candidate line, and an honest description after that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from edgeice.addresses import Base, TransportAddress
from edgeice.dtls import Certificate
from edgeice.errors import DecodeError, RemoteProtocolError
from edgeice.ice import Role
from edgeice.ice.destinations import refused_destination
from edgeice.peer import Connection, ConnectionState, Endpoint, EndpointConfig
from edgeice.sansio import Entropy, Transmit
from tests.property.target import TAKEN, Target

__all__ = ["NEGOTIATIONS"]

_VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
_NOW = 100.0
#: Datagrams in a minute of a session with a peer that never answers: what its pacing allows, and no more.
_MOST = 5000


@cache
def _certificate() -> Certificate:
    return Certificate.generate()


class _Agent:
    """An endpoint with one session, which sends into the void."""

    def __init__(self, role: Role, *, seed: int = 3) -> None:
        self.now = _NOW
        self.endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(seed))
        self.endpoint.base_added(Base(TransportAddress("192.0.2.1", 4000), "eth0"), now=_NOW)
        self.endpoint.base_added(Base(TransportAddress("2001:db8::1", 4000), "eth0"), now=_NOW)
        self.session: Connection = self.endpoint.connect(_certificate(), role, now=_NOW)
        self.sent = 0

    def drain(self) -> None:
        """Send and hear."""
        for machine in (self.endpoint, self.session):
            while (action := machine.poll_action()) is not None:
                if isinstance(action, Transmit):
                    self.sent += 1
                    assert refused_destination(action.path.remote, allow_loopback=False) is None, action.path.remote
            while machine.poll_event() is not None:
                pass

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(20_000):
            self.drain()
            times = (machine.next_timeout() for machine in (self.endpoint, self.session))
            at = min((at for at in times if at is not None), default=end + 1)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            for machine in (self.endpoint, self.session):
                machine.handle_timeout(now=self.now)
        raise AssertionError("time does not pass")

    def trickle(self, text: str) -> None:
        """Take every line as a candidate of the peer."""
        ufrag = self.session._negotiation.remote.ufrag if self.session._negotiation.remote else "none"
        for line in text.splitlines()[:100]:
            self.session.add_remote_candidate(line, ufrag, now=self.now)


def _refusal(error: RemoteProtocolError) -> str:
    return error.reason if isinstance(error, DecodeError) else "refused"


def _offered(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    outcome = TAKEN
    agent = _Agent(Role.CONTROLLED)
    try:
        agent.session.accept_offer(text, now=agent.now)
    except RemoteProtocolError as error:
        outcome = _refusal(error)
        agent.session.accept_offer(_honest_offer(), now=agent.now)
    agent.trickle(text)
    agent.run(60.0)
    assert agent.sent <= _MOST
    _again(agent, text)
    return outcome


def _answered(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    outcome = TAKEN
    agent = _Agent(Role.CONTROLLING)
    offer = agent.session.create_offer(now=agent.now)
    try:
        agent.session.accept_answer(text, now=agent.now)
    except RemoteProtocolError as error:
        outcome = _refusal(error)
        agent.session.accept_answer(_answer_to(offer), now=agent.now)
    agent.trickle(text)
    agent.run(20.0)
    assert agent.sent <= _MOST
    _again(agent, text)
    return outcome


def _again(agent: _Agent, text: str) -> None:
    """The same as a restart of a running session, which it may refuse."""
    if agent.session.state is not ConnectionState.CLOSED:
        with suppress(RemoteProtocolError):
            agent.session.accept_offer(text, now=agent.now)
    agent.run(1.0)
    agent.session.close(now=agent.now)
    agent.drain()


@cache
def _honest_offer() -> str:
    return _Agent(Role.CONTROLLING, seed=30).session.create_offer(now=_NOW)


def _answer_to(offer: str) -> str:
    return _Agent(Role.CONTROLLED, seed=30).session.accept_offer(offer, now=_NOW)


@cache
def _seeds() -> Sequence[bytes]:
    return tuple(path.read_bytes() for path in sorted(_VECTORS.glob("*.sdp")))


_TOKENS = (
    b"\r\n",
    b"a=candidate:1 1 udp 2122260223 127.0.0.1 5000 typ host\r\n",
    b"a=candidate:2 1 udp 2122260223 169.254.169.254 80 typ host\r\n",
    b"a=candidate:3 1 udp 2122260223 ::ffff:224.0.0.1 5000 typ host\r\n",
    b"a=candidate:4 1 udp 1 64:ff9b::7f00:1 5000 typ relay raddr :: rport 9\r\n",
    b"a=ice-lite\r\n",
    b"a=setup:passive\r\n",
    b"a=end-of-candidates\r\n",
    b"a=ice-options:renomination\r\n",
    b"a=mid:1\r\n",
    b"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
)

NEGOTIATIONS = (
    Target(name="offer", seeds=_seeds, check=_offered, tokens=_TOKENS, examples=60),
    Target(name="answer", seeds=_seeds, check=_answered, tokens=_TOKENS, examples=40),
)
