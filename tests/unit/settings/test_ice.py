"""The [ice] section: what gets through it never fails later."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice import stun
from edgeice.addresses import TransportAddress
from edgeice.errors import ConfigError
from edgeice.ice import CandidatePolicy
from edgeice.net import Link
from edgeice.settings import IceSection, structure
from edgeice.transport import NodeConfig

FILE = Path("/etc/edgeice/agent.toml")


def section(**table: object) -> IceSection:
    return structure(IceSection, table, file=FILE, prefix="ice.")


@pytest.mark.parametrize(
    "uri",
    [
        "stun:stun.example.org",
        "STUN:Stun.Example.org:3478",
        "stun:192.0.2.1",
        "stun:192.0.2.1:65535",
        "stun:[2001:db8::1]:1",
        "stun:[::ffff:192.0.2.1]",
        "stun:a_b-c.d",
    ],
)
def test_stun_servers_that_are_taken_are_uris_that_can_be_asked(uri: str) -> None:
    (taken,) = NodeConfig.from_section(section(stun=[uri])).stun
    parsed = stun.parse_uri(taken)
    assert not parsed.is_turn
    assert not parsed.is_secure


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense",
        "",
        "stun:",
        "stun://stun.example.org",
        "stuns:stun.example.org",
        "turn:stun.example.org",
        "stun:stun.example.org:0",
        "stun:stun.example.org:65536",
        "stun:stun.example.org:port",
        "stun:1.2.3",
        "stun:256.0.0.1",
        "stun:[fe80::g]",
        "stun:[1.2.3.4]",
        "stun:stün.example.org",
        "stun:a b",
        "stun:example.org\n",
        "stun:example.org?transport=udp",
        f"stun:{'x' * 254}",
    ],
)
def test_other_stun_servers_are_refused_with_file_key_and_what_was_expected(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(stun=["stun:192.0.2.1", uri])
    assert str(caught.value).startswith(f"{FILE}: ice.stun[1]: expected stun:HOST[:PORT], not ")


def test_more_stun_servers_than_are_asked_are_refused() -> None:
    section(stun=["stun:192.0.2.1"] * 8)
    with pytest.raises(ConfigError, match=r"ice\.stun: expected at most 8 servers, not 9"):
        section(stun=["stun:192.0.2.1"] * 9)


def test_loopback_addresses_are_made_canonical_and_stand_once() -> None:
    assert section(loopback=["127.0.0.1", "0:0::1", "::1", "127.9.9.9"]).loopback == ("127.0.0.1", "::1", "127.9.9.9")


@pytest.mark.parametrize(
    "address", ["banana", "", "192.0.2.1", "127.0.0.1/8", "::1%lo", "::ffff:127.0.0.1", "localhost"]
)
def test_other_loopback_addresses_are_refused_with_file_key_and_what_was_expected(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(loopback=["127.0.0.1", address])
    expected = "a loopback address such as 127.0.0.1 or ::1"
    assert str(caught.value) == f"{FILE}: ice.loopback[1]: expected {expected}, not {address!r}"


def test_patterns_networks_ports_and_mapped_addresses_reach_the_node() -> None:
    config = NodeConfig.from_section(
        section(
            exclude=["wwan*"],
            only=["eth[0-9]"],
            networks=["192.0.2.0/24", "2001:DB8::/32"],
            exclude_networks=["192.0.2.9"],
            ports="40000-40009",
            public={"10.0.0.5": "198.51.100.5", "2001:DB8::5": "2001:db8:1::5"},
            policy="no-host",
        )
    )
    assert config.policy.objection("wwan0") == "wwan*: excluded by configuration"
    assert config.policy.objection("eth7") is None
    assert [config.policy.address_objection(ip) for ip in ("192.0.2.7", "2001:db8::1")] == [None, None]
    assert config.policy.address_objection("192.0.2.9") == "192.0.2.9/32: excluded by configuration"
    assert config.ports == range(40000, 40010)
    assert config.public == {"10.0.0.5": "198.51.100.5", "2001:db8::5": "2001:db8:1::5"}
    assert config.ice.policy is CandidatePolicy.NO_HOST


def test_what_links_are_and_cost_reaches_the_node() -> None:
    links = {"wired": ["usb0"], "cellular": ["usb*", "ppp*"], "unmetered": ["ppp0"], "metered": ["wlan*"]}
    policy = NodeConfig.from_section(section(links=links)).policy.links
    assert policy.link("usb0", "cellular") == Link("wired", 0)
    assert policy.link("usb1", "wired") == Link("cellular", 900)
    assert policy.link("ppp0", "other") == Link("cellular", 100)
    assert policy.link("wlan0", "wifi") == Link("wifi", 900)
    assert policy.link("eth0", "wired") == Link("wired", 0)


def test_an_unknown_key_of_links_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        section(links={"metred": ["wwan*"]})
    assert str(caught.value) == f"{FILE}: unknown key ice.links.metred; did you mean ice.links.metered?"


def test_host_11_networks_of_peers_and_the_broker_reach_the_node() -> None:
    config = NodeConfig.from_section(
        section(peer_networks=["192.0.2.0/24", "2001:DB8::/32"], exclude_peer_networks=["192.0.2.9"]),
        broker=("broker.example", 8883),
    )
    assert config.servers == (("broker.example", 8883),)
    destinations = config.ice.destinations()
    reached = {"192.0.2.8": True, "192.0.2.9": False, "198.51.100.1": False, "2001:db8::1": True, "2001:db9::1": False}
    assert {ip: destinations.refuses(TransportAddress(ip, 5000)) is None for ip in reached} == reached


def test_with_relays_only_no_stun_server_is_asked() -> None:
    assert NodeConfig.from_section(section(stun=["stun:192.0.2.1"], policy="relay")).stun == ()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"exclude": ["wwan0", ""]}, "exclude[1]: expected an interface's name or a pattern such as wwan*, not ''"),
        ({"include": ["a b"]}, "include[0]: expected an interface's name"),
        ({"only": ["eth0/1"]}, "only[0]: expected an interface's name"),
        ({"only": ["x"] * 65}, "only: expected at most 64, not 65"),
        (
            {"exclude": ["wg0"], "include": ["wg0"]},
            "exclude: expected patterns that are neither in include nor in only",
        ),
        ({"exclude": ["wg0"], "only": ["wg0"]}, "exclude: expected patterns that are neither in include nor in only"),
        ({"links": {"wired": ["eth 0"]}}, "links.wired[0]: expected an interface's name or a pattern such as wwan*"),
        ({"links": {"wifi": ["x"] * 65}}, "links.wifi: expected at most 64, not 65"),
        (
            {"links": {"wired": ["usb0"], "cellular": ["ppp0", "usb0"]}},
            "links.cellular: expected patterns that are not in wired, not 'usb0'",
        ),
        (
            {"links": {"metered": ["ppp0"], "unmetered": ["ppp0"]}},
            "links.unmetered: expected patterns that are not in metered, not 'ppp0'",
        ),
        ({"networks": ["eth0"]}, "networks[0]: expected a network such as 192.0.2.0/24 or an address, not 'eth0'"),
        ({"networks": ["192.0.2.7/24"]}, "networks[0]: expected 192.0.2.0/24, or the address without a length"),
        ({"networks": ["192.0.2.0/33"]}, "networks[0]: expected a network"),
        ({"networks": ["fe80::1%eth0"]}, "networks[0]: expected a network"),
        ({"peer_networks": ["eth0"]}, "peer_networks[0]: expected a network such as 192.0.2.0/24 or an address"),
        ({"exclude_peer_networks": ["::/129"]}, "exclude_peer_networks[0]: expected a network"),
        ({"exclude_networks": ["::/129"]}, "exclude_networks[0]: expected a network"),
        (
            {"networks": ["10.0.0.0/8"], "exclude_networks": ["10.0.0.0/8"]},
            "exclude_networks: expected networks that are not in networks, not '10.0.0.0/8'",
        ),
        ({"ports": "40000"}, "ports: expected FIRST-LAST between 1024 and 65535, such as 40000-40099, not '40000'"),
        ({"ports": "40001-40000"}, "ports: expected FIRST-LAST"),
        ({"ports": "80-90"}, "ports: expected FIRST-LAST"),
        ({"ports": "65000-65536"}, "ports: expected FIRST-LAST"),
        ({"ports": "٤٠٠٠٠-٤٠٠٠٩"}, "ports: expected FIRST-LAST"),
        ({"ports": 40000}, "ports: expected text, not 40000"),
        ({"public": {"eth0": "198.51.100.5"}}, "public: expected addresses of this device as keys, not 'eth0'"),
        ({"public": {"127.0.0.1": "198.51.100.5"}}, "public: expected addresses of this device as keys"),
        (
            {"public": {"10.0.0.5": "router"}},
            "public.10.0.0.5: expected the IPv4 address that others see, not 'router'",
        ),
        ({"public": {"10.0.0.5": "2001:db8::1"}}, "public.10.0.0.5: expected the IPv4 address that others see"),
        ({"public": {"10.0.0.5": "0.0.0.0"}}, "public.10.0.0.5: expected the IPv4 address that others see"),
        (
            {"public": {"10.0.0.5": "198.51.100.5", "10.0.0.6": "198.51.100.5"}},
            "public.10.0.0.6: expected an address that no other one is mapped to, not '198.51.100.5'",
        ),
        ({"policy": "relayed"}, "policy: expected one of 'all', 'no-host', 'relay', not 'relayed'"),
    ],
)
def test_nonsense_is_refused_with_file_key_and_what_was_expected(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(**table)
    assert str(caught.value).startswith(f"{FILE}: ice.{said}")


@pytest.mark.parametrize("asked", [True, False])
def test_dec_7_names_are_looked_up_where_the_file_says_so(*, asked: bool) -> None:
    assert NodeConfig.from_section(section(resolve_names=asked)).ice.resolve_names is asked
    assert NodeConfig.from_section(section()).ice.resolve_names is False
