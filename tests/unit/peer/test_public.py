"""Addresses that a NAT maps one to one: told to every session without asking a server."""

from __future__ import annotations

from edgeice.addresses import Base, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import Role
from edgeice.peer import Endpoint, EndpointConfig
from edgeice.sansio import Entropy

CERTIFICATE = Certificate.generate()
MAPPED = Base(TransportAddress("10.0.0.5", 40000), "eth0")
OTHER = Base(TransportAddress("10.0.1.5", 40000), "eth1")
PUBLIC = {"10.0.0.5": "198.51.100.5", "10.9.9.9": "198.51.100.9"}


def offer(endpoint: Endpoint) -> list[str]:
    """The candidates of a new session."""
    text = endpoint.connect(CERTIFICATE, Role.CONTROLLING, now=1.0).create_offer(now=1.0)
    lines = [line.partition(" network-")[0].split() for line in text.splitlines() if line.startswith("a=candidate:")]
    return [" ".join((line[7], line[4], line[5], *line[8:])) for line in lines]


def test_a_mapped_address_is_told_with_its_port_beside_the_hosts_own() -> None:
    endpoint = Endpoint(EndpointConfig(public=PUBLIC), entropy=Entropy.seeded(1))
    for base in (MAPPED, OTHER):
        endpoint.base_added(base, now=0.0)
    expected = [
        "host 10.0.0.5 40000",
        "host 10.0.1.5 40000",
        "srflx 198.51.100.5 40000 raddr 10.0.0.5 rport 40000",
    ]
    assert offer(endpoint) == expected
    assert endpoint.poll_action() is None
    assert offer(endpoint) == expected  # the next session, likewise


def test_a_session_that_is_there_already_is_told_and_an_address_that_goes_takes_it_along() -> None:
    endpoint = Endpoint(EndpointConfig(public=PUBLIC), entropy=Entropy.seeded(1))
    session = endpoint.connect(CERTIFICATE, Role.CONTROLLING, now=0.0)
    endpoint.base_added(MAPPED, now=0.0)
    assert "198.51.100.5 40000 typ srflx" in session.create_offer(now=0.0)
    endpoint.base_removed(MAPPED.address, now=1.0)
    endpoint.base_added(OTHER, now=1.0)
    assert offer(endpoint) == ["host 10.0.1.5 40000"]


def test_a_mapped_address_does_not_wait_for_servers() -> None:
    config = EndpointConfig(public=PUBLIC, stun=("stun:192.0.2.53",))
    endpoint = Endpoint(config, entropy=Entropy.seeded(1))
    endpoint.base_added(MAPPED, now=0.0)
    assert offer(endpoint)[-1].startswith("srflx 198.51.100.5 40000")
