"""Names of fleets, devices and operators, the parties made of them, and their MQTT topics (contract §1, §2).

Names hold no `/`, `+`, `#` or `:`, so a topic, a party and a client id can be split without ambiguity.  The sender
of a message is the last level of an `rx` topic: the broker's access rules can bind it, signatures decide.
"""

from __future__ import annotations

import re
from enum import StrEnum

import attrs

from edgeice.errors import ConfigError, DecodeError

__all__ = ["DEFAULT_ROOT", "Party", "Role", "Topic", "TopicKind", "Topics", "check_name"]

#: Version 1 of the wire lives under this root.
DEFAULT_ROOT = "edgeice/1"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_name(text: str, what: str = "name") -> str:
    """Return `text` if it may name a fleet, device or operator; otherwise raise ConfigError saying what may."""
    if not _NAME.fullmatch(text):
        raise ConfigError(f"{what} {text[:80]!r}: 1 to 64 of the letters A-Z a-z 0-9 . _ - are allowed")
    return text


class Role(StrEnum):
    """Which kind of party; the value is its level in parties and topics."""

    DEVICE = "d"
    OPERATOR = "o"


@attrs.frozen(cache_hash=True)
class Party:
    """A device or an operator of a fleet, written `{fleet}/d/{device}` or `{fleet}/o/{operator}`.

    The written form is also the party's user name at the broker.
    """

    fleet: str
    role: Role
    name: str

    @classmethod
    def device(cls, fleet: str, name: str) -> Party:
        """A device; raises ConfigError for names that are not allowed."""
        return cls(check_name(fleet, "fleet"), Role.DEVICE, check_name(name, "device"))

    @classmethod
    def operator(cls, fleet: str, name: str) -> Party:
        """An operator; raises ConfigError for names that are not allowed."""
        return cls(check_name(fleet, "fleet"), Role.OPERATOR, check_name(name, "operator"))

    @classmethod
    def parse(cls, text: str) -> Party:
        """Read the written form; raises DecodeError("party") for anything else."""
        fleet, _, rest = text.partition("/")
        role, _, name = rest.partition("/")
        if role not in ("d", "o") or not _NAME.fullmatch(fleet) or not _NAME.fullmatch(name):
            raise DecodeError("party", f"not a party: {text[:160]!r}")
        return cls(fleet, Role(role), name)

    def client_id(self, random: str = "") -> str:
        """The MQTT client id: fixed for a device, with a `random` part for each process of an operator (§1)."""
        parts = ["edgeice", self.fleet, self.role.value, self.name]
        return ":".join([*parts, random] if random else parts)

    def __str__(self) -> str:
        return f"{self.fleet}/{self.role.value}/{self.name}"


class TopicKind(StrEnum):
    """What travels on a topic; the value is its level under the owner."""

    STATUS = "status"
    INFO = "info"
    AUDIT = "audit"
    TURN = "turn"
    RX = "rx"


@attrs.frozen
class Topic:
    """A topic taken apart."""

    kind: TopicKind
    #: Whose branch it is: the writer of `status`, `info` and `audit`, the recipient on `rx` and `turn`.
    owner: Party
    #: On `rx` the party that writes there, otherwise None.
    sender: Party | None = None


class Topics:
    """Builds and reads the topics of one fleet under one root."""

    def __init__(self, fleet: str, root: str = DEFAULT_ROOT) -> None:
        """Raise ConfigError where the root would break the broker's or the contract's limits.

        A topic has at most 6 slashes (§1), five of which stand behind the root.
        """
        levels = root.split("/")
        if len(levels) > 2 or not all(_NAME.fullmatch(level) for level in levels):
            raise ConfigError(
                f"topic root {root[:80]!r}: one or two levels of the letters A-Z a-z 0-9 . _ - are allowed"
            )
        self.fleet = check_name(fleet, "fleet")
        self.root = root
        self._prefix = f"{root}/{fleet}/"

    def of(self, kind: TopicKind, owner: Party) -> str:
        """The `status`, `info`, `audit` or `turn` topic of a party."""
        return f"{self._prefix}{owner.role.value}/{owner.name}/{kind.value}"

    def rx(self, recipient: Party, sender: Party) -> str:
        """The topic on which `sender` writes to `recipient`."""
        return f"{self.of(TopicKind.RX, recipient)}/{sender.name}"

    def rx_filter(self, recipient: Party, sender: Party | None = None) -> str:
        """What a party subscribes to for its messages: of one sender, or of all."""
        return f"{self.of(TopicKind.RX, recipient)}/{sender.name if sender else '+'}"

    def parse(self, topic: str) -> Topic:
        """Take a topic apart; raises DecodeError("topic") for what is not a topic of this fleet."""
        levels = topic[len(self._prefix) :].split("/")
        if not topic.startswith(self._prefix) or not 3 <= len(levels) <= 4 or not all(map(_NAME.fullmatch, levels)):
            raise DecodeError("topic", repr(topic[:160]))
        role, owner, kind = levels[:3]
        if role not in ("d", "o"):
            raise DecodeError("topic", repr(topic[:160]))
        party = Party(self.fleet, Role(role), owner)
        if len(levels) == 4:
            if kind != TopicKind.RX:
                raise DecodeError("topic", repr(topic[:160]))
            other = Role.OPERATOR if party.role is Role.DEVICE else Role.DEVICE
            return Topic(TopicKind.RX, party, Party(self.fleet, other, levels[3]))
        known = kind in ("status", "info", "audit") and party.role is Role.DEVICE
        if not known and kind != TopicKind.TURN:
            raise DecodeError("topic", repr(topic[:160]))
        return Topic(TopicKind(kind), party)
