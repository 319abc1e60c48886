"""Candidate lines and the order of candidates (RFC 8839 §5.1, RFC 8445 §5.1.2, RFC 8421)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeice.addresses import Base, TransportAddress
from edgeice.errors import DecodeError
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceConfig,
    IceSession,
    LocalCandidateGathered,
    NamedCandidate,
    Pacer,
    Role,
    decode_candidate,
    encode_candidate,
)
from edgeice.ice.priority import candidate_priority, interleave, pair_priority
from edgeice.sansio import Entropy
from tests.support.ice_pair import World

REASONS = {
    "candidate_syntax",
    "candidate_transport",
    "candidate_type",
    "candidate_name",
    "candidate_range",
    "address",
}
ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

addresses = st.builds(
    TransportAddress,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    st.integers(0, 65535),
)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    kind = draw(st.sampled_from(CandidateType))
    related = None
    if kind is not CandidateType.HOST:
        hidden = st.just(None)
        related = draw(st.one_of(hidden, addresses.filter(lambda each: each.ip not in {"0.0.0.0", "::"})))
    return Candidate(
        draw(st.text(ICE_CHARS, min_size=1, max_size=32)),
        draw(st.integers(1, (1 << 31) - 1)),
        draw(addresses),
        kind,
        draw(st.integers(1, 256)),
        related,
    )


def accepted(line: str) -> Candidate | NamedCandidate | None:
    """What a line is, None where it is to be ignored; anything but DecodeError is a defect."""
    try:
        return decode_candidate(line)
    except DecodeError as error:
        reason = error.reason
    assert reason in REASONS
    return None


@given(candidates())
def test_sdp_01_sdp_02_a_candidate_comes_back_from_its_line(candidate: Candidate) -> None:
    line = encode_candidate(candidate)
    assert decode_candidate(line) == decode_candidate(f"a={line}\r\n") == candidate
    assert ("raddr" in line) is (candidate.type is not CandidateType.HOST)


@given(candidates(), st.lists(st.tuples(st.text(ICE_CHARS, min_size=1), st.text(ICE_CHARS, min_size=1)), max_size=4))
def test_sdp_01_unknown_extensions_are_ignored(candidate: Candidate, extensions: list[tuple[str, str]]) -> None:
    # `raddr` among them would be no unknown one.
    extra = [word for name, value in extensions for word in (f"x{name}", value)]
    assert decode_candidate(" ".join([encode_candidate(candidate), *extra])) == candidate


@given(st.text(max_size=200))
@example("candidate:")
@example("candidate:1 1 udp 1 fe80::1%eth0 1 typ host")
@example("candidate:1 1 udp 1 1.2.3.4.5 1 typ host")
@example("candidate:1 1 udp ٣ 192.0.2.1 1 typ host")
@example("candidate:1 1 udp 1 192.0.2.1 65536 typ host")
@example("candidate:1 1 udp 1 192.0.2.1 1 typ srflx raddr x rport ²")
@example("x" * 2000)
def test_host_01_any_text_is_a_candidate_or_a_decode_error(text: str) -> None:
    accepted(text)
    accepted("candidate:" + text)


@given(candidates(), st.data())
def test_host_01_a_line_with_changes_is_a_candidate_or_a_decode_error(
    candidate: Candidate, data: st.DataObject
) -> None:
    line = list(encode_candidate(candidate))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + 1] = data.draw(st.text(max_size=3))
    changed = accepted("".join(line))
    if isinstance(changed, Candidate):
        assert decode_candidate(encode_candidate(changed)) == changed


@given(st.uuids(version=4), st.integers(0, 65535), addresses)
def test_dec_7_only_uuid_names_are_taken_and_hold_any_address(uuid: object, port: int, at: TransportAddress) -> None:
    found = accepted(f"candidate:1 1 UDP 5 {uuid}.local {port} typ host")
    assert isinstance(found, NamedCandidate)
    assert (found.name, found.port) == (f"{uuid}.local", port)
    assert found.at(at.ip).address == TransportAddress(at.ip, port)
    assert accepted(f"candidate:1 1 udp 5 {uuid}.example {port} typ host") is None


def test_ice_07_ice_08_ice_17_priorities() -> None:
    kinds = (
        CandidateType.HOST,
        CandidateType.PEER_REFLEXIVE,
        CandidateType.SERVER_REFLEXIVE,
        CandidateType.RELAYED,
    )
    assert [candidate_priority(kind, 65535) for kind in kinds] == [2130706431, 1862270975, 1694498815, 16777215]
    host, reflexive = 2130706431, 1694498815
    assert pair_priority(host, reflexive) == 7277816997797167103
    assert pair_priority(reflexive, host) == 7277816997797167102


def v4(number: int) -> TransportAddress:
    return TransportAddress(f"192.0.2.{number}", 4000)


def v6(number: int) -> TransportAddress:
    return TransportAddress(str(ipaddress.IPv6Address("2001:db8::") + number), 4000)


@pytest.mark.parametrize(
    ("n4", "n6", "families"),
    [
        (2, 6, "66664646"),  # the example of ICE-12: IPv4 comes fifth
        (1, 1, "64"),
        (1, 3, "6664"),
        (3, 3, "664644"),
        (2, 0, "44"),
        (0, 2, "66"),
        (0, 0, ""),
    ],
)
def test_ice_12_families_are_intermingled(n4: int, n6: int, families: str) -> None:
    each = [*map(v4, range(n4)), *map(v6, range(n6))]
    ordered = interleave(each)
    assert "".join(str(address.family) for address in ordered) == families
    for family in (4, 6):
        assert [a for a in ordered if a.family == family] == [a for a in each if a.family == family]


def trickled(world: World, ufrag: str) -> str:
    """The families of A's candidates of a generation, the most preferred first."""
    own = [candidate for candidate, of in world.a.candidates if of == ufrag]
    assert len({candidate.priority for candidate in own}) == len(own)
    return "".join(str(each.address.family) for each in sorted(own, key=lambda each: each.priority, reverse=True))


