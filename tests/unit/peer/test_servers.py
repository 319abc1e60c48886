"""What STUN servers may say and do to gathering (checklist STUN-11, STUN-32, STUN-51, STUN-54)."""

from __future__ import annotations

import errno

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import Role, ServerNameUnknown, ServerReflexiveLearned, ServerUnanswered
from edgeice.peer import Endpoint, EndpointConfig, RelayFailed, TurnServer
from edgeice.sansio import REFUSALS, Action, Entropy, Event, OpenFlow, Resolve, Transmit, drain
from tests.support.stun_wire import tlv

BASE = TransportAddress("192.0.2.1", 4000)
SERVER = TransportAddress("203.0.113.1", 3478)
ELSEWHERE = TransportAddress("203.0.113.99", 3478)
MAPPED = TransportAddress("198.51.100.1", 50000)
SUCCESS, ERROR = stun.MessageClass.SUCCESS, stun.MessageClass.ERROR


class Host:
    """An endpoint with one base that asks one server."""

    def __init__(self, uri: str = f"stun:{SERVER}") -> None:
        self.now = 10.0
        self.endpoint = Endpoint(EndpointConfig(stun=(uri,)), entropy=Entropy.seeded(1))
        self.requests: list[tuple[Path, stun.Message]] = []
        self.names: list[Resolve] = []
        self.events: list[Event] = []
        self.endpoint.base_added(Base(BASE, "eth0"), now=self.now)
        self.drain()

    def drain(self) -> None:
        drain(self.endpoint, self._act, self.events.append)

    def _act(self, action: Action) -> None:
        if isinstance(action, Resolve):
            self.names.append(action)
            return
        assert isinstance(action, Transmit)
        self.requests.append((action.path, stun.decode(action.data)))

    def answer(
        self, message_class: stun.MessageClass, *attributes: tuple[stun.Attribute, object], extra: bytes = b""
    ) -> None:
        """Answer the latest request; `extra` are attributes as they stand on the wire."""
        path, request = self.requests[-1]
        data = stun.encode(stun.Method.BINDING, message_class, request.transaction_id, attributes, fingerprint=False)
        data = data[:2] + (len(data) + len(extra) - 20).to_bytes(2) + data[4:] + extra
        assert self.endpoint.receive_datagram(data, path, now=self.now) is None
        self.drain()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.endpoint.next_timeout()) is not None and at <= until:
            self.now = max(self.now, at)
            self.endpoint.handle_timeout(now=self.now)
            self.drain()
        self.now = until

    def locate(self, *servers: tuple[str, int | None], service: str = "_stun._udp") -> None:
        self.endpoint.located("stun.example", service, list(servers), now=self.now)
        self.drain()
        self.run(1.0)

    @property
    def asked(self) -> set[TransportAddress]:
        return {path.remote for path, _ in self.requests}

    @property
    def is_gathered(self) -> bool:
        return self.endpoint._is_gathered

    @property
    def unanswered(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, ServerUnanswered)]

    @property
    def learned(self) -> list[TransportAddress]:
        return [event.mapped for event in self.events if isinstance(event, ServerReflexiveLearned)]


def test_stun_51_a_redirect_of_a_question_is_not_followed() -> None:
    host = Host()
    host.answer(ERROR, (stun.Attribute.ERROR_CODE, stun.ErrorCode(300)), (stun.Attribute.ALTERNATE_SERVER, ELSEWHERE))
    assert host.unanswered == ["error_300"]
    assert host.is_gathered
    host.run(60.0)
    assert host.asked == {SERVER}


def test_stun_51_another_server_in_an_answer_means_nothing() -> None:
    host = Host()
    host.answer(SUCCESS, (stun.Attribute.XOR_MAPPED_ADDRESS, MAPPED), (stun.Attribute.ALTERNATE_SERVER, ELSEWHERE))
    assert host.learned == [MAPPED]
    host.run(60.0)
    assert host.asked == {SERVER}


