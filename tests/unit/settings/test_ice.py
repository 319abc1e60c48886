"""The [ice] section: what gets through it never fails later."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice import stun
from edgeice.errors import ConfigError
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
