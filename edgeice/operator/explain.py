"""What to tell a person whose session with a device did not come about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeice.operator.errors import OperatorError, RefusedError, UnreachableError
from edgeice.signaling import (
    DeviceBusy,
    DeviceNotSeen,
    DeviceSaidAway,
    Info,
    NothingHeard,
    OperatorFailed,
    Party,
    RejectCode,
    State,
)

__all__ = ["all_in_use", "busy_error", "explain", "warning"]

#: Brokers do not tell an empty topic from one that may not be read.
_UNSEEN: Final = "is its name right, and may you read its topics there?"
_REFUSALS: Final = frozenset({"unauthorized", "expired"})


def explain(event: OperatorFailed, device: Party, fingerprint: str, info: Info | None) -> OperatorError:
    """The error for a failure of the signaling.

    Args:
        event: The failure.
        device: Whom it was to reach.
        fingerprint: The operator's key, as people see it.
        info: What the device said of itself last.
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
        return UnreachableError("device", f"nothing is known of {device} at the broker: {_UNSEEN}", detail)
    if full := all_in_use(info):
        return UnreachableError("offer", f"{device.name} did not answer, and {full}", detail)
    return UnreachableError(
        "offer",
        f"{device.name} did not answer: it may be away, or may not know your key {fingerprint}"
        " (add it there with `edgeice-agent trust add`)",
        detail,
    )


def warning(event: DeviceBusy | DeviceSaidAway | DeviceNotSeen | NothingHeard, device: Party, info: Info | None) -> str:
    """What to tell while the device is still waited for."""
    match event:
        case DeviceBusy():
            return f"{device.name} is busy: {event.reason}; trying again"
        case DeviceSaidAway():
            said = "gives no state" if event.state == State.UNKNOWN else f"says it is {event.state}"
            return f"{device.name} {said}; trying anyway"
        case DeviceNotSeen():
            return f"nothing is known of {device} at the broker yet: {_UNSEEN}"
    if full := all_in_use(info):
        return f"nothing heard for 5 s: {device.name} {full}; waiting"
    return (
        f"nothing heard for 5 s: {device.name} may be away, or may not know your key"
        f" {event.fingerprint} (add it there with `edgeice-agent trust add`)"
    )


def all_in_use(info: Info | None) -> str:
    """What a device's document says where no session was free when it was written; empty where one was."""
    if info is None or info.limits.active < info.limits.sessions:
        return ""
    return f"said last that all of its {info.limits.sessions} sessions are in use"


def busy_error(busy: str, device: Party, tried: Mapping[str, object], patience: float) -> UnreachableError:
    """The error for a device that was busy for as long as was waited for it.

    Args:
        busy: Why it took no session.
        device: Whom it was to reach.
        tried: What was done meanwhile.
        patience: Seconds.
    """
    message = f"{device.name} refused: {RejectCode.BUSY}: {busy} (tried for {patience:g} s)"
    return UnreachableError(
        "offer", message, {**tried, "kind": "rejected", "code": str(RejectCode.BUSY), "reason": busy}
    )
