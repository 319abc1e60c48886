"""Server-reflexive addresses, learned once per base and lent to all sessions (RFC 8445 §5.1.1.2).

Every server is asked from every base of its family, each under its own transaction.  Ta limits only how often one
begins, so a server that is dead delays nobody.  Answers are asked for again at an interval, which also keeps the NAT's
binding (RFC 8445 §5.1.1.4).
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from edgeice import ice, stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import ConfigError, DecodeError
from edgeice.sansio import REFUSALS, Action, Entropy, Event, Resolve, Transmit

__all__ = ["Reflexive"]

#: Seconds between two questions to a server from one base; NATs hold a binding for 30 s or more (RFC 4787 §4.3).
_REFRESH: Final = 25.0
#: RFC 8489 §8.1.
_SERVICE: Final = "_stun._udp"
#: Addresses that one server name may stand for.
_MAX_ADDRESSES: Final = 4
#: Servers asked at most.
_MAX_SERVERS: Final = 8


@attrs.define(eq=False)
class _Query:
    base: TransportAddress
    server: TransportAddress
    #: When to ask (again); counts while no answer is awaited.
    due_at: float
    transaction: stun.Transaction | None = None
    #: The answer, or its absence, is known.
    settled: bool = False
    #: The last time, there was no answer.
    failing: bool = False
    mapped: TransportAddress | None = None


class Reflexive:
    """Asks STUN servers from every base.

    Args:
        servers: `stun:HOST[:PORT]`; raises ConfigError for anything else.
        config: Timings.
        turn: That of all gathering: one new transaction per Ta (RFC 8445 §5.1.1.2), and as many from all agents of the
            host as it bears (§14.2).
        entropy: For transaction ids.
        public: Local IP -> the public one that a NAT maps it to, one to one with ports kept: known without asking.
    """

    def __init__(
        self,
        servers: tuple[str, ...],
        config: ice.IceConfig,
        turn: ice.SharedTurn,
        entropy: Entropy,
        public: Mapping[str, str] | None = None,
    ) -> None:
        if len(servers) > _MAX_SERVERS:
            raise ConfigError(f"ice.stun: {len(servers)} servers, at most {_MAX_SERVERS} are asked")
        self._config = config
        self._turn = turn
        self._entropy = entropy
        self._public = public or {}
        self._bases: list[TransportAddress] = []
        self._servers: list[TransportAddress] = []
        #: Names and services that are being looked up, with the ports to use where DNS tells none.
        self._unresolved: dict[tuple[str, str], int] = {}
        self._queries: dict[tuple[TransportAddress, TransportAddress], _Query] = {}
        self._actions: deque[Action] = deque()
        self._events: deque[Event] = deque()
        self._new: list[ice.ServerReflexiveLearned] = []
        for text in servers:
            self._add_server(text)

    def _add_server(self, text: str) -> None:
        try:
            uri = stun.parse_uri(text)
        except DecodeError as error:
            raise ConfigError(f"ice.stun: {text!r}: {error}") from None
        if uri.is_turn or uri.is_secure:
            raise ConfigError(f"ice.stun: {text!r}: only stun: servers are asked")
        if uri.is_address:
            self._servers.append(TransportAddress.parse(uri.host, uri.effective_port))
        else:
            # RFC 8489 §8.1: a port says which server it is; without one DNS may say.
            service = _SERVICE if uri.port is None else ""
            self._unresolved[uri.host, service] = uri.effective_port
            self._actions.append(Resolve(uri.host, service=service))

    @property
    def servers(self) -> tuple[TransportAddress, ...]:
        """Addresses of the servers, as far as they are known."""
        return tuple(self._servers)

    # Inputs

    def base_added(self, base: Base, *, now: float) -> None:
        """Ask every server from a new base."""
        self._bases.append(base.address)
        self._new += self._known([base.address])
        for server in self._servers:
            self._ask(base.address, server, now)
        self._work(now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """Forget a base and its questions."""
        self._bases.remove(address)
        self._queries = {key: query for key, query in self._queries.items() if key[0] != address}
        self._work(now)

    def resolved(self, name: str, addresses: list[str], *, now: float) -> None:
        """A server's name was looked up."""
        self.located(name, "", [(ip, None) for ip in addresses], now=now)

    def located(self, name: str, service: str, servers: Sequence[tuple[str, int | None]], *, now: float) -> None:
        """The servers under a name were looked up.

        The first of them are asked at once, so that none has to be waited for (RFC 8489 §8.1 would try one by one).
        """
        default = self._unresolved.pop((name, service), None)
        if default is None:
            return
        if not servers:
            self._events.append(ice.ServerNameUnknown(f"stun:{name}:{default}"))
        for ip, port in servers[:_MAX_ADDRESSES]:
            server = TransportAddress(str(ipaddress.ip_address(ip)), default if port is None else port)
            self._servers.append(server)
            for base in self._bases:
                self._ask(base, server, now)
        self._work(now)

    def socket_error(self, path: Path, error: int) -> bool:
        """The kernel would not send to a server (an errno): gathering does not wait for it (RFC 8489 §6.2.1).

        It is asked on all the same, since a route may come a moment after the address.  False where that means nothing.
        """
        query = self._queries.get((path.local, path.remote))
        if query is None or query.settled or error not in REFUSALS:
            return False
        query.settled = True
        return True

    def receive(self, data: bytes, path: Path, *, now: float) -> bool:
        """Take a STUN response; False if it is not to a question of this object."""
        query = self._queries.get((path.local, path.remote))
        if query is None or query.transaction is None:
            return False
        try:
            message = stun.decode(data)
        except DecodeError:
            return False
        if not query.transaction.receive(message, now=now):
            return False
        self._work(now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Ask, repeat, give up."""
        for query in self._queries.values():
            if query.transaction is not None:
                query.transaction.handle_timeout(now=now)
        self._work(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        times: list[float] = []
        for query in self._queries.values():
            at = query.due_at if query.transaction is None else query.transaction.next_timeout()
            if at is not None:
                # One that is due waits for its turn.
                times.append(max(at, self._turn.opens_at) if query.transaction is None else at)
        return min(times, default=None)

    def poll_action(self) -> Action | None:
        """Requests, and names to look up."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """What servers said."""
        return self._events.popleft() if self._events else None

    def learned(self) -> list[ice.ServerReflexiveLearned]:
        """All that is known."""
        return self._known(self._bases) + [
            ice.ServerReflexiveLearned(query.base, query.mapped, query.server)
            for query in self._queries.values()
            if query.mapped is not None
        ]

    def _known(self, bases: Iterable[TransportAddress]) -> list[ice.ServerReflexiveLearned]:
        """What is known without asking; the NAT itself stands for the server."""
        mapped = [(base, attrs.evolve(base, ip=self._public[base.ip])) for base in bases if base.ip in self._public]
        return [ice.ServerReflexiveLearned(base, public, public) for base, public in mapped]

    def asked(self) -> list[tuple[str, TransportAddress | None]]:
        """Servers that never answered so far, each with the base; without one where its name is looked up."""
        names = [(f"stun:{name}", None) for name, _service in self._unresolved]
        silent = [query for query in self._queries.values() if query.mapped is None and not query.failing]
        return names + [(f"stun:{query.server}", query.base) for query in silent]

    def take_learned(self) -> list[ice.ServerReflexiveLearned]:
        """What was learned since the last call."""
        new, self._new = self._new, []
        return new

    @property
    def finished(self) -> bool:
        """Whether every server was asked from every base, or has had its time."""
        return bool(self._bases) and not self._unresolved and all(query.settled for query in self._queries.values())

    # Inside

    def _ask(self, base: TransportAddress, server: TransportAddress, now: float) -> None:
        # Two names may stand for one address.
        if base.family == server.family and (base, server) not in self._queries:
            self._queries[base, server] = _Query(base, server, now)

    def _work(self, now: float) -> None:
        for query in self._queries.values():
            if query.transaction is not None:
                self._settle(query, query.transaction, now)
        while (due := self._next_due(now)) is not None:
            if not self._turn.take(self, now):
                return
            self._begin(due, now)
        self._turn.release(self, now)

    def _next_due(self, now: float) -> _Query | None:
        """Whose turn it is: who was never asked, then who has waited for longest."""
        due = (each for each in self._queries.values() if each.transaction is None and each.due_at <= now)
        return min(due, key=lambda each: (each.settled, each.due_at), default=None)

    def _begin(self, query: _Query, now: float) -> None:
        transaction_id = stun.new_transaction_id(self._entropy)
        # RFC 8445 §5.1.1.2: without authentication.
        request = stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, transaction_id, [])
        # RFC 8445 §14.3: with many to ask a repetition waits until all were asked once.
        rto = max(self._config.rto, self._config.pacing * len(self._queries))
        query.transaction = stun.Transaction(request, now=now, policy=stun.RetransmissionPolicy(rto=rto))
        self._settle(query, query.transaction, now)

    def _settle(self, query: _Query, transaction: stun.Transaction, now: float) -> None:
        while (data := transaction.poll_transmit()) is not None:
            self._actions.append(Transmit(Path(query.base, query.server), data))
        outcome = transaction.outcome
        if outcome is None:
            return
        query.transaction = None
        query.settled = True
        query.due_at = now + _REFRESH * self._entropy.jitter.uniform(0.9, 1.1)
        mapped = None
        if isinstance(outcome, stun.TransactionSucceeded):
            mapped = outcome.response.get(stun.Attribute.XOR_MAPPED_ADDRESS)
        if isinstance(mapped, TransportAddress):
            learned = ice.ServerReflexiveLearned(query.base, mapped, query.server)
            if mapped != query.mapped:
                self._new.append(learned)
            if mapped != query.mapped or query.failing:
                self._events.append(learned)
            query.mapped, query.failing = mapped, False
            return
        query.failing = True
        reason = "malformed"
        if isinstance(outcome, stun.TransactionRejected):
            reason = f"error_{outcome.error.code}"
        elif isinstance(outcome, stun.TransactionFailed):
            reason = outcome.reason.value
        self._events.append(ice.ServerUnanswered(query.base, query.server, reason))
