"""A path that dies without a word is left, and one that is only bad is not: whole sessions, 100 messages a second."""

from __future__ import annotations

import pytest

from edgeice.addresses import Path
from edgeice.ice import IceConfig
from edgeice.peer import PathChanged
from edgeice.sansio import Transmit
from tests.unit.peer.roaming import Echo, Host, Roamers, Wire

PLAIN = IceConfig(renomination=False, mobility=False)


def wires(delay: float = 0.010) -> tuple[Wire, Wire]:
    return Wire("wlan0", cost=10, delay=delay), Wire("wwan0", cost=900, delay=0.030)


def fading(host: Host) -> list[tuple[float, bool]]:
    """When a path was told to fade, or no longer to."""
    told = [(at, event.fading) for at, event in host.of(PathChanged)]
    return [each for before, each in zip([(0.0, False), *told], told, strict=False) if before[1] != each[1]]


@pytest.mark.parametrize("delay", [0.010, 0.020, 0.040])
@pytest.mark.parametrize("mover", ["controlling", "controlled"])
@pytest.mark.parametrize("sender", ["a", "b"])
def test_a_silent_blackhole_costs_less_than_1_5_seconds(delay: float, mover: str, sender: str) -> None:
    if mover == "controlling":
        world = Roamers(*wires(delay))
        roamer = world.a
    else:
        world = Roamers(Wire("eth0", delay=0.0), b=wires(delay))
        roamer = world.b
    echo = Echo(world, getattr(world, sender))
    echo.run(2.0)
    assert roamer.interface == "wlan0"
    next(iter(roamer.wires.values())).cut()
    died = world.now
    echo.run(4.0)
    assert {roamer.interface, roamer.peer.interface} == {"wwan0", "eth0"}
    assert world.a.connection.pathways.current.nominated
    pause = echo.finish()
    assert 0.87 < pause < 1.2
    for host in world.hosts:
        silent = [at for at, event in host.of(PathChanged) if event.cause == "silent"]
        assert len(silent) <= 1
        assert all(0.84 < at - died < 1.1 for at in silent)


def test_what_dies_comes_back_and_is_used_again_only_once_it_proved_itself() -> None:
    world = Roamers(*wires())
    echo = Echo(world, world.a)
    echo.run(1.0)
    wlan = next(iter(world.a.wires.values()))
    wlan.cut()
    echo.run(3.0)
    assert world.a.interface == "wwan0"
    wlan.works = True, True
    back = world.now
    echo.run(20.0)
    assert world.a.interface == "wlan0"
    assert [(interface, cause) for interface, cause in world.a.paths if cause in {"silent", "better"}] == [
        ("wwan0", "silent"),
        ("wlan0", "better"),
    ]
    assert next(at for at, event in world.a.of(PathChanged) if event.cause == "better") - back > 3.0
    echo.finish()


def test_where_the_peer_is_not_mobile_the_path_fades_until_it_is_heard() -> None:
    world = Roamers(*wires(), ice=(IceConfig(), PLAIN))
    echo = Echo(world, world.a)
    echo.run(1.0)
    wlan = next(iter(world.a.wires.values()))
    wlan.cut()
    died = world.now
    echo.run(3.0)
    assert [faded for _, faded in fading(world.a)] == [True]
    assert 0.9 <= fading(world.a)[0][0] - died < 1.0
    wlan.works = True, True
    back = world.now
    echo.run(3.0)
    assert [faded for _, faded in fading(world.a)] == [True, False]
    assert fading(world.a)[1][0] - back < 2.1
    assert world.a.interface == "wlan0"
    echo.finish()


def test_data_that_is_heard_ends_the_fading_too() -> None:
    """The requests of one end are never answered, and yet it hears the other."""
    world = Roamers(*wires(), ice=(PLAIN, PLAIN))
    wlan = next(iter(world.a.wires.values()))
    echo = Echo(world, world.b)
    echo.run(1.0)
    wlan.cut()
    echo.run(2.0)
    assert [faded for _, faded in fading(world.a)] == [True]
    wlan.works = False, True
    world.run(10.0)  # B's timer sends what it has; nothing of A's arrives
    assert [faded for _, faded in fading(world.a)][:2] == [True, False]


def test_both_ends_may_decide_at_once() -> None:
    world = Roamers(*wires(), b=wires())
    echo = Echo(world, world.a)
    echo.run(1.0)
    begun = {host.interface for host in world.hosts}
    assert begun == {"wlan0"}
    for host in world.hosts:
        next(iter(host.wires.values())).cut()
    echo.run(5.0)
    assert [host.interface for host in world.hosts] == ["wwan0", "wwan0"]
    ends = [host.connection.pathways.current for host in world.hosts]
    assert all(end.nominated for end in ends)
    assert ends[0].path is not None
    assert ends[1].path is not None
    assert (ends[0].path.local, ends[0].path.remote) == (ends[1].path.remote, ends[1].path.local)
    assert echo.finish() < 2.6  # one of the pairs in between may be half dead


# --- what is no death


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("delay", "loss"),
    [(2.5, (0.0, 0.0)), (0.020, (0.3, 0.3)), (2.5, (0.3, 0.3)), (0.020, (0.0, 0.5)), (0.020, (0.5, 0.0))],
    ids=["slow", "lossy", "both", "in", "out"],
)
@pytest.mark.slow
def test_120_seconds_on_a_bad_path_move_nothing(delay: float, loss: tuple[float, float], seed: int) -> None:
    """Always something outstanding, at both ends, and a perfect path beside it."""
    wlan, wwan = Wire("wlan0", cost=10, delay=delay), Wire("wwan0", cost=900, delay=0.010)
    world = Roamers(wlan, wwan, seed=seed, settle=60.0)
    assert world.a.interface == "wlan0"
    wlan.loss = loss
    for number in range(1200):
        for host in world.hosts:
            if host.connection.channels.send_buffer_used < 20_000:
                world.send(host, b"%d" % number)
        world.run(0.1)
    assert world.a.interface == "wlan0"
    for host in world.hosts:
        assert not [cause for _, cause in host.paths if cause in {"silent", "peer_moved", "better"}]
        assert not any(faded for _, faded in fading(host))


