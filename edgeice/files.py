"""Files that matter: replaced as a whole or not at all, and secrets that nobody else may read, and who is trusted."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from edgeice.errors import ConfigError

__all__ = ["check_writable", "read_authorities", "read_secret", "read_trusted", "replace_file"]

#: Most of a trust file, bytes: some ten thousand lines.
_TRUSTED_LIMIT = 1 << 20


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a power cut leaves the old or the new one.  Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_writable(folder: Path) -> None:
    """Whether files can be made in a folder, or in the one that it would be made in; leaves nothing behind.

    Raises OSError.
    """
    import tempfile  # noqa: PLC0415  # what only `check` needs is not to stay in the agent's memory

    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def read_secret(path: Path, what: str) -> bytes:
    """Read a file that nobody else may read; raises ConfigError that says what to do."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(65536)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; it should hold {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{path}: others may read {what} (mode {mode:04o}); run: chmod 600 {path}")
    return data


def read_trusted(path: Path, what: str) -> str:
    """Read a text file that nobody else may write, empty where there is none; raises ConfigError with what to do."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_TRUSTED_LIMIT + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & 0o022:
        raise ConfigError(f"{path}: others may write {what} (mode {mode:04o}); run: chmod go-w {path}")
    if len(data) > _TRUSTED_LIMIT:
        raise ConfigError(f"{path}: longer than {_TRUSTED_LIMIT} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None


def read_authorities(path: Path | None, whose: str) -> ssl.SSLContext:
    """Trust for TLS: the authorities in a PEM file, None for the system's.

    Args:
        path: The file.
        whose: Certificates they are to prove, such as `the broker's`.

    Raises:
        ConfigError: It cannot be read or holds none.
    """
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"{path}: holds no certificates in PEM form; give {whose} authority") from None
    except OSError as error:
        raise ConfigError(f"{path}: the TLS CA file cannot be read: {error.strerror}") from None
