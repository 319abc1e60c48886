"""`edgeice-agent trust`: whose keys the device accepts."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from edgeice.agent.config import load_config
from edgeice.agent.service import load_trust
from edgeice.errors import ConfigError
from edgeice.files import read_trusted, replace_file
from edgeice.signaling import OperatorLine

__all__ = ["add", "show"]

#: Most of a public key file that is read, bytes.
_KEY_FILE_LIMIT = 65536


def add(config: Path, keyfile: str, operator: str, can: str, expires: str | None) -> None:
    """Trust the one key in a public key file, or on standard input for "-"; raises ConfigError."""
    trust = load_config(config).trust
    before = read_trusted(trust, "whom the device trusts")
    if before and not before.endswith("\n"):
        before += "\n"
    text, source = _read_public_key(keyfile)
    line = OperatorLine.of_key_file(text, operator=operator, can=can, expires=expires, where=source)
    try:
        replace_file(trust, f"{before}{line.format()}\n".encode(), 0o644)
    except OSError as error:
        raise ConfigError(f"{trust}: cannot be written: {error.strerror}") from None
    print(f"{trust}: {operator} may {', '.join(line.can) or 'do nothing'} with key {line.key.fingerprint}")
    print("Compare the fingerprint with what `edgeice keys show` prints; a running agent takes it over at SIGHUP.")


def show(config: Path) -> None:
    """List what is trusted, and what is refused with its reason; raises ConfigError."""
    trust = load_trust(load_config(config).trust)
    for line in trust.lines:
        print(f"{line.operator:20} {line.key.fingerprint}  {','.join(line.can)}")
    for refused in trust.refused:
        print(f"refused: {refused}", file=sys.stderr)


def _read_public_key(keyfile: str) -> tuple[str, str]:
    """What a key file holds, and its name for messages."""
    source = "standard input" if keyfile == "-" else keyfile
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if keyfile == "-" else Path(keyfile).open("rb") as file:
            return file.read(_KEY_FILE_LIMIT).decode("utf-8"), source
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: expected a line 'ssh-ed25519 AAAA…', found bytes that are no text") from None
