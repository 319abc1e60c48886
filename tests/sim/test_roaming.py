"""Some scenarios of sessions that roam, and that the simulation around them shows what it must."""

from __future__ import annotations

import pytest

from edgeice.addresses import TransportAddress
from edgeice.dtls.events import DtlsState
from tests.sim.faults import BrokerDown, Dark, Lose, RoamingScenario, Step, draw_roaming
from tests.sim.network import Clock
from tests.sim.plain import PlainDtls
from tests.sim.roads import Broker, BrokerPlan
from tests.sim.roaming import Roaming, run_roaming
from tests.sim.streams import Stream
from tests.sim.topology import INTERNET, HostPlan, InterfacePlan, LinkPlan, Topology

#: In parts, so that a failure is found soon.
_PARTS = 6
_SIZE = 25


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
def test_roaming_scenarios_of_fixed_seeds_violate_nothing(part: int) -> None:
    for seed in range(part * _SIZE, (part + 1) * _SIZE):
        result = run_roaming(draw_roaming(seed))
        assert not result.violations, f"run.py --kind roaming --replay {seed}: {result.violations[0]}"


def test_a_roaming_seed_gives_the_same_run_again() -> None:
    first, second = (run_roaming(draw_roaming(8), traced=True) for _ in range(2))
    assert first == second
    assert len(first.log) > 50


def open_network(*, count: int = 2, delay: float = 0.01) -> Topology:
    """Two hosts on the open internet, with so many interfaces each."""
    names, costs = ("eth0", "wlan0", "wwan0"), (0, 10, 900)
    hosts = [
        HostPlan(
            name=name,
            interfaces=tuple(
                InterfacePlan(
                    name=names[place],
                    segment=INTERNET,
                    ips=(f"192.0.2.{10 * number + place + 1}",),
                    link=LinkPlan(delay=delay),
                    cost=costs[place],
                )
                for place in range(count)
            ),
        )
        for number, name in enumerate("ab", 1)
    ]
    return Topology(hosts=tuple(hosts))


def roam(*steps: Step, topology: Topology, mobility: bool = True, seed: int = 1) -> Roaming:
    """Run a scenario; gives what is left, and the measured pauses."""
    scenario = RoamingScenario(
        seed=seed,
        topology=topology,
        broker=BrokerPlan(),
        steps=steps,
        mobility=(mobility, mobility),
    )
    world = Roaming(scenario)
    world.begin()
    world.clock.run(20.0)
    for step in steps:
        world.step(step)
    world.end()
    assert not world.monitor.violations
    return world


@pytest.mark.parametrize("host", ["a", "b"])
@pytest.mark.parametrize("delay", [0.01, 0.1])
def test_with_a_living_backup_nothing_is_signaled_and_the_pause_is_a_round_trip(host: str, delay: float) -> None:
    lose = Step(((0.0, BrokerDown(5.0)), (0.0, Lose(host, "eth0", "carrier"))))
    world = roam(lose, topology=open_network(delay=delay))
    round_trip = 4 * delay + 2 * 0.005
    assert max(world.pauses[0]) <= 1.5 * round_trip + 0.05 + 0.02


def test_a_host_without_any_interface_waits_and_goes_on_when_one_is_back() -> None:
    world = roam(Step(((0.0, Dark("a", 200.0)),)), topology=open_network(count=1))
    assert 200.0 < max(world.pauses[0]) < 202.0
    assert world.ends[0].stream.received > 20


def test_what_a_stream_lost_or_got_twice_shows() -> None:
    complaints: list[str] = []
    one, other = Stream(1, complaints.append), Stream(2, complaints.append)
    one.peer, other.peer = other, one
    pieces = [one.next() for _ in range(4)]
    other.receive(pieces[0], 1.0)
    other.receive(pieces[1], 2.5)
    assert not complaints
    assert not one.is_complete
    assert other.pause == 1.5
    other.receive(pieces[1], 3.0)
    other.receive(pieces[3], 3.0)
    other.receive(pieces[0][:-1] + b"x", 3.0)
    assert len(complaints) == 3


def test_the_stub_of_dtls_repeats_its_hello_and_takes_each_record_once() -> None:
    client, server = PlainDtls("AA", "client", 1200), PlainDtls("BB", "server", 1200)
    client.set_remote_fingerprints([("sha-256", "BB")], now=0.0)
    server.start(now=0.0)
    client.start(now=0.0)
    assert client.poll_transmit() is not None  # lost
    client.handle_timeout(now=1.0)
    hello = client.poll_transmit()
    assert hello is not None
    server.receive_datagram(hello, now=1.0)
    assert server.state is DtlsState.VERIFYING
    server.set_remote_fingerprints([("sha-256", "AA")], now=1.0)
    answer = server.poll_transmit()
    assert answer is not None
    client.receive_datagram(answer, now=1.0)
    assert client.next_timeout() is None
    assert (client.state, server.state) == (DtlsState.ESTABLISHED, DtlsState.ESTABLISHED)
    assert client.send(b"hello", now=1.0)
    record = client.poll_transmit()
    assert record is not None
    assert len(record) == 5 + 1200 - client.max_payload
    for _ in range(2):
        server.receive_datagram(record, now=1.0)
    assert server.poll_data() == b"hello"
    assert server.poll_data() is None
    assert server.drops["record-invalid"] == 1


def test_a_message_waits_for_the_broker_until_it_expires() -> None:
    clock, there = Clock(), True
    came: list[float] = []
    broker = Broker(clock, BrokerPlan(delay=0.1), 1, lambda _host: there)
    broker.down = True
    broker.publish("a", "b", 10.0, lambda: came.append(clock.now))
    broker.publish("a", "b", 1.0, lambda: came.append(-1.0))
    clock.run(5.0)
    broker.down = False
    clock.run(1.0)
    assert came == [pytest.approx(1005.1, abs=0.25)]
    there = False
    broker.publish("a", "b", 2.0, lambda: came.append(-2.0))
    clock.run(60.0)
    assert len(came) == 1


def test_a_socket_that_is_opened_anew_has_another_port() -> None:
    world = roam(Step(((0.0, Dark("a", 0.2)),)), topology=open_network(count=1))
    (address,) = world.agents["a"].bases
    assert address.ip == "192.0.2.11"
    assert address != TransportAddress("192.0.2.11", 4000)
