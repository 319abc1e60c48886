"""Which candidates this side has, and what tells them apart (RFC 8445 §5.1.1, §5.1.3, §7.2.5.3.1)."""

from __future__ import annotations

import itertools

import pytest

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceConfig,
    LocalCandidateGathered,
    generate_credentials,
)
from edgeice.ice.candidate import local_foundation
from edgeice.ice.destinations import usable_local
from edgeice.sansio import Entropy
from tests.support.ice_pair import World

SERVER = TransportAddress("203.0.113.1", 3478)


def at(host: int, port: int = 4000) -> TransportAddress:
    return TransportAddress(f"192.0.2.{host}", port)


def outside(host: int, port: int = 61000) -> TransportAddress:
    return TransportAddress(f"198.51.100.{host}", port)


class Side:
    """Local candidates of one side, and what was told of them."""

    def __init__(self, config: IceConfig | None = None) -> None:
        ice = World(config=config).a.ice
        self.shared = ice._shared
        self.locals = ice._slots.current.locals

    def host(self, number: int) -> Candidate:
        candidate = self.locals.add_base(Base(at(number), "eth0"))
        assert candidate is not None
        return candidate

    def told(self) -> list[Candidate]:
        told = []
        while (event := self.shared.events.pop()) is not None:
            assert isinstance(event, LocalCandidateGathered)
            told.append(event.candidate)
        return told


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "0.0.0.0",
        "::",
        "::192.0.2.1",  # IPv4-compatible
        "fec0::1",  # site-local
        "::ffff:192.0.2.1",  # IPv4-mapped
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
def test_ice_01_no_candidate_is_made_of_an_address_that_is_no_way_to_a_host(ip: str) -> None:
    side = Side()
    assert not usable_local(TransportAddress(ip, 4000))
    assert side.locals.add_base(Base(TransportAddress(ip, 4000))) is None
    assert side.told() == []
    assert not side.locals


@pytest.mark.parametrize("ip", ["192.168.1.2", "100.64.0.1", "169.254.1.1", "fe80::1", "fd00::1", "2001:db8::1"])
def test_ice_01_ice_02_each_usable_address_is_one_host_candidate_and_its_own_base(ip: str) -> None:
    side = Side()
    address = TransportAddress(ip, 4000)
    for _ in range(2):
        side.locals.add_base(Base(address, "eth0"))
    (candidate,) = side.told()
    assert (candidate.type, candidate.address, candidate.base) == (CandidateType.HOST, address, address)
    assert (candidate.component, candidate.related) == (1, None)


def test_ice_01_loopback_is_taken_only_where_it_is_asked_for() -> None:
    side = Side(IceConfig(allow_loopback=True))
    assert side.locals.add_base(Base(TransportAddress("127.0.0.1", 4000))) is not None
    assert side.locals.add_base(Base(TransportAddress("127.0.0.1", 0))) is None


def test_ice_03_a_server_reflexive_candidate_sends_from_the_base_that_asked() -> None:
    side = Side()
    side.host(1)
    side.host(2)
    side.told()
    side.locals.add_server_reflexive(at(2), outside(9), SERVER)
    side.locals.add_server_reflexive(at(3), outside(9), SERVER)  # no such base
    (candidate,) = side.told()
    assert (candidate.type, candidate.address) == (CandidateType.SERVER_REFLEXIVE, outside(9))
    assert (candidate.base, candidate.related) == (at(2), at(2))


def test_ice_03_a_relayed_candidate_that_is_a_host_candidate_is_dropped() -> None:
    side = Side()
    host = side.host(1)
    assert side.locals.add_base(Base(at(1), "eth0", server=SERVER, mapped=outside(1))) is None
    assert side.told() == [host]


def test_ice_05_foundations_are_equal_only_for_one_type_base_ip_server_ip_and_protocol() -> None:
    tcp = TransportAddress(SERVER.ip, 3478, "tcp")
    other = TransportAddress("203.0.113.2", 3478)
    variants = list(
        itertools.product(
            CandidateType,
            (at(1), at(2), TransportAddress("fe80::1", 1, scope="a"), TransportAddress("fe80::1", 1, scope="b")),
            (None, SERVER, other, tcp),
        )
    )
    found = {variant: local_foundation(b"salt", *variant) for variant in variants}
    assert len(set(found.values())) == len(variants) == 64
    for (kind, base, server), foundation in found.items():
        # Ports tell nothing apart.
        moved = TransportAddress(base.ip, base.port + 1, base.protocol, base.scope)
        away = None if server is None else TransportAddress(server.ip, 5349, server.protocol)
        assert local_foundation(b"salt", kind, moved, away) == foundation
        assert local_foundation(b"other", kind, base, server) != foundation
        assert 1 <= len(foundation) <= 32
        assert foundation.isalnum()


