"""What can go wrong for an operator, with the exit code of each (wire contract §5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeice.errors import EdgeIceError

__all__ = ["AlreadyOpenError", "OperatorError", "RefusedError", "UnreachableError"]


class OperatorError(EdgeIceError):
    """A command could not do what it should.

    Attributes:
        step: Where it failed: "broker", "device", "offer", "checks", "dtls", "sctp", "session".
        detail: What was tried, for a machine to read: the `verdict` on the session (`edgeice.peer.verdict`) where one
            was begun, and the `timeline`.
        exit_code: What a command exits with.
    """

    exit_code = 1

    def __init__(self, step: str, message: str, detail: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.detail: dict[str, Any] = dict(detail or {})


class UnreachableError(OperatorError):
    """No broker, no answer, no path, or the device takes no session now."""

    exit_code = 3


class RefusedError(OperatorError):
    """The broker or the device does not allow it, or the device's key is another one."""

    exit_code = 4


class AlreadyOpenError(OperatorError):
    """Another process keeps a session with the device open already."""

    exit_code = 5
