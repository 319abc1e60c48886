"""How long a session was without its peer each time that data went another way."""

from __future__ import annotations

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.peer import PathChanged, PathMoved, way_of
from edgeice.peer.moves import Moves

PEER = TransportAddress("192.0.2.99", 2)


def on(ip: str | None, cause: str, *, fading: bool = False, local_type: str = "host") -> PathChanged:
    if ip is None:
        return PathChanged(None, cause=cause)
    path = Path(TransportAddress(ip, 1), PEER)
    return PathChanged(path, local_type, "host", nominated=True, fading=fading, interface=f"if{ip}", cause=cause)


A, B = "192.0.2.1", "192.0.2.2"


class World:
    """One session's moves, heard every 10 ms until 10.0."""

    def __init__(self) -> None:
        self.told: list[PathMoved] = []
        self.moves = Moves(self.told.append)
        self.moves.changed(on(A, "first"), now=1.0)
        self.moves.heard(now=9.99)
        self.moves.heard(now=10.0)

    def facts(self) -> list[tuple[str, str, str, float]]:
        return [(way_of(each.before), way_of(each.after), each.cause, round(each.pause, 3)) for each in self.told]


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_path_is_no_move(world: World) -> None:
    assert world.told == []


def test_a_base_that_goes_begins_a_pause_that_ends_when_the_peer_is_heard(world: World) -> None:
    world.moves.changed(on(B, "base_gone"), now=10.5)
    assert world.told == []
    world.moves.heard(now=10.58)
    world.moves.heard(now=10.59)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", "base_gone", 0.08)]


def test_without_a_path_meanwhile_it_lasts_until_there_is_one_that_the_peer_is_heard_on(world: World) -> None:
    world.moves.changed(on(None, "base_gone"), now=10.5)
    # Something came late, such as an answer on another base.
    world.moves.heard(now=10.6)
    world.moves.heard(now=12.0)
    world.moves.changed(on(B, "restart"), now=12.0)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", "base_gone", 1.5)]


def test_a_path_that_fell_silent_pauses_from_when_the_peer_was_heard_last(world: World) -> None:
    world.moves.changed(on(B, "silent"), now=11.0)
    world.moves.heard(now=11.1)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", "silent", 1.1)]


def test_what_follows_the_peer_pauses_until_its_own_word_on_the_new_path(world: World) -> None:
    world.moves.heard(now=10.2)
    world.moves.changed(on(B, "peer_moved"), now=10.2)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", "peer_moved", 0.2)]


def test_consent_that_ended_pauses_from_when_the_peer_was_heard_last(world: World) -> None:
    world.moves.changed(on(None, "consent"), now=40.0)
    world.moves.changed(on(None, "consent"), now=41.0)
    world.moves.heard(now=50.0)
    world.moves.changed(on(A, "restart"), now=50.0)
    assert world.facts() == [(f"if{A} direct", f"if{A} direct", "consent", 40.0)]


@pytest.mark.parametrize("cause", ["nominated", "better", "restart"])
def test_a_move_made_before_the_old_path_broke_has_no_pause(world: World, cause: str) -> None:
    world.moves.changed(on(B, cause), now=17.0)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", cause, 0.0)]


def test_but_it_has_one_where_the_old_path_was_fading(world: World) -> None:
    world.moves.changed(on(A, "first", fading=True), now=30.0)
    world.moves.heard(now=31.0)
    world.moves.changed(on(B, "restart"), now=31.0)
    assert world.facts() == [(f"if{A} direct", f"if{B} direct", "restart", 21.0)]


def test_the_same_pair_told_again_is_no_move(world: World) -> None:
    world.moves.changed(on(A, "nominated"), now=11.0)
    world.moves.heard(now=11.0)
    assert world.told == []


def test_moves_in_a_row_that_the_peer_is_not_heard_between_are_one(world: World) -> None:
    world.moves.changed(on(B, "base_gone"), now=10.5)
    world.moves.changed(on(A, "silent"), now=11.5)
    world.moves.changed(on(B, "silent", local_type="relay"), now=12.5)
    world.moves.heard(now=12.6)
    assert world.facts() == [(f"if{A} direct", f"if{B} relay", "base_gone", 2.1)]


def test_each_move_is_told_once(world: World) -> None:
    world.moves.changed(on(B, "base_gone"), now=10.5)
    world.moves.heard(now=10.6)
    world.moves.changed(on(A, "better"), now=20.0)
    world.moves.changed(on(None, "base_gone"), now=21.0)
    world.moves.changed(on(B, "nominated"), now=21.5)
    world.moves.heard(now=21.6)
    assert [(cause, pause) for *_, cause, pause in world.facts()] == [
        ("base_gone", 0.1),
        ("better", 0.0),
        ("base_gone", 0.6),
    ]


@pytest.mark.parametrize(
    ("local", "remote", "interface", "cost", "said"),
    [
        ("host", "srflx", "wlan0", None, "wlan0 direct"),
        ("prflx", "relay", "wlan0", None, "wlan0 relay"),
        ("relay", "host", "eth0", 0, "eth0 relay to wired"),
        ("host", "host", "eth0", 10, "eth0 direct to wifi"),
        ("host", "host", "eth0", 50, "eth0 direct to other"),
        ("host", "host", "eth0", 100, "eth0 direct to cellular"),
        ("host", "host", "eth0", 900, "eth0 direct to metered"),
        ("host", "host", "", 10, "direct"),
    ],
)
def test_a_path_in_words(local: str, remote: str, interface: str, cost: int | None, said: str) -> None:
    path = Path(TransportAddress(A, 1), PEER)
    assert way_of(PathChanged(path, local, remote, interface=interface, remote_cost=cost)) == said


def test_no_path_in_words() -> None:
    assert way_of(PathChanged(None)) == "none"
