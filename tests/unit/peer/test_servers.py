"""What STUN servers may say and do to gathering (checklist STUN-11, STUN-32, STUN-51)."""

from __future__ import annotations

import errno

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import Role, ServerReflexiveLearned, ServerUnanswered
from edgeice.peer import Endpoint, EndpointConfig
from edgeice.sansio import REFUSALS, Action, Entropy, Event, Transmit, drain
from tests.support.stun_wire import tlv

BASE = TransportAddress("192.0.2.1", 4000)
SERVER = TransportAddress("203.0.113.1", 3478)
ELSEWHERE = TransportAddress("203.0.113.99", 3478)
MAPPED = TransportAddress("198.51.100.1", 50000)
SUCCESS, ERROR = stun.MessageClass.SUCCESS, stun.MessageClass.ERROR


class Host:
    """An endpoint with one base that asks one server."""

    def __init__(self) -> None:
        self.now = 10.0
        self.endpoint = Endpoint(EndpointConfig(stun=(f"stun:{SERVER}",)), entropy=Entropy.seeded(1))
        self.requests: list[tuple[Path, stun.Message]] = []
        self.events: list[Event] = []
        self.endpoint.base_added(Base(BASE, "eth0"), now=self.now)
        self.drain()

    def drain(self) -> None:
        drain(self.endpoint, self._act, self.events.append)

    def _act(self, action: Action) -> None:
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
