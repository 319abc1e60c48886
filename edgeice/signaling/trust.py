"""Whose keys are trusted: an operator's `known_devices` and a device's `authorized_operators` (contract §3).

Both are text that people edit.  Messages name file and line.  Nothing here opens a file.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto

import attrs

from edgeice.errors import ConfigError, DecodeError
from edgeice.signaling.capabilities import check_capability
from edgeice.signaling.clock import is_expired
from edgeice.signaling.keys import PublicKey
from edgeice.signaling.names import Party, Role, check_name

__all__ = ["AuthorizedOperators", "KeyVerdict", "KnownDevices", "OperatorLine"]

_OPTION = re.compile(r'([A-Za-z0-9_-]+)="((?:[^"\\]|\\.)*+)"')
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EPOCH = dt.date(1970, 1, 1)
_LINE_LIMIT = 8192
#: What ends a line for one reader or another, or moves a terminal's cursor; a tab separates words.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class KeyVerdict(Enum):
    """What a pin says about a device's key."""

    MATCHES = auto()
    UNKNOWN = auto()
    #: Another key is pinned: refused, as ssh does.
    CHANGED = auto()


class KnownDevices:
    """The pins of `known_devices`: one line `{fleet}/d/{device} ssh-ed25519 AAAA…` per device.

    Keeps the text as it was, comments included, and changes only the line in question.
    """

    def __init__(self, text: str, *, source: str) -> None:
        """Parse the file's content; raises ConfigError naming `source` and line."""
        self._lines = text.splitlines()
        self._keys: dict[Party, PublicKey] = {}
        self._at: dict[Party, int] = {}
        for number, line in _entries(text):
            where = f"{source}:{number}"
            name, _, key_text = line.partition(" ")
            try:
                party = Party.parse(name)
            except DecodeError:
                raise ConfigError(
                    f"{where}: {name[:80]!r} is no device; expected FLEET/d/DEVICE ssh-ed25519 AAAA…"
                ) from None
            if party.role is not Role.DEVICE:
                raise ConfigError(f"{where}: {party} is no device")
            if party in self._keys:
                raise ConfigError(
                    f"{where}: {party} stands in line {self._at[party]} already; remove one of the two lines"
                )
            self._keys[party] = _public_key(key_text, where)
            self._at[party] = number

    def get(self, device: Party) -> PublicKey | None:
        """The key pinned for a device."""
        return self._keys.get(device)

    def judge(self, device: Party, key: PublicKey) -> KeyVerdict:
        """Compare a key with the pin."""
        pinned = self._keys.get(device)
        if pinned is None:
            return KeyVerdict.UNKNOWN
        return KeyVerdict.MATCHES if pinned == key else KeyVerdict.CHANGED

    def pin(self, device: Party, key: PublicKey) -> None:
        """Add the device's line, or replace it."""
        line = f"{device} {key.openssh()}"
        if device in self._at:
            self._lines[self._at[device] - 1] = line
        else:
            self._lines.append(line)
            self._at[device] = len(self._lines)
        self._keys[device] = key

    def text(self) -> str:
        """The file's content."""
        return "".join(f"{line}\n" for line in self._lines)

    def __iter__(self) -> Iterator[Party]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _check_operator(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    check_name(value, "operator")


def _check_can(_instance: object, _attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for capability in value:
        check_capability(capability)


def _check_comment(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    if _CONTROL.search(value):
        raise ConfigError("a control character stands in the key's comment; remove it")


@attrs.frozen
class OperatorLine:
    """One line of `authorized_operators`: what one key of one operator may do, and until when.

    Raises ConfigError for values that would not be one line of the file.
    """

    operator: str = attrs.field(validator=_check_operator)
    key: PublicKey
    #: Without `can` nothing is allowed.
    can: tuple[str, ...] = attrs.field(default=(), validator=_check_can)
    #: The Unix second at which the line ends to hold, None for never.
    expires: int | None = None
    comment: str = attrs.field(default="", validator=_check_comment)

    @classmethod
    def parse(cls, line: str, *, where: str) -> OperatorLine:
        """Read `operator="…",can="…",expires="…" ssh-ed25519 AAAA… comment`.

        Raises ConfigError whose message begins with `where`.
        """
        if len(line) > _LINE_LIMIT:
            raise ConfigError(f"{where}: the line is longer than {_LINE_LIMIT} characters")
        options, key_text = _options(line.strip(), where)
        unknown = options.keys() - {"operator", "can", "expires"}
        if unknown:
            raise ConfigError(f"{where}: unknown option {min(unknown)!r}; known are operator, can, expires")
        if "operator" not in options:
            raise ConfigError(f'{where}: the option operator="NAME" is missing')
        return cls._of(options, key_text, where)

    @classmethod
    def of_key_file(cls, text: str, *, operator: str, can: str, expires: str | None = None, where: str) -> OperatorLine:
        """Make the line for the one key that a public key file holds.

        Args:
            text: What the file holds: one key in OpenSSH's one-line form; comments and empty lines may stand beside it.
            operator: Whose key it is.
            can: Capabilities, separated by commas.
            expires: The day at whose start (UTC) the line ends to hold, YYYY-MM-DD; None for never.
            where: The file's name, for messages.

        Raises:
            ConfigError: Anything else stands in the file, or an option is wrong.
        """
        entries = [line for _number, line in _entries(text)]
        if len(entries) != 1:
            raise ConfigError(f"{where}: expected one line 'ssh-ed25519 AAAA…', found {len(entries)} lines")
        options = {"operator": operator, "can": can} | ({} if expires is None else {"expires": expires})
        return cls._of(options, entries[0], where)

    @classmethod
    def _of(cls, options: Mapping[str, str], key_text: str, where: str) -> OperatorLine:
        can = tuple(item.strip() for item in options.get("can", "").split(",") if item.strip())
        expires = _expiry(options["expires"], where) if "expires" in options else None
        key = _public_key(key_text, where)
        fields = key_text.split(None, 2)
        try:
            return cls(options["operator"], key, can, expires, fields[2] if len(fields) == 3 else "")
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def format(self) -> str:
        """The line, without a line end."""
        options = [f'operator="{self.operator}"']
        if self.can:
            options.append(f'can="{",".join(self.can)}"')
        if self.expires is not None:
            options.append(f'expires="{_EPOCH + dt.timedelta(days=self.expires // 86400)}"')
        return f"{','.join(options)} {self.key.openssh(self.comment)}"

    def holds(self, *, wall: int | None, floor: int) -> bool:
        """Whether the line has not expired (§5, "Clock")."""
        return not is_expired(self.expires, wall=wall, floor=floor)


class AuthorizedOperators:
    """A device's trust file.  A line that cannot be used is refused alone; the others stand."""

    def __init__(self, lines: Iterable[OperatorLine] = (), *, refused: Iterable[ConfigError] = ()) -> None:
        self.lines = tuple(lines)
        #: One error per line that was refused, naming file and line.
        self.refused = tuple(refused)
        self._by_kid: dict[str, list[OperatorLine]] = {}
        for line in self.lines:
            self._by_kid.setdefault(line.key.kid, []).append(line)

    @classmethod
    def parse(cls, text: str, *, source: str) -> AuthorizedOperators:
        """Read the file's content; raises nothing, see `refused`."""
        lines: list[OperatorLine] = []
        refused: list[ConfigError] = []
        for number, line in _entries(text):
            try:
                lines.append(OperatorLine.parse(line, where=f"{source}:{number}"))
            except ConfigError as error:
                refused.append(error)
        return cls(lines, refused=refused)

    def key(self, kid: str) -> PublicKey | None:
        """The key of a `kid`, None where no line names it: a stranger's."""
        lines = self._by_kid.get(kid)
        return lines[0].key if lines else None

    def lines_for(self, kid: str, operator: str) -> tuple[OperatorLine, ...]:
        """The lines of a key that name this operator; empty where the message is to be dropped."""
        return tuple(line for line in self._by_kid.get(kid, ()) if line.operator == operator)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _public_key(text: str, where: str) -> PublicKey:
    try:
        return PublicKey.from_openssh(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _options(line: str, where: str) -> tuple[Mapping[str, str], str]:
    """Split a line into its options and what follows them."""
    options: dict[str, str] = {}
    if line.startswith("ssh-"):
        return options, line
    at = 0
    while match := _OPTION.match(line, at):
        name, value = match[1], re.sub(r"\\(.)", r"\1", match[2])
        if name in options:
            raise ConfigError(f"{where}: the option {name} stands twice")
        options[name] = value
        at = match.end()
        if line[at : at + 1] != ",":
            break
        at += 1
    else:
        raise ConfigError(f'{where}: expected options like operator="alice",can="shell" and then ssh-ed25519 AAAA…')
    if line[at : at + 1] not in (" ", "\t"):
        raise ConfigError(f"{where}: a space and the key are expected after the options")
    return options, line[at:].strip()


def _expiry(text: str, where: str) -> int:
    try:
        # It ends at 00:00 UTC of its day.  The pattern keeps the other spellings of ISO 8601 out.
        return (dt.date.fromisoformat(text if _DATE.fullmatch(text) else "") - _EPOCH).days * 86400
    except ValueError:
        raise ConfigError(f"{where}: expires={text[:40]!r} is no date; expected one like 2027-01-31") from None
