"""Candidates that hide their address behind a name (checklist MDNS-03, HOST-10, HOST-11, HOST-14)."""

from __future__ import annotations

from collections import Counter

import pytest

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import CandidatePolicy, IceConfig, IceCredentials, RemoteParameters, Role
from edgeice.peer import Endpoint, EndpointConfig, IceConnection
from edgeice.peer.hidden import NAMES_LIMIT
from edgeice.sansio import Entropy, Event, Resolve, Transmit, drain

UFRAG, PWD = "peer", "p" * 22


def name(number: int = 0) -> str:
    return f"{number:08x}-6b0e-4c5c-9d4c-5e0a1f6d2c77.local"


def line(host: str, port: int = 5000) -> str:
    return f"candidate:{port} 1 udp 2122260223 {host} {port} typ host generation 0"  # no two are frozen together


class Host:
    """An endpoint with one session, and what it wants done."""

    def __init__(self, **options: object) -> None:
        self.now = 10.0
        config = IceConfig(**{"resolve_names": True, **options})  # type: ignore[arg-type]  # as the tests give them
        self.endpoint = Endpoint(EndpointConfig(ice=config), entropy=Entropy.seeded(1))
        self.endpoint.base_added(Base(TransportAddress("192.0.2.1", 4000), "eth0"), now=self.now)
        self.session: IceConnection = self.endpoint.connect_raw(Role.CONTROLLING, now=self.now)
        self.events: list[Event] = []
        self.set_remote(UFRAG)

    def set_remote(self, ufrag: str) -> None:
        parameters = RemoteParameters(credentials=IceCredentials.parse(ufrag, PWD), pacing=0.005)
        self.session.set_remote(parameters, now=self.now)

    def add(self, text: str, ufrag: str = UFRAG) -> None:
        self.session.add_remote_candidate(text, ufrag, now=self.now)

    def asked(self) -> list[str]:
        """Names asked for since the last time; time stands still, so nothing else is."""
        names: list[str] = []

        def act(action: object) -> None:
            assert isinstance(action, Resolve)
            assert action.multicast
            names.append(action.name)

        drain(self.session, act, self.events.append)
        return names

    def resolve(self, host: str, *addresses: str) -> bool:
        """Answer; True if the session has something to do then."""
        self.endpoint.resolved(host, list(addresses), now=self.now)
        return self.endpoint.poll_touched() is self.session

    def checked(self) -> list[str]:
        """Where checks go within the next second."""
        remotes: list[str] = []

        def act(action: object) -> None:
            assert isinstance(action, Transmit)
            remotes.append(str(action.path.remote))

        until = self.now + 1.0
        drain(self.session, act, self.events.append)
        while (at := self.session.next_timeout()) is not None and at < until:
            self.now = max(at, self.now)
            self.session.handle_timeout(now=self.now)
            drain(self.session, act, self.events.append)
        self.now = until
        return sorted(set(remotes))

    @property
    def drops(self) -> dict[str, int]:
        link = self.session._link
        return dict(Counter(link.drops.snapshot()) + Counter(link.ice.drops.snapshot()))


def test_mdns_03_a_name_is_looked_up_and_its_address_checked() -> None:
    host = Host()
    host.add(line(name()))
    assert host.asked() == [name()]
    assert host.checked() == []
    assert host.resolve(name(), "192.0.2.7")
    assert host.checked() == ["192.0.2.7:5000"]
    assert host.drops == {}


def test_mdns_03_several_candidates_of_one_name_are_one_look_up() -> None:
    host = Host()
    for port in (5000, 5001, 5002, 5003, 5004):
        host.add(line(name(), port))
    assert host.asked() == [name()]
    host.resolve(name(), "192.0.2.7")
    assert host.checked() == [f"192.0.2.7:{port}" for port in (5000, 5001, 5002, 5003)]
    assert host.drops == {"candidate_mdns_limit": 1}


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ((), "candidate_mdns_unknown"),
        (("192.0.2.7", "192.0.2.8"), "candidate_mdns_ambiguous"),
        (("192.0.2.7", "2001:db8::7"), "candidate_mdns_ambiguous"),
        (("no address",), "address"),
    ],
)
def test_mdns_03_anything_but_one_address_is_ignored(addresses: tuple[str, ...], reason: str) -> None:
    host = Host()
    host.add(line(name()))
    host.asked()
    host.resolve(name(), *addresses)
    assert host.checked() == []
    assert host.drops == {reason: 1}


@pytest.mark.parametrize(
    "options",
    [{"resolve_names": False}, {"policy": CandidatePolicy.RELAY}],
    ids=["off by default", "a session that only relays"],
)
def test_mdns_03_nothing_is_asked(options: dict[str, object]) -> None:
    host = Host(**options)
    host.add(line(name()))
    assert host.asked() == []
    assert host.drops == {"candidate_mdns": 1}


def test_dec_7_names_are_not_looked_up_by_default() -> None:
    assert IceConfig().resolve_names is False