def test_ice_07_no_two_candidates_have_one_priority() -> None:
    side = Side()
    for number in range(1, 6):
        side.host(number)
        for server in range(1, 4):
            # Every server sees another mapping, as behind a NAT that maps by address.
            side.locals.add_server_reflexive(at(number), outside(number, 60000 + server), SERVER)
        relay = TransportAddress(f"203.0.113.{100 + number}", 50000)
        side.locals.add_base(Base(relay, "eth0", server=SERVER, mapped=outside(number)))
    told = side.told()
    assert len(told) == 25
    assert len({candidate.priority for candidate in told}) == 25
    assert all(1 <= candidate.priority < 1 << 31 for candidate in told)
    preferences = [(candidate.type, candidate.priority >> 8 & 0xFFFF) for candidate in told]
    assert len(set(preferences)) == 25
    assert all(candidate.priority & 0xFF == 255 for candidate in told)  # component 1
    types = {CandidateType.HOST: 126, CandidateType.SERVER_REFLEXIVE: 100, CandidateType.RELAYED: 0}
    assert all(candidate.priority >> 24 == types[candidate.type] for candidate in told)


def test_ice_09_of_one_address_and_base_the_first_and_higher_is_kept_of_other_bases_both() -> None:
    side = Side()
    host = side.host(1)
    side.host(2)
    side.told()
    side.locals.add_server_reflexive(at(1), at(1), SERVER)  # no NAT: the host candidate says it already
    assert side.told() == []
    assert side.locals.mapped(host, at(1), 1) is host
    side.locals.add_server_reflexive(at(1), outside(1), SERVER)
    side.locals.add_server_reflexive(at(1), outside(1), TransportAddress("203.0.113.2", 3478))
    side.locals.add_server_reflexive(at(2), outside(1), SERVER)
    assert [(each.address, each.base) for each in side.told()] == [(outside(1), at(1)), (outside(1), at(2))]


def test_ice_10_credentials_have_the_entropy_that_is_asked_and_come_from_the_secret_source() -> None:
    drawn: list[int] = []

    def token_bytes(count: int) -> bytes:
        drawn.append(count)
        return bytes(range(count))

    first = generate_credentials(Entropy(token_bytes=token_bytes))
    assert sum(drawn) * 8 >= 128 + 24
    assert len(drawn) == 2
    assert sorted(count * 8 >= need for count, need in zip(sorted(drawn), (24, 128), strict=True)) == [True, True]
    assert 4 <= len(first.ufrag) <= 32
    assert 22 <= len(first.pwd) <= 256
    # Nothing that was drawn is lost on the way to text.
    many = {generate_credentials(Entropy.seeded(seed)) for seed in range(500)}
    assert len({each.ufrag for each in many}) == len({each.pwd for each in many}) == 500


def test_ice_35_an_address_that_only_the_peer_saw_is_a_peer_reflexive_candidate_and_is_told_nobody() -> None:
    side = Side()
    host = side.host(1)
    side.locals.add_server_reflexive(at(1), outside(1), SERVER)
    side.told()
    assert side.locals.mapped(host, outside(1), 5).type is CandidateType.SERVER_REFLEXIVE
    seen = side.locals.mapped(host, outside(2), 12345)
    assert (seen.type, seen.priority, seen.base, seen.address) == (
        CandidateType.PEER_REFLEXIVE,
        12345,
        at(1),
        outside(2),
    )
    assert side.locals.mapped(host, outside(2), 99) is seen
    assert side.told() == []
    # RFC 8445 §7.2.5.3.1: it is not paired, only bases are.
    assert list(side.locals) == [host]


def test_ice_06_with_its_base_go_all_candidates_of_it() -> None:
    side = Side(IceConfig(max_local_candidates=4))
    first = side.host(1)
    second = side.host(2)
    side.locals.add_server_reflexive(at(1), outside(1), SERVER)
    side.locals.mapped(first, outside(2), 1)
    side.locals.add_server_reflexive(at(2), outside(3), SERVER)
    assert side.locals.add_base(Base(at(3), "eth0")) is None
    assert side.shared.drops["local_candidates_full"] == 2
    assert sum(side.locals.counts().values()) == 4
    side.locals.remove(at(1))
    assert side.locals.counts() == {CandidateType.HOST: 1}
    assert list(side.locals) == [second]
    # Its preference is free again, and that of the one that found no room was never taken.
    third = side.host(3)
    assert third.priority == first.priority
