"""What to tell a person whose session with a device did not come about."""

from __future__ import annotations

from typing import Final

from edgeice.operator.errors import OperatorError, RefusedError, UnreachableError
from edgeice.signaling import OperatorFailed, Party

__all__ = ["UNSEEN", "explain"]

#: Brokers do not tell an empty topic from one that may not be read.
UNSEEN: Final = "is its name right, and may you read its topics there?"
_REFUSALS: Final = frozenset({"unauthorized", "expired"})


def explain(event: OperatorFailed, device: Party, fingerprint: str) -> OperatorError:
    """The error for a failure of the signaling.

    Args:
        event: The failure.
        device: Whom it was to reach.
        fingerprint: The operator's key, as people see it.
    """
    detail: dict[str, object] = {"kind": event.kind, "code": event.code, "reason": event.reason}
    if event.kind == "changed-key":
        shown = event.key.fingerprint if event.key else "none"
        return RefusedError(
            "device",
            f"the key of {device} has changed: it now shows {shown}. If the device was set up anew, remove its line"
            " from known_devices and connect again; otherwise somebody poses as it",
            detail,
        )
    if event.kind == "rejected":
        error = RefusedError if event.code in _REFUSALS else UnreachableError
        return error("offer", f"{device.name} refused: {event.code}: {event.reason}".rstrip(": "), detail)
    if event.kind == "no-info":
        return UnreachableError("device", f"nothing is known of {device} at the broker: {UNSEEN}", detail)
    return UnreachableError(
        "offer",
        f"{device.name} did not answer: it may be away, or may not know your key {fingerprint}"
        " (add it there with `edgeice-agent trust add`)",
        detail,
    )
