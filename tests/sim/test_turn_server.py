"""The relay of the simulation, asked by hand."""

from __future__ import annotations

import pytest

from edgeice import stun
from edgeice.addresses import TransportAddress
from edgeice.stun import Attribute, MessageClass, Method
from tests.sim.turn_server import PASSWORD, REALM, USERNAME, TurnServer

SERVER = TransportAddress("203.0.113.1", 3478)
CLIENT, PEER = TransportAddress("192.0.2.1", 4000), TransportAddress("192.0.2.2", 5000)
KEY = stun.long_term_key(USERNAME, REALM, PASSWORD)


class Client:
    """Asks, with the nonce that it was told."""

    def __init__(self, *, password: str = PASSWORD) -> None:
        self.server = TurnServer(SERVER, seed=1)
        self.now = 0.0
        self.nonce: bytes | None = None
        self._key = stun.long_term_key(USERNAME, REALM, password)
        self._number = 0

    def ask(self, method: Method, *attributes: tuple[int, object], number: int = 0) -> stun.Message:
        self._number = number or self._number + 1
        values = list(attributes)
        if self.nonce is not None:
            values += [(Attribute.USERNAME, USERNAME), (Attribute.REALM, REALM), (Attribute.NONCE, self.nonce)]
        key = None if self.nonce is None else self._key
        data = stun.encode(method, MessageClass.REQUEST, self._number.to_bytes(12), values, key=key)
        (answer,) = self.server.receive(data, SERVER, CLIENT, now=self.now)
        assert (answer.local, answer.target) == (SERVER, CLIENT)
        message = stun.decode(answer.data)
        self.nonce = message.get(Attribute.NONCE) or self.nonce
        return message

    def allocate(self) -> TransportAddress:
        assert code(self.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17))) == 401
        answer = self.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17), number=100)
        assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == CLIENT
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        return relayed

    def relay(self, data: bytes) -> list[tuple[TransportAddress, bytes]]:
        values: list[tuple[int, object]] = [(Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, data)]
        wrapped = stun.encode(Method.SEND, MessageClass.INDICATION, bytes(12), values)
        return [(each.target, each.data) for each in self.server.receive(wrapped, SERVER, CLIENT, now=self.now)]


def code(answer: stun.Message) -> int:
    error = answer.get(Attribute.ERROR_CODE)
    return 0 if error is None else error.code


def test_an_allocation_relays_for_whom_there_is_a_permission_and_as_long() -> None:
    client = Client()
    relayed = client.allocate()
    assert client.relay(b"data") == []
    assert client.server.receive(b"data", relayed, PEER, now=1.0) == []
    assert code(client.ask(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, PEER))) == 0
    assert client.relay(b"data") == [(PEER, b"data")]
    (brought,) = client.server.receive(b"back", relayed, PEER, now=1.0)
    indication = stun.decode(brought.data)
    assert (indication.get(Attribute.DATA), indication.get(Attribute.XOR_PEER_ADDRESS)) == (b"back", PEER)
    client.now = 130.0
    assert client.relay(b"data") == []
    assert client.server.dropped == 3


def test_a_channel_relays_without_wrapping() -> None:
    client = Client()
    relayed = client.allocate()
    bind = (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER)
    assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 0
    (sent,) = client.server.receive(b"\x40\x00\x00\x04data", SERVER, CLIENT, now=1.0)
    assert (sent.local, sent.target, sent.data) == (relayed, PEER, b"data")
    (brought,) = client.server.receive(b"back", relayed, PEER, now=1.0)
    assert brought.data == b"\x40\x00\x00\x04back"
    other = (Attribute.CHANNEL_NUMBER, 0x4001), (Attribute.XOR_PEER_ADDRESS, PEER)
    assert code(client.ask(Method.CHANNEL_BIND, *other)) == 400


def test_a_repeated_request_has_the_same_answer_and_another_one_is_a_mismatch() -> None:
    client = Client()
    relayed = client.allocate()
    again = client.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17), number=100)
    assert again.get(Attribute.XOR_RELAYED_ADDRESS) == relayed
    assert code(client.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17))) == 437
    assert client.server.allocations == 1


def test_an_allocation_is_given_back() -> None:
    client = Client()
    client.allocate()
    assert code(client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))) == 0
    assert client.server.allocations == 0
    assert code(client.ask(Method.REFRESH, (Attribute.LIFETIME, 60))) == 437


@pytest.mark.parametrize(("wait", "password", "expected"), [(0.0, "wrong", 401), (200.0, PASSWORD, 438)])
def test_who_is_not_believed_is_asked_again(wait: float, password: str, expected: int) -> None:
    client = Client(password=password)
    client.ask(Method.ALLOCATE)
    client.now = wait
    answer = client.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17))
    assert code(answer) == expected
    assert client.server.allocations == 0