def test_ice_12_a_restart_intermingles_the_families_of_all_bases_that_there_are() -> None:
    world = World()
    for address in (*map(v4, range(1, 3)), *map(v6, range(1, 7))):
        world.a.add_base(address)
    # They came one by one, and what is told cannot be changed: the families alternate.
    assert trickled(world, world.a.ice.local_credentials.ufrag) == "46466666"
    ufrag = world.a.ice.restart(now=world.now).ufrag
    world.a.drain()
    assert trickled(world, ufrag) == "66664646"
    for address in (v4(7), v6(7)):
        world.a.add_base(address)
    assert sorted(trickled(world, ufrag)[-2:]) == ["4", "6"]


@pytest.mark.parametrize(
    ("ranks", "costs"),
    [
        ({"wwan0": 1}, {}),
        ({}, {"wwan0": 10}),
        ({}, {"wwan0": 900, "eth0": 100}),
        ({}, {"wwan0": 100, "eth0": 50}),
        ({}, {"wwan0": 50, "eth0": 10}),
        ({"wwan0": 3, "eth0": 2}, {"wwan0": 10, "eth0": 50}),
    ],
)
def test_ice_12_interfaces_that_are_preferred_less_come_after_all_others(
    ranks: dict[str, int], costs: dict[str, int]
) -> None:
    """By configuration, or else by what they cost."""
    world = World(config=IceConfig(interface_ranks=ranks))
    for number, interface in enumerate(("wwan0", "eth0", "wwan0", "eth0"), start=1):
        for address in (v4(number), v6(number)):
            world.a.ice.base_added(Base(address, interface, cost=costs.get(interface, 0)), now=world.now)
    ufrag = world.a.ice.restart(now=world.now).ufrag
    world.a.drain()
    for of, families in ((world.a.candidates[0][1], [4, 6, 4, 6]), (ufrag, [6, 6, 4, 4])):
        own = sorted((each for each, named in world.a.candidates if named == of), key=lambda each: -each.priority)
        numbers = [int(each.address.ip.replace(":", ".").split(".")[-1]) for each in own]
        assert [number % 2 for number in numbers] == [0] * 4 + [1] * 4
        assert [each.address.family for each in own] == families * 2


@pytest.mark.parametrize("base", [v4(1), v6(1)])
def test_ice_07_a_single_address_has_the_highest_preference_in_every_generation(base: TransportAddress) -> None:
    world = World()
    world.a.add_base(base)
    world.a.ice.restart(now=world.now)
    world.a.drain()
    assert [candidate.priority for candidate, _ in world.a.candidates] == [2130706431, 2130706431]


def test_ice_03_a_relayed_base_is_its_own_base_and_pairs_after_all_others() -> None:
    world = World()
    host, relayed, server = v4(1), v4(2), v4(3)
    mapped = v4(4)
    world.a.add_base(host)
    world.a.ice.base_added(Base(relayed, "eth0", server=server, mapped=mapped), now=world.now)
    world.a.ice.base_added(Base(v4(5), "wlan0", server=server, mapped=mapped), now=world.now)
    world.a.ice.add_server_reflexive(host, mapped, server, now=world.now)
    world.a.drain()
    first, relay, other, reflexive = (candidate for candidate, _ in world.a.candidates)
    assert (relay.type, relay.address, relay.base, relay.related) == (CandidateType.RELAYED, relayed, relayed, mapped)
    # RFC 8445 §5.1.2.1: type preference 0, a local preference that no other relayed candidate has.
    assert relay.priority == candidate_priority(CandidateType.RELAYED, 65535)
    assert other.priority == candidate_priority(CandidateType.RELAYED, 65533)
    assert first.priority > reflexive.priority > relay.priority
    assert len({first.foundation, relay.foundation, reflexive.foundation}) == 3


@pytest.mark.parametrize("make", [v4, v6])
def test_ice_07_a_single_relayed_address_has_the_lowest_type_and_the_highest_local_preference(
    make: Callable[[int], TransportAddress],
) -> None:
    world = World()
    world.a.add_base(v4(1))
    world.a.ice.base_added(Base(make(2), "eth0", server=make(3), mapped=make(4)), now=world.now)
    ufrag = world.a.ice.restart(now=world.now).ufrag
    world.a.drain()
    own = [candidate.priority for candidate, of in world.a.candidates if of == ufrag]
    assert own == [2130706431, 16777215]


def test_ice_12_a_session_on_known_bases_intermingles_their_families_from_the_beginning() -> None:
    bases = [Base(address, "eth0") for address in (*map(v4, range(1, 3)), *map(v6, range(1, 7)))]
    relay = Base(v6(9), "eth0", server=v6(10), mapped=v6(11))
    ice = IceSession(
        IceConfig(), role=Role.CONTROLLED, pacer=Pacer(), entropy=Entropy.seeded(1), now=0.0, bases=[*bases, relay]
    )
    told: list[Candidate] = []
    while (event := ice.poll_event()) is not None:
        if isinstance(event, LocalCandidateGathered):
            told.append(event.candidate)
    *ordered, relayed = sorted(told, key=lambda each: each.priority, reverse=True)
    assert relayed.address == relay.address
    assert "".join(str(each.address.family) for each in ordered) == "66664646"
    assert [each.priority for each in ordered] == [candidate_priority(CandidateType.HOST, 65535 - n) for n in range(8)]