@pytest.mark.parametrize(
    "other",
    [
        "printer.local",
        "localhost",
        "a." + name(),
        name().replace(".local", ".example"),
        name() + ".",
        name().replace("-4c5c-", "-1c5c-"),  # a version 1 UUID tells who made it and when
        "b5a4a2e-6b0e-4c5c-9d4c-5e0a1f6d2c77.local",
    ],
)
def test_host_14_mdns_03_other_names_are_not_asked_for(other: str) -> None:
    host = Host()
    host.add(line(other))
    assert host.asked() == []
    assert host.drops == {"candidate_name": 1}


def test_host_14_a_peer_that_names_500_gets_a_few_looked_up() -> None:
    host = Host()
    for number in range(500):
        host.add(line(name(number)))
    assert host.asked() == [name(number) for number in range(NAMES_LIMIT)]
    for number in range(NAMES_LIMIT):
        host.resolve(name(number))
    for number in range(500):
        host.add(line(name(number)))
    # Those it asked for may be asked for again, and no others.
    assert host.asked() == [name(number) for number in range(NAMES_LIMIT)]
    assert host.drops == {"candidate_mdns_limit": 2 * (500 - NAMES_LIMIT), "candidate_mdns_unknown": NAMES_LIMIT}


def test_host_14_names_for_no_generation_are_not_asked_for() -> None:
    host = Host()
    for number in range(500):
        host.add(line(name(number)), f"ufrag{number}")
    assert host.asked() == []
    assert host.drops == {"candidate_generation": 500}


def test_host_14_a_restart_may_name_as_many_again() -> None:
    host = Host()
    for number in range(NAMES_LIMIT):
        host.add(line(name(number)))
    host.session.restart(now=host.now)
    host.set_remote("next")
    host.add(line(name(100)), "next")
    assert host.asked()[-1:] == [name(100)]
    assert host.drops == {}


def test_host_14_what_was_asked_for_is_forgotten_with_its_generation() -> None:
    host = Host()
    for number in range(50):
        host.session.restart(now=host.now)
        host.set_remote(f"ufrag{number}")
        host.add(line(name(number)), f"ufrag{number}")
        host.asked()
        host.resolve(name(number))
    hidden = host.session._link._hidden
    assert set(hidden._asked) == {"ufrag49"}
    assert not hidden._waiting


REFUSED = {
    "127.0.0.1": "destination_loopback",
    "::1": "destination_loopback",
    "0.0.0.0": "destination_reserved",
    "224.0.0.251": "destination_multicast",
    "255.255.255.255": "destination_multicast",
    "ff02::fb": "destination_multicast",
    "::ffff:192.0.2.7": "destination_reserved",
    "169.254.169.254": "destination_denied",
    "fd00:ec2::254": "destination_denied",
}


@pytest.mark.parametrize(("address", "reason"), REFUSED.items())
def test_host_14_what_a_name_stands_for_is_filtered_as_any_address(address: str, reason: str) -> None:
    host = Host()
    host.add(line(name()))
    host.asked()
    host.resolve(name(), address)
    assert host.checked() == []
    assert host.drops == {reason: 1}


def test_host_14_a_port_that_is_refused_is_refused_behind_a_name_too() -> None:
    host = Host()
    host.add(line(name(), 22))
    host.asked()
    host.resolve(name(), "192.0.2.7")
    assert host.checked() == []
    assert host.drops == {"destination_port": 1}


def test_mdns_03_the_end_of_candidates_waits_for_names() -> None:
    host = Host()
    host.add(line(name(1)))
    host.add(line(name(2)))
    host.session.end_of_candidates(UFRAG, now=host.now)
    host.add(line(name(3)))  # after the end (RFC 8838 §14)
    assert host.asked() == [name(1), name(2)]
    host.resolve(name(1))
    host.resolve(name(2), "192.0.2.7")
    assert host.checked() == ["192.0.2.7:5000"]
    # The last name was the last candidate.
    host.add(line("192.0.2.8"))
    assert host.checked() == ["192.0.2.7:5000"]
    assert host.drops == {"candidate_late": 2, "candidate_mdns_unknown": 1}


def test_without_names_the_end_of_candidates_does_not_wait() -> None:
    host = Host()
    host.session.end_of_candidates(UFRAG, now=host.now)
    host.add(line("192.0.2.8"))
    assert host.drops == {"candidate_late": 1}


def test_names_of_others_touch_no_session() -> None:
    host = Host()
    host.add(line(name()))
    assert not host.resolve("stun.example.org", "192.0.2.7")
    assert host.resolve(name(), "192.0.2.7")
    assert not host.resolve(name(), "192.0.2.7")


def test_a_session_that_is_over_waits_for_no_name() -> None:
    host = Host()
    host.add(line(name()))
    host.session.close(now=host.now)
    assert host.asked() == []
    assert not host.resolve(name(), "192.0.2.7")
    assert host.checked() == []
