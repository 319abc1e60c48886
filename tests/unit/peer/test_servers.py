"""What STUN servers may say and do to gathering (checklist STUN-11, STUN-32, STUN-51, STUN-54)."""

from __future__ import annotations

import errno

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import Role, ServerNameUnknown, ServerReflexiveLearned, ServerUnanswered
from edgeice.peer import Endpoint, EndpointConfig
from edgeice.sansio import REFUSALS, Action, Entropy, Event, Resolve, Transmit, drain
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

    def locate(self, *servers: tuple[str, int], service: str = "_stun._udp") -> None:
        self.endpoint.located("stun.example", service, list(servers), now=self.now)
        self.drain()
        self.run(1.0)

    def resolve(self, *addresses: str) -> None:
        self.endpoint.resolved("stun.example", list(addresses), now=self.now)
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
    host.resolve("203.0.113.7", "2001:db8::7")
    assert host.asked == {TransportAddress("203.0.113.7", 3478)}
    host.locate(("203.0.113.8", 4002))  # an answer that nobody waits for
    assert host.asked == {TransportAddress("203.0.113.7", 3478)}


def test_stun_54_a_name_with_a_port_is_one_server() -> None:
    host = Host("stun:stun.example:3478")
    assert host.names == [Resolve("stun.example")]


def test_stun_54_a_name_that_offers_no_such_service_is_told_and_not_waited_for() -> None:
    host = Host("stun:stun.example")
    host.locate()
    assert host.events == [ServerNameUnknown("stun:stun.example")]
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
