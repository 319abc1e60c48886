"""Whatever comes from the server or from elsewhere: nothing raises, everything stays bounded."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeice.stun import Attribute, MessageClass, Method, encode
from edgeice.turn.framing import encode_channel_data
from tests.support.turn_server import MAPPED, MD5, OTHER, PEER, RELAYED, SHA256, Link

ATTRIBUTES: list[tuple[int, object]] = [
    (Attribute.XOR_PEER_ADDRESS, PEER),
    (Attribute.XOR_PEER_ADDRESS, OTHER),
    (Attribute.XOR_RELAYED_ADDRESS, RELAYED),
    (Attribute.XOR_MAPPED_ADDRESS, MAPPED),
    (Attribute.DATA, b""),
    (Attribute.DATA, b"data"),
    (Attribute.LIFETIME, 0),
    (Attribute.LIFETIME, 0xFFFFFFFF),
    (Attribute.NONCE, b"x" * 508),
    (Attribute.NONCE, b"obMatJos2wAAA"),
    (Attribute.REALM, "r"),
    (Attribute.REALM, "\x00"),
    (Attribute.PASSWORD_ALGORITHMS, (MD5, SHA256)),
    (Attribute.ICMP, (3, 3, 0)),
    (Attribute.ALTERNATE_SERVER, OTHER),
    (Attribute.ADDRESS_ERROR_CODE, (6, 440, "")),
    (Attribute.CHANNEL_NUMBER, 0x4000),
    (Attribute.UNKNOWN_ATTRIBUTES, (Attribute.DONT_FRAGMENT,)),
    (0x7A01, b""),
    *((Attribute.ERROR_CODE, (code, "")) for code in (300, 400, 401, 403, 420, 437, 438, 486, 500, 508, 699)),
]


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, MessageClass, list[tuple[int, object]], bool]:
    method = draw(st.sampled_from(list(Method)))
    message_class = draw(st.sampled_from(list(MessageClass)))
    attributes = draw(st.lists(st.sampled_from(ATTRIBUTES), max_size=6))
    return method, message_class, attributes, draw(st.booleans())


ACTIONS = st.one_of(
    st.tuples(st.just("raw"), st.binary(max_size=64)),
    st.tuples(st.just("answer"), answers()),
    st.tuples(st.just("channel"), st.tuples(st.integers(0x3FFE, 0x5001), st.binary(max_size=8))),
    st.tuples(st.just("send"), st.sampled_from([PEER, OTHER])),
    st.tuples(st.just("bind"), st.sampled_from([PEER, OTHER])),
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.5, 40.0, 300.0, 601.0])),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("closed"), st.none()),
)


def act(link: Link, kind: str, value: object) -> None:
    """Let one thing happen; what is an answer answers the last request, and may be signed."""
    allocation = link.allocation
    if kind == "raw":
        assert isinstance(value, bytes)
        allocation.receive(value, now=link.now)
    elif kind == "answer":
        assert isinstance(value, tuple)
        method, message_class, attributes, signed = value
        request = link.server.requests[-1]
        key = link.server.key_of(request) if signed else None
        data = encode(method, message_class, request.transaction_id, attributes, key=key, fingerprint=False)
        allocation.receive(data, now=link.now)
    elif kind == "channel":
        assert isinstance(value, tuple)
        number, payload = value
        allocation.receive(encode_channel_data(number, payload, padded=True), now=link.now)
    elif kind == "send":
        allocation.send(value, b"data", now=link.now)  # type: ignore[arg-type]
    elif kind == "bind":
        allocation.bind(value, now=link.now)  # type: ignore[arg-type]
    elif kind == "close":
        allocation.close(now=link.now)
    else:
        allocation.closed(now=link.now)


def check_deadline(link: Link) -> None:
    """The deadline that is remembered is the earliest that there is."""
    relaying = link.allocation._relaying
    times = (relaying._permissions.next_timeout(), relaying._channels.next_timeout())
    assert relaying.next_timeout() == min((at for at in times if at is not None), default=None)


@pytest.mark.parametrize("stream", [False, True])
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(allocated=st.booleans(), actions=st.lists(ACTIONS, max_size=25))
def test_host_08_no_sequence_raises_or_runs_away(
    stream: bool, allocated: bool, actions: list[tuple[str, object]]
) -> None:
    link = Link(stream=stream)
    link.exchange()
    if not allocated:
        link = Link(stream=stream)
        # One request is out, and no answer came.
        link.server.hook = lambda _request: []
        link.exchange()
    link.server.is_deaf = True
    sent = len(link.sent)
    for kind, value in actions:
        # The usual answers are left to chance from here on.
        link.server.hook = lambda _request: []
        if kind == "advance":
            assert isinstance(value, float)
            link.advance(value)
        else:
            act(link, kind, value)
            link.exchange()
        check_deadline(link)
    elapsed = sum(value for kind, value in actions if kind == "advance" and isinstance(value, float))
    # No answer brings more than two requests, and time no more than a few a second.
    assert len(link.sent) - sent <= 10 * len(actions) + 5 * elapsed + 10
    requests = link.allocation._requests
    assert len(requests._requests) <= 10
    assert len(requests._waiting) + len(requests._paused) <= 8
    if link.allocation.is_ended:
        assert link.allocation.next_timeout() is None
        assert link.allocation.poll_transmit() is None


@pytest.mark.parametrize("seed", range(8))
def test_host_01_bytes_that_were_changed_on_the_way(seed: int) -> None:
    chance = random.Random(seed)
    link = Link().allocate()
    link.send(PEER, b"data")
    link.bind(PEER)
    request = link.server.requests[-1]
    originals = [
        link.server.indication(PEER, b"data"),
        link.server.success(request, []),
        link.server.error(request, 486),
        encode_channel_data(0x4000, b"data", padded=False),
    ]
    for _ in range(500):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        link.allocation.receive(bytes(data[: chance.randrange(len(data) + 1)]), now=link.now)
    link.collect()
    assert link.allocation.drops.total > 300
    link.send(PEER, b"still there")
    assert link.server.relayed_data[-1] == (PEER, b"still there")
