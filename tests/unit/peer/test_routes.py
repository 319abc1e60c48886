from __future__ import annotations

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.peer.demux import Kind, classify
from edgeice.peer.routes import REQUEST_LIMIT, Routes


def path(port: int) -> Path:
    return Path(TransportAddress("192.0.2.1", 1000), TransportAddress("198.51.100.2", port))


def test_ice_63_all_256_first_bytes() -> None:
    expected = dict.fromkeys(range(4), Kind.STUN)
    expected |= dict.fromkeys(range(20, 64), Kind.DTLS)
    expected |= dict.fromkeys(range(64, 80), Kind.CHANNEL_DATA)
    expected |= dict.fromkeys(range(128, 192), Kind.RTP)
    assert {first: kind for first in range(256) if (kind := classify(bytes([first, 0]))) is not None} == expected
    assert classify(b"") is None


def test_a_path_belongs_to_the_first_session_until_it_lets_go() -> None:
    routes: Routes[int] = Routes()
    assert routes.claim(1, path(1))
    assert routes.claim(1, path(1))
    assert not routes.claim(2, path(1))
    assert routes.by_path(path(1)) == 1
    routes.forget(1)
    assert routes.by_path(path(1)) is None
    assert routes.claim(2, path(1))


def test_paths_of_a_session_are_bounded_and_the_oldest_goes() -> None:
    routes: Routes[int] = Routes(paths_per_session=3)
    for port in range(5):
        assert routes.claim(1, path(port))
    assert [routes.by_path(path(port)) for port in range(5)] == [None, None, 1, 1, 1]
    assert len(routes) == 3


def test_host_07_paths_that_replayed_checks_claim_never_push_out_the_selected_one() -> None:
    routes: Routes[int] = Routes(paths_per_session=3)
    routes.claim(1, path(0))
    routes.select(1, path(0))
    for port in range(1, 10):
        assert routes.claim(1, path(port))
    assert [port for port in range(10) if routes.by_path(path(port))] == [0, 8, 9]
    routes.select(1, None)
    routes.claim(1, path(10))
    assert routes.by_path(path(0)) is None


def test_host_15_a_ufrag_is_never_taken_over() -> None:
    routes: Routes[int] = Routes()
    routes.bind_ufrags(1, ["aaaa", "bbbb"])
    with pytest.raises(LocalProtocolError):
        routes.bind_ufrags(2, ["cccc", "bbbb"])
    assert (routes.by_ufrag("bbbb"), routes.by_ufrag("cccc")) == (1, None)


def test_binding_ufrags_again_forgets_those_that_are_gone() -> None:
    routes: Routes[int] = Routes()
    routes.bind_ufrags(1, ["aaaa", "bbbb"])
    routes.bind_ufrags(1, ["bbbb", "cccc"])
    assert [routes.by_ufrag(ufrag) for ufrag in ("aaaa", "bbbb", "cccc")] == [None, 1, 1]
    routes.forget(1)
    assert len(routes) == 0


def test_requests_are_remembered_up_to_the_bound() -> None:
    routes: Routes[int] = Routes()
    routes.bind_ufrags(7, ["aaaa"])
    routes.bind_ufrags(8, ["bbbb"])
    for number in range(REQUEST_LIMIT + 1):
        routes.note_request(7, number.to_bytes(12))
    half = REQUEST_LIMIT // 2
    assert routes.by_request((half - 1).to_bytes(12)) is None
    assert routes.by_request(half.to_bytes(12)) == 7
    assert routes.by_request(REQUEST_LIMIT.to_bytes(12)) == 7
    assert len(routes._asked) + len(routes._asked_before) <= REQUEST_LIMIT
    routes.forget(7)
    routes.forget(8)
    assert routes.by_request(REQUEST_LIMIT.to_bytes(12)) is None


def test_requests_are_forgotten_once_nobody_can_answer_them_any_more() -> None:
    routes: Routes[int] = Routes()
    routes.age(now=100.0)
    routes.note_request(7, b"one")
    routes.age(now=139.9)
    routes.age(now=140.0)
    routes.note_request(7, b"two")
    assert (routes.by_request(b"one"), routes.by_request(b"two")) == (7, 7)
    routes.age(now=180.0)
    assert (routes.by_request(b"one"), routes.by_request(b"two")) == (None, 7)
