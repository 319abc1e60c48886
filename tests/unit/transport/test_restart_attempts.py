"""How long a restart is left alone before another one takes its place."""

from __future__ import annotations

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.transport.restarts import Need, Outlook, RestartPolicy

BASE = Base(TransportAddress("192.0.2.1", 4000), "eth0")
PATH = Path(BASE.address, TransportAddress("192.0.2.2", 4000))


def lost(rtt: float | None) -> RestartPolicy:
    """A policy whose path, of a known round trip, is lost at time 0 with a restart answered at once."""
    policy = RestartPolicy()
    policy.look(Outlook(path=PATH, interface="eth0", rtt=rtt, bases=(BASE,)), now=-60.0)
    policy.began()
    policy.look(Outlook(bases=(BASE,)), now=0.0)
    policy.take(now=0.0)
    policy.offered(now=0.0)
    policy.checking(now=0.0)
    return policy


def test_a_slow_path_gets_more_time_to_be_found_again() -> None:
    assert lost(0.02).next_at(now=0.0) == 10.08
    assert lost(5.0).next_at(now=0.0) == 30.0
    assert lost(None).next_at(now=0.0) == 10.0


def test_what_can_wait_does_not_take_the_place_of_a_restart_that_found_a_path() -> None:
    policy = lost(None)
    policy.look(Outlook(path=PATH, interface="eth0", bases=(BASE,)), now=5.0)
    policy.moved("base_gone", now=5.0)
    assert policy.need(now=10.0) is Need.BASE_GONE
    assert policy.next_at(now=10.0) == 60.0
    policy.failed()
    assert policy.next_at(now=10.0) == 10.0