@pytest.mark.parametrize(
    "attributes",
    [(), ((stun.Attribute.MAPPED_ADDRESS, MAPPED),), ((stun.Attribute.SOFTWARE, "test"),)],
    ids=["nothing", "the address of old", "something else"],
)
def test_stun_11_a_success_without_the_masked_address_gives_none(
    attributes: tuple[tuple[stun.Attribute, object], ...],
) -> None:
    host = Host()
    host.answer(SUCCESS, *attributes)
    assert (host.learned, host.unanswered) == ([], ["malformed"])


def test_stun_11_an_address_of_an_unknown_family_is_as_none() -> None:
    host = Host()
    host.answer(SUCCESS, extra=tlv(0x0020, b"\0\3" + bytes(18)))
    host.run(40.0)
    assert (host.learned, host.unanswered) == ([], ["timeout"])


@pytest.mark.parametrize("code", sorted(REFUSALS), ids=lambda code: errno.errorcode[code])
def test_stun_32_a_server_that_cannot_be_reached_is_not_waited_for(code: int) -> None:
    host = Host()
    host.endpoint.socket_error(Path(BASE, SERVER), code, now=host.now)
    assert host.is_gathered
    host.run(0.5)
    assert len(host.requests) == 2
    host.answer(SUCCESS, (stun.Attribute.XOR_MAPPED_ADDRESS, MAPPED))
    assert host.learned == [MAPPED]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (Path(BASE, SERVER), errno.ENOBUFS),
        (Path(BASE, SERVER), errno.EMSGSIZE),
        (Path(BASE, ELSEWHERE), errno.EHOSTUNREACH),
        (Path(TransportAddress("192.0.2.2", 4000), SERVER), errno.EHOSTUNREACH),
    ],
)
def test_stun_32_any_other_error_changes_nothing(path: Path, code: int) -> None:
    host = Host()
    host.endpoint.socket_error(path, code, now=host.now)
    assert not host.is_gathered


def test_stun_32_sessions_are_told_that_gathering_is_over() -> None:
    host = Host()
    session = host.endpoint.connect_raw(Role.CONTROLLING, now=host.now)
    assert not session.local_candidates(now=host.now)[1]
    host.endpoint.socket_error(Path(BASE, SERVER), errno.ENETUNREACH, now=host.now)
    assert host.endpoint.poll_touched() is session
    assert session.local_candidates(now=host.now)[1]


def test_stun_54_a_name_without_a_port_may_have_servers_by_dns() -> None:
    host = Host("stun:stun.example")
    assert host.names == [Resolve("stun.example", service="_stun._udp")]
    host.locate(("203.0.113.7", 4001), ("2001:db8::7", 4001), ("203.0.113.8", 4002))
    # From this base only those of its family, and all of them at once.
    assert host.asked == {TransportAddress("203.0.113.7", 4001), TransportAddress("203.0.113.8", 4002)}


def test_stun_54_the_next_server_does_not_wait_for_a_dead_one() -> None:
    host = Host("stun:stun.example")
    host.locate(("203.0.113.7", 4001), ("203.0.113.8", 4002))
    path, request = next(each for each in host.requests if each[0].remote.port == 4002)
    assert host.endpoint.receive_datagram(stun.success_response(request, MAPPED), path, now=host.now) is None
    host.drain()
    assert host.learned == [MAPPED]


def test_stun_54_without_servers_by_dns_the_name_has_the_default_port() -> None:
    host = Host("stun:stun.example")
    assert not host.is_gathered
    host.locate(("203.0.113.7", None), ("2001:db8::7", None))
    assert host.asked == {TransportAddress("203.0.113.7", 3478)}
    host.locate(("203.0.113.8", 4002))  # an answer that nobody waits for
    assert host.asked == {TransportAddress("203.0.113.7", 3478)}


def test_stun_54_a_name_with_a_port_is_one_server() -> None:
    host = Host("stun:stun.example:3478")
    assert host.names == [Resolve("stun.example")]


def test_stun_54_a_name_that_offers_no_such_service_is_told_and_not_waited_for() -> None:
    host = Host("stun:stun.example")
    host.locate()
    assert host.events == [ServerNameUnknown("stun:stun.example:3478")]
    assert host.is_gathered


