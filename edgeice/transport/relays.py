"""The relays that a party may use: those of its configuration, or what an issuer hands it while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.errors import ConfigError, DecodeError
from edgeice.files import read_secret
from edgeice.peer import TurnServer
from edgeice.settings import TurnSection
from edgeice.signaling import Party, PublicKey

if TYPE_CHECKING:
    from edgeice.signaling.relay import RelayCredentials

__all__ = ["RelaySource"]


class RelaySource:
    """Where a party's relays come from.

    Args:
        section: The configuration; raises ConfigError for what is wrong in it, and for a password that cannot be read.
        party: Whose configuration it is.

    Attributes:
        servers: Those to use at present.
        ca: Authorities that their certificates are checked against, None for the system's.
    """

    def __init__(self, section: TurnSection, party: Party) -> None:
        self._party = party
        self._issuer = _issuer(section.issuer)
        self._issued_at = -1
        self.ca = section.ca
        self.servers: tuple[TurnServer, ...] = ()
        if section.urls and section.password_file is not None:
            password = read_secret(section.password_file, "the relay password").decode("utf-8", "replace")
            self.servers = _servers(section.urls, section.username, password.strip("\r\n"))

    @property
    def has_issuer(self) -> bool:
        """Whether the party's `turn` topic is to be read."""
        return self._issuer is not None

    def take(self, payload: bytes, *, wall: float | None) -> RelayCredentials:
        """Use what the issuer hands out from now on; raises DecodeError for what it did not, or what is older."""
        from edgeice.signaling.relay import open_relay  # noqa: PLC0415  # few devices have an issuer

        if self._issuer is None:
            raise DecodeError("no-issuer", "turn.issuer names nobody")
        relay = open_relay(payload, self._issuer, self._party, wall=wall)
        if relay.iat < self._issued_at:
            raise DecodeError("stale", f"issued at {relay.iat}, used are those of {self._issued_at}")
        try:
            self.servers = _servers(relay.urls, relay.username, relay.credential)
        except ConfigError as error:
            raise DecodeError("claims", str(error)) from None
        self._issued_at = relay.iat
        return relay


def _servers(urls: tuple[str, ...], username: str, password: str) -> tuple[TurnServer, ...]:
    return tuple(TurnServer(url, username, password) for url in urls)


def _issuer(line: str) -> PublicKey | None:
    try:
        return PublicKey.from_openssh(line) if line else None
    except ConfigError as error:
        raise ConfigError(f"turn.issuer: {error}") from None
