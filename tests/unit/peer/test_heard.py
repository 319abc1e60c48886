"""When a session last heard its peer: only what the peer alone can have sent counts."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from edgeice.addresses import Path
from edgeice.sansio import Transmit
from edgeice.stun import Attribute, MessageClass, Method, encode
from tests.unit.peer.pair import Pair


@pytest.fixture
def pair() -> Pair:
    """Two ends that nothing is due of for a second, long after they were last heard."""
    pair = Pair()
    heard_at = pair.a.connection.heard_at
    while pair.a.connection.heard_at == heard_at:
        pair.run(0.1)
    pair.run(1)
    assert 1 <= pair.now - pair.a.connection.heard_at < 1.2
    return pair


KINDS = ("garbage", "record", "alert", "hello", "check", "signed-check", "answer", "indication")


def forged(pair: Pair) -> dict[str, bytes]:
    """What somebody sends who does not know the session's keys."""
    rng = random.Random(9)
    names = f"{pair.a.connection.ufrag}:{pair.b.connection.ufrag}"
    attributes = [(Attribute.USERNAME, names), (Attribute.PRIORITY, 1), (Attribute.ICE_CONTROLLED, 1)]

    def stun(message_class: MessageClass, attributes: Sequence[tuple[int, object]], key: bytes | None) -> bytes:
        return encode(Method.BINDING, message_class, rng.randbytes(12), attributes, key=key)

    def record(content: int, epoch: int, size: int) -> bytes:
        return bytes([content]) + b"\xfe\xfd" + struct.pack(">HHIH", epoch, 0, 77, size) + rng.randbytes(size)

    datagrams = (
        rng.randbytes(60),
        record(23, 1, 40),
        record(21, 1, 26),
        record(22, 0, 40),
        stun(MessageClass.REQUEST, attributes, None),
        stun(MessageClass.REQUEST, attributes, b"a guess"),
        stun(MessageClass.SUCCESS, [], b"a guess"),
        stun(MessageClass.INDICATION, [], None),
    )
    return dict(zip(KINDS, datagrams, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_anybody_can_send_is_not_the_peer(pair: Pair, kind: str) -> None:
    before = pair.a.connection.heard_at
    pair.a.receive(Transmit(Path(pair.b.base.address, pair.a.base.address), forged(pair)[kind]))
    assert pair.a.connection.heard_at == before


def test_a_record_that_came_before_is_not_heard_again(pair: Pair) -> None:
    pair.holds = True
    pair.send(pair.b, b"once")
    (record,) = pair.held
    pair.deliver(record)
    heard_at = pair.a.connection.heard_at
    assert (heard_at, pair.a.messages) == (pair.now, [b"once"])
    pair.run(0.2)  # a little longer, and B asks whether the path lives, as its message is not acknowledged
    pair.deliver(record)
    assert pair.a.connection.heard_at == heard_at


def test_checks_and_answers_are_the_peer(pair: Pair) -> None:
    """Without any data: consent alone is heard in good time, each way."""
    gaps = []
    for _ in range(20):
        before = pair.a.connection.heard_at
        while pair.a.connection.heard_at == before:
            pair.run(0.01)
        gaps.append(pair.a.connection.heard_at - before)
    assert 0 < max(gaps) <= 6.1