def test_stun_54_another_service_of_the_name_is_none_of_it() -> None:
    host = Host("stun:stun.example")
    host.locate(("203.0.113.7", 4001), service="_turn._udp")
    assert host.asked == set()
    assert not host.is_gathered


def test_stun_54_few_servers_of_a_name_are_asked() -> None:
    host = Host("stun:stun.example")
    host.locate(*((f"203.0.113.{number}", 4000) for number in range(1, 9)))
    assert len(host.asked) == 4


class Relayed:
    """An endpoint with a session and relays by name."""

    def __init__(self, *uris: str) -> None:
        self.now = 10.0
        turn = tuple(TurnServer(uri, "user", "secret") for uri in uris)
        self.endpoint = Endpoint(EndpointConfig(turn=turn), entropy=Entropy.seeded(1))
        self.names: list[Resolve] = []
        self.servers: list[tuple[str, str | None]] = []
        self.failed: list[tuple[str, str]] = []
        self.endpoint.base_added(Base(BASE, "eth0"), now=self.now)
        self.endpoint.connect_raw(Role.CONTROLLING, now=self.now)
        self.drain()

    def drain(self) -> None:
        drain(self.endpoint, self._act, self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, RelayFailed):
            self.failed.append((event.uri, event.reason))

    def _act(self, action: Action) -> None:
        match action:
            case Resolve():
                self.names.append(action)
            case Transmit():
                self.servers.append((str(action.path.remote), None))
            case OpenFlow():
                self.servers.append((str(action.remote), action.tls_name))

    def asked(self) -> list[tuple[str, str | None]]:
        """Servers spoken to within a second."""
        self.drain()
        until = self.now + 1.0
        while (at := self.endpoint.next_timeout()) is not None and at <= until:
            self.now = max(self.now, at)
            self.endpoint.handle_timeout(now=self.now)
            self.drain()
        self.now = until
        return sorted(set(self.servers))


def test_stun_54_relays_without_a_port_may_have_servers_by_dns() -> None:
    host = Relayed("turn:relay.example", "turn:relay.example?transport=tcp", "turns:relay.example", "turn:a.example:1")
    assert host.names == [
        Resolve("relay.example", service="_turn._udp"),
        Resolve("relay.example", service="_turn._tcp"),
        Resolve("relay.example", service="_turns._tcp"),
        Resolve("a.example"),
    ]
    host.endpoint.located("relay.example", "_turn._udp", [("203.0.113.7", 4001)], now=host.now)
    host.endpoint.located("relay.example", "_turns._tcp", [("203.0.113.8", 443)], now=host.now)
    # A certificate has to prove the name that was configured, whoever DNS says it is (RFC 8489 §6.2.3).
    assert host.asked() == [("203.0.113.7:4001", None), ("203.0.113.8:443", "relay.example")]
    host.endpoint.located("relay.example", "_turn._udp", [("203.0.113.66", 4001)], now=host.now)  # nobody asked again
    assert host.endpoint._relays is not None
    assert "203.0.113.66" not in {server.ip for server in host.endpoint._relays.servers}
    host.endpoint.located("relay.example", "_turn._tcp", [("203.0.113.9", None)], now=host.now)
    host.endpoint.resolved("a.example", ["203.0.113.9"], now=host.now)
    assert ("203.0.113.9:3478", None) in host.asked()
    assert ("203.0.113.9:1", None) in host.asked()


def test_stun_54_addresses_of_the_name_itself_are_no_answer_about_its_services() -> None:
    host = Relayed("turn:relay.example", "turns:relay.example")
    host.endpoint.resolved("relay.example", ["203.0.113.9"], now=host.now)  # for somebody else
    assert host.asked() == []
    host.endpoint.located("relay.example", "_turns._tcp", [("203.0.113.8", 443)], now=host.now)
    assert host.asked() == [("203.0.113.8:443", "relay.example")]


def test_stun_54_a_relay_that_is_not_offered_is_told() -> None:
    host = Relayed("turn:relay.example")
    host.endpoint.located("relay.example", "_turn._udp", [], now=host.now)
    assert host.asked() == []
    assert host.failed == [("turn:relay.example?transport=udp", "name_unknown")]
