"""What data channels see of a change of the path: nothing lost, nothing twice, and how long it takes."""

from __future__ import annotations

import pytest

from edgeice.addresses import Base
from edgeice.ice import IceCredentials
from edgeice.peer import ConnectionState
from edgeice.stun import is_stun
from tests.unit.peer.roaming import Echo, Roamers, Wire


def wires() -> tuple[Wire, Wire]:
    return Wire("wlan0", cost=10, delay=0.010), Wire("wwan0", cost=50, delay=0.030)


def test_the_association_begins_with_the_round_trip_that_the_checks_measured() -> None:
    """0.8 s, longer than its first timer would be: nothing of its set-up goes twice."""
    quick, slow = Roamers(Wire("eth0", delay=0.01)), Roamers(Wire("eth0", delay=0.4))
    counts = [
        [len([by for _, by, sent in world.setup if by is host and not is_stun(sent.data)]) for host in world.hosts]
        for world in (quick, slow)
    ]
    assert counts == [[6, 6], [7, 7]]  # the client's own INIT comes in between, as the server's takes longer than 0.1 s


@pytest.mark.parametrize("who", ["controlling", "controlled"])
def test_an_interface_that_goes_costs_one_round_trip(who: str) -> None:
    """The sender has two interfaces; the peer's echoes that were under way to the one that goes are lost."""
    if who == "controlling":
        world = Roamers(*wires())
        mover = world.a
    else:
        world = Roamers(Wire("eth0", delay=0.0), b=wires())
        mover = world.b
    echo = Echo(world, mover)
    echo.run(2.0)
    assert mover.interface == "wlan0"
    next(iter(mover.wires.values())).cut()
    mover.loses("wlan0")
    echo.run(2.0)
    assert mover.interface == "wwan0"
    assert echo.finish() <= 0.061


def test_the_peer_sends_again_at_once_what_went_to_an_interface_that_is_gone() -> None:
    world = Roamers(Wire("eth0", delay=0.0), b=wires())
    echo = Echo(world, world.a)
    echo.run(1.0)
    next(iter(world.b.wires.values())).cut()
    world.b.loses("wlan0")
    echo.run(1.0)
    assert world.a.paths[0] == ("eth0", "peer_moved")
    # Silence: the news come one way, what goes again there and back, and the last echo before came a little later.
    assert echo.finish() <= 0.03 + 0.06


def test_a_better_link_costs_nothing_and_repeats_nothing() -> None:
    world = Roamers(Wire("wwan0", cost=50, delay=0.030), Wire("wlan0", cost=60, delay=0.010))
    wlan = world.a.bases["wlan0"]
    echo = Echo(world, world.a)
    assert world.a.interface == "wwan0"
    world.a.loses("wlan0")
    echo.run(0.5)
    before = len(world.data(world.a)), len(world.data(world.b))
    world.a.wires[wlan.address].cost = 0
    world.a.endpoint.base_added(Base(wlan.address, "wlan0", cost=0), now=world.now)
    echo.run(6.0)
    assert world.a.paths[-1][0] == "wlan0"
    assert echo.finish() <= 0.011
    sent = len(world.data(world.a)) - before[0], len(world.data(world.b)) - before[1]
    # One datagram for each message, its acknowledgment rides on the next; a handful for the move itself.
    assert max(sent) <= 600 + 12
    for host in world.hosts:
        assert host.connection.drop_counts().get("sctp.duplicate-tsn", 0) == 0


def test_a_move_in_the_midst_of_an_answer_is_not_missed() -> None:
    """What the peer's restart changes here at once is heard while the answer is made."""
    world = Roamers(Wire("eth0", delay=0.0), b=wires())
    next(iter(world.b.wires.values())).cut()
    world.send(world.b, b"x")
    link = world.b.connection._link
    restart = link.restart

    def moves_meanwhile(*, now: float) -> IceCredentials:
        assert link.ice.leave(cause="silent", now=now)
        return restart(now=now)

    link.restart = moves_meanwhile  # type: ignore[method-assign]
    offer = world.a.connection.restart(now=world.now)
    world.a.connection.accept_answer(world.b.connection.accept_offer(offer, now=world.now), now=world.now)
    world.run(0.04)
    assert world.a.messages == [b"x"]


def test_of_several_moves_at_once_one_that_broke_counts() -> None:
    world = Roamers(*wires())
    pathways = world.a.connection._pathways
    assert pathways.take_move() is None
    ice = world.a.connection._link.ice
    assert ice.leave(cause="silent", now=world.now)
    pathways.take_events(now=world.now)
    ice._slots.current.selected.suspect = True  # type: ignore[union-attr]
    ice.note_outstanding(True, now=world.now)
    ice.handle_timeout(now=world.now + 0.001)
    pathways.take_events(now=world.now)
    assert pathways.take_move() is True
    assert pathways.take_move() is None


@pytest.mark.parametrize("patience", [5.0, 600.0])
def test_without_any_path_the_session_waits_and_goes_on(patience: float) -> None:
    world = Roamers(Wire("wlan0", cost=10, delay=0.010))
    echo = Echo(world, world.a)
    echo.run(1.0)
    base = world.a.bases["wlan0"]
    wire = world.a.wires[base.address]
    wire.cut()
    world.a.loses("wlan0")
    stranded = world.now
    echo.run(0.2)
    world.run(patience)
    assert world.a.connection.state is ConnectionState.INTERRUPTED
    assert world.data(world.a, stranded) == []
    wire.works = True, True
    world.a.endpoint.base_added(base, now=world.now)
    offer = world.a.connection.restart(now=world.now)
    world.a.connection.accept_answer(world.b.connection.accept_offer(offer, now=world.now), now=world.now)
    back = world.now
    world.run(0.1)
    assert [host.connection.state for host in world.hosts] == [ConnectionState.CONNECTED] * 2
    # A check's round trip and the data's own, at each end.
    assert echo.heard[-1][1] == echo.said[-1]
    assert echo.heard[-1][0] - back <= 0.08
    echo.run(1.0)
    echo.finish()
