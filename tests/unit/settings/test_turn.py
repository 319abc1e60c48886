"""The [turn] section, and the relays that it leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.errors import ConfigError, DecodeError
from edgeice.peer import TurnServer
from edgeice.sansio import Entropy
from edgeice.settings import TurnSection, structure
from edgeice.signaling import Party, PrivateKey
from edgeice.signaling.relay import RelayCredentials, sign_relay
from edgeice.transport import RelaySource

FILE = Path("/etc/edgeice/agent.toml")
PARTY = Party.device("lab", "pi17")
ISSUER = PrivateKey.generate(Entropy.seeded(1))
WALL = 1_800_000_000.0


def section(**table: object) -> TurnSection:
    return structure(TurnSection, table, file=FILE, prefix="turn.")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "relay.password"
    file.write_text("secret\n")
    file.chmod(0o600)
    return file


def test_servers_share_the_user_and_the_password_of_the_file(password: Path) -> None:
    relays = RelaySource(
        section(urls=["turn:a.example", "turns:b.example"], username="pi", password_file=str(password)), PARTY
    )
    assert relays.servers == (
        TurnServer("turn:a.example", "pi", "secret"),
        TurnServer("turns:b.example", "pi", "secret"),
    )
    assert not relays.has_issuer


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"urls": ["turn:a.example"]}, "turn.urls: expected username and password_file beside them"),
        ({"urls": ["turn:a.example"], "username": "pi"}, "turn.urls: expected username and password_file beside them"),
        ({"urls": [f"turn:{n}.example" for n in range(9)]}, "turn.urls: expected at most 8 servers"),
        ({"urls": "turn:a.example"}, "turn.urls: expected a list"),
        ({"username": 7}, "turn.username: expected text"),
    ],
)
def test_what_is_missing_or_too_much_is_said(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"^/etc/edgeice/agent\.toml: ") as caught:
        section(**table)
    assert message in str(caught.value)


@pytest.mark.parametrize("uri", ["stun:a.example", "turn://a.example", "turns:a.example?transport=udp", "nonsense"])
def test_a_uri_that_names_no_relay_is_said(password: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^turn: "):
        RelaySource(section(urls=[uri], username="pi", password_file=str(password)), PARTY)


def test_a_password_that_others_can_read_is_refused(password: Path) -> None:
    password.chmod(0o644)
    with pytest.raises(ConfigError, match="relay password"):
        RelaySource(section(urls=["turn:a.example"], username="pi", password_file=str(password)), PARTY)


def test_an_issuer_that_is_no_key_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^turn\.issuer: expected a line 'ssh-ed25519 AAAA"):
        RelaySource(section(issuer="somebody"), PARTY)


def issued(iat: float, *urls: str, exp: float = WALL + 600) -> bytes:
    relay = RelayCredentials(iss="r", iat=int(iat), exp=int(exp), urls=urls, username="u", credential="c")
    return sign_relay(PARTY, relay, ISSUER)


def test_what_the_issuer_hands_out_takes_the_place_of_what_is_configured(password: Path) -> None:
    relays = RelaySource(
        section(urls=["turn:a.example"], username="pi", password_file=str(password), issuer=ISSUER.public.openssh()),
        PARTY,
    )
    assert relays.has_issuer
    relays.take(issued(WALL, "turn:b.example"), wall=WALL)
    assert relays.servers == (TurnServer("turn:b.example", "u", "c"),)
    relays.take(issued(WALL + 60, "turn:c.example"), wall=WALL)
    assert [server.uri for server in relays.servers] == ["turn:c.example"]


def refused(relays: RelaySource, payload: bytes) -> str:
    before = relays.servers
    with pytest.raises(DecodeError) as caught:
        relays.take(payload, wall=WALL)
    assert relays.servers == before
    return caught.value.reason


def test_host_24_what_nobody_or_nobody_now_would_hand_out_changes_nothing() -> None:
    relays = RelaySource(section(issuer=ISSUER.public.openssh()), PARTY)
    relays.take(issued(WALL, "turn:b.example"), wall=WALL)
    # A broker may bring back what was retained before.
    assert refused(relays, issued(WALL - 1, "turn:old.example")) == "stale"
    assert refused(relays, issued(WALL + 1, "stun:b.example")) == "claims"
    assert refused(relays, issued(WALL + 1, "turn:b.example", exp=WALL)) == "expired"
    assert refused(relays, b"") == "jws-form"
    assert refused(RelaySource(section(), PARTY), issued(WALL)) == "no-issuer"