def test_one_way_dead_is_dead() -> None:
    """Only what comes in is lost, acknowledgments and answers: whoever hears nothing leaves, and both stay there."""
    world = Roamers(*wires())
    echo = Echo(world, world.a)
    echo.run(1.0)
    next(iter(world.a.wires.values())).works = True, False
    echo.run(10.0)
    assert world.a.paths[0] == ("wwan0", "silent")
    assert [cause for _, cause in world.a.paths].count("silent") == 1
    assert world.a.interface == "wwan0"
    assert echo.finish() < 1.5


def test_one_way_dead_the_other_way_is_noticed_by_the_other_end() -> None:
    world = Roamers(*wires())
    echo = Echo(world, world.b)
    echo.run(1.0)
    next(iter(world.a.wires.values())).works = False, True
    echo.run(10.0)
    assert ("eth0", "silent") in world.b.paths
    assert world.a.interface == "wwan0"
    assert echo.finish() < 1.5


def test_an_idle_session_asks_nothing_but_consent() -> None:
    world = Roamers(*wires())
    next(iter(world.a.wires.values())).cut()
    begun = world.now
    world.run(14.0)
    # Each 4 to 6 s on the selected pair, each 9.6 to 14.4 s on the metered one.
    assert len(world.stun(world.a, begun)) <= 5 + 3
    assert world.data(world.a, begun) == []
    assert world.a.paths == []


def test_a_busy_session_on_a_good_path_asks_nothing_else_either() -> None:
    world = Roamers(*wires())
    echo = Echo(world, world.a)
    begun = world.now
    echo.run(20.0)
    assert len(world.stun(world.a, begun)) <= 5 + 3
    echo.finish()


def test_data_that_is_heard_needs_no_answers() -> None:
    """All answers to requests are lost, which ends consent; until then the path is not in doubt."""
    world = Roamers(*wires())
    echo = Echo(world, world.a)
    carry = world.carry

    def loses_answers(sender: Host, sent: Transmit) -> None:
        if sent.data[:2] != b"\x01\x01":
            carry(sender, sent)

    world.carry = loses_answers  # type: ignore[method-assign]  # the link
    begun = world.now
    echo.run(7.0)
    assert world.a.paths == []
    # Consent of two pairs, and that of one each second as it grows old.
    assert len(world.stun(world.a, begun)) <= 10
    echo.finish()


def test_of_datagrams_that_come_together_each_counts_for_its_own_path() -> None:
    world = Roamers(*wires())
    wlan, wwan = (world.a.wires[base.address] for base in world.a.bases.values())
    wlan.cut()
    world.send(world.b, b"x")
    world.send(world.b, b"y")
    records = [sent.data for sent in world.data(world.b)]
    world.run(0.01)
    pulse = world.a.connection._link.ice._watch._liveness._pulse
    assert pulse is not None
    heard_at = pulse.heard_at
    session = world.a.connection
    for data, base in zip(records, world.a.bases.values(), strict=True):
        session.receive_datagram(data, Path(base.address, next(iter(world.b.wires))), now=world.now)
    session.batch_received(now=world.now)
    assert pulse.heard_at == world.now > heard_at
    assert wwan.works == (True, True)


def test_a_slow_path_is_asked_no_more_than_a_quick_one() -> None:
    wlan, wwan = Wire("wlan0", cost=10, delay=2.5), Wire("wwan0", cost=900, delay=0.010)
    world = Roamers(wlan, wwan, settle=60.0)
    for _ in range(240):
        world.send(world.a, b"x")
        world.run(0.5)
    assert len(world.stun(world.a)) <= 120 / 4 + 120 / 9.6 + 1


@pytest.mark.parametrize("sleeper", ["a", "b"])
@pytest.mark.parametrize("offset", [0.0, 0.004, 0.013])
def test_a_process_that_stands_still_for_3_seconds_finds_no_path_dead(sleeper: str, offset: float) -> None:
    world = Roamers(*wires())
    echo = Echo(world, world.a)
    echo.run(1.0)
    world.run(offset)
    host: Host = getattr(world, sleeper)
    host.stalls_until = world.now + 3.0
    if sleeper == "b":
        echo.run(3.0)
    else:
        world.run(3.0)
    echo.run(3.0)
    assert host.interface == ("wlan0" if sleeper == "a" else "eth0")
    assert world.a.interface == "wlan0"
    assert not [cause for each in world.hosts for _, cause in each.paths if cause in {"silent", "peer_moved"}]
    echo.finish()


def test_what_a_silent_path_costs_is_bounded() -> None:
    """As `edgeice.ice.liveness` states: requests and bytes, until consent ends."""
    world = Roamers(*wires())
    for wire in world.a.wires.values():
        wire.cut()
    world.send(world.a, b"x")
    begun = world.now
    world.run(35.0)
    requests = world.stun(world.a, begun)
    by = {name: [sent for sent in requests if sent.path.local == base.address] for name, base in world.a.bases.items()}
    assert len(by["wlan0"]) <= 75 + 8
    assert len(by["wwan0"]) <= 40 + 8
    assert max(len(sent.data) for sent in requests) <= 128
