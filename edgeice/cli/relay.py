"""`edgeice relay`: hand out short-lived credentials for TURN servers whose shared secret stays here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs
import click
import trio

from edgeice.cli.common import load_options, reporting, run
from edgeice.cli.options import timeout_option
from edgeice.errors import ConfigError, DecodeError
from edgeice.files import read_secret
from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import RefusedError
from edgeice.operator.link import BrokerLink, open_broker
from edgeice.peer import TurnServer
from edgeice.sansio import Entropy
from edgeice.signaling import Party, PrivateKey, TopicKind
from edgeice.signaling.broker import MqttRefusedError
from edgeice.signaling.relay import RelayCredentials, sign_relay
from edgeice.turn import rest_credentials

__all__ = ["command"]

_WEEK = 7 * 86400


@click.group(
    "relay",
    epilog="""\b
Examples:
  edgeice relay issue --secret relay.secret --key issuer.key --url turn:relay.example.org d/pi17 o/alice""",
)
def command() -> None:
    """Hand out short-lived credentials for TURN servers."""


@attrs.frozen
class _Issue:
    """What is handed out, and to whom."""

    config: OperatorConfig
    secret: str = attrs.field(repr=False)
    key: PrivateKey
    urls: tuple[str, ...]
    lifetime: int
    parties: tuple[Party, ...]

    def sign(self, party: Party) -> tuple[RelayCredentials, bytes]:
        """Credentials from now on."""
        now = int(time.time())
        login = rest_credentials(self.secret, expires_at=now + self.lifetime, user=party.name)
        relay = RelayCredentials(
            iss=str(Party.operator(self.config.fleet, self.config.operator)),
            iat=now,
            exp=now + self.lifetime,
            urls=self.urls,
            username=login.username,
            credential=login.password,
        )
        return relay, sign_relay(party, relay, self.key)


@command.command(
    epilog="""\b
Each party's configuration names the key that it believes, which
`ssh-keygen -t ed25519 -f issuer.key` makes:
  [turn]
  issuer = "ssh-ed25519 AAAA…"     # the content of issuer.key.pub

\b
The broker has to let the operator of operator.toml write there:
  topic write edgeice/1/FLEET/+/+/turn

\b
Examples:
  edgeice relay issue --secret relay.secret --key issuer.key --url turn:relay.example.org d/pi17 o/alice
  edgeice relay issue --secret relay.secret --key issuer.key --url turns:relay.example.org --keep d/pi17"""
)
@click.argument("parties", nargs=-1, required=True, metavar="d/DEVICE|o/OPERATOR...")
@click.option("--secret", required=True, metavar="FILE", help="The relay's shared secret (coturn: static-auth-secret).")
@click.option("--key", required=True, metavar="FILE", help="Ed25519 key to sign with; the parties know its public one.")
@click.option("--url", "urls", required=True, multiple=True, metavar="URL", help="turn: or turns: server; repeatable.")
@click.option(
    "--lifetime",
    type=click.IntRange(60, _WEEK),
    default=86400,
    show_default=True,
    help="Seconds until new allocations need new credentials.",
)
@click.option("--keep", is_flag=True, help="Stay, and hand out new ones at half of the lifetime.")
@click.option("--config", metavar="FILE", help="operator.toml to use instead of the one in ~/.config/edgeice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, a line for each party.")
@timeout_option(10.0, "Seconds for the broker.")
def issue(
    *,
    parties: tuple[str, ...],
    secret: str,
    key: str,
    urls: tuple[str, ...],
    lifetime: int,
    keep: bool,
    config: str | None,
    as_json: bool,
    timeout: float,
) -> None:
    """Sign credentials for devices and operators, and leave them at the broker.

    What stands there replaces what they had, and vanishes when it expires.  The shared secret is not sent to anybody.
    """
    with reporting(as_json=as_json):
        settings = load_options(config)
        for url in urls:
            TurnServer(url, "user", "password")  # refuses what is no relay's
        issued = _Issue(settings, _secret(secret), _key(key), urls, lifetime, tuple(_parties(settings.fleet, parties)))

        async def main() -> int:
            me = Party.operator(settings.fleet, settings.operator)
            own = BrokerLink.topics_of(settings).of(TopicKind.TURN, me)
            async with open_broker(settings, Entropy(), (own,), timeout) as link:
                while True:
                    for party in issued.parties:
                        await _hand_out(link, issued, party, as_json=as_json)
                    if not keep:
                        return 0
                    await trio.sleep(lifetime / 2)

        run(main)


async def _hand_out(link: BrokerLink, issued: _Issue, party: Party, *, as_json: bool) -> None:
    relay, payload = issued.sign(party)
    topic = link.topics.of(TopicKind.TURN, party)
    try:
        await link.client.publish(topic, payload, retain=True, expiry=issued.lifetime)
    except MqttRefusedError as error:
        raise RefusedError("broker", f"the broker does not let {link.party} write {topic}: {error}") from None
    if as_json:
        click.echo(json.dumps({"party": str(party), "username": relay.username, "until": relay.exp}))
    else:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(relay.exp))
        click.echo(f"{party}: {relay.username} until {until}")


def _secret(path: str) -> str:
    text = read_secret(Path(path), "the relay's shared secret").decode("utf-8", "replace").strip("\r\n")
    if not text:
        raise ConfigError(f"{path}: expected the relay's shared secret, found an empty file")
    return text


def _key(path: str) -> PrivateKey:
    return PrivateKey.load(read_secret(Path(path), "the issuer's key"), source=path)


def _parties(fleet: str, names: tuple[str, ...]) -> list[Party]:
    parties = []
    for name in names:
        try:
            parties.append(Party.parse(f"{fleet}/{name}"))
        except DecodeError:
            raise ConfigError(f"{name!r}: expected d/DEVICE or o/OPERATOR") from None
    return parties
