"""Presence: the plain `status`, and the epoch that orders a device's lives (contract §1, §2).

`status` is a hint that the broker publishes in the device's name (as its Will), so it is never trusted; `info` is
signed.  Both carry the epoch, and a status with a lower one is a late Will of an earlier connection.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from edgeice.errors import DecodeError
from edgeice.signaling import members as m
from edgeice.signaling.documents import MAX_EPOCH, open_info
from edgeice.signaling.encoding import dump_json, parse_json_object
from edgeice.signaling.keys import PublicKey
from edgeice.signaling.names import Party

__all__ = [
    "EpochKeeper",
    "EpochVerdict",
    "State",
    "Status",
    "StatusKeeper",
    "own_retained_epoch",
    "seen_state",
]

_STATUS_SIZE = 1024
#: Seconds between two repairs of an overwritten status.
_REPAIR_INTERVAL = 5.0


class State(StrEnum):
    """The states on the wire, and what an operator makes of contradictions."""

    READY = "ready"
    DRAINING = "draining"
    SLEEPING = "sleeping"
    #: The Will.
    LOST = "lost"
    #: A clean end.
    OFF = "off"
    #: Never on the wire: there is no status, or one of an earlier epoch.
    UNKNOWN = "unknown"


@attrs.frozen
class Status:
    """A `status` document."""

    state: State
    epoch: int

    def encode(self) -> bytes:
        """The payload."""
        return dump_json({"s": self.state.value, "epoch": self.epoch})

    @classmethod
    def decode(cls, payload: bytes) -> Status:
        """Read a payload; raises DecodeError("status") for anything else."""
        try:
            if len(payload) > _STATUS_SIZE:
                raise DecodeError("status-size")  # noqa: TRY301 - one reason leaves this decoder
            members = parse_json_object(payload)
            state = m.text(members, "s", limit=16)
            if state == State.UNKNOWN or state not in list(State):
                raise DecodeError("status-state")  # noqa: TRY301 - as above
            return cls(State(state), m.integer(members, "epoch"))
        except DecodeError as error:
            raise DecodeError("status", str(error)) from None


def seen_state(status: Status | None, info_epoch: int | None) -> State:
    """What an operator should believe: unknown where the status is absent or older than the signed `info` (§2)."""
    if status is None or (info_epoch is not None and status.epoch < info_epoch):
        return State.UNKNOWN
    return status.state


def own_retained_epoch(payload: bytes, device: Party, key: PublicKey) -> int | None:
    """The epoch of a retained `info`, where the device's own key signed it; None for anything else."""
    try:
        signed = open_info(payload)
    except DecodeError:
        return None
    return signed.info.epoch if signed.device == device and signed.info.key == key else None


@attrs.frozen
class EpochVerdict:
    """What to do after the retained `info` was read, or did not come in time."""

    #: The epoch to publish with, or to reconnect with.
    epoch: int
    #: It was raised: persist it before anything else.
    persist: bool = False
    #: Connect again, so that the Will has this epoch too.
    reconnect: bool = False


class EpochKeeper:
    """Chooses a device's epochs.

    Call `next` and persist its result before CONNECT, `connected` at CONNACK, and then `judge_retained` once.
    """

    __slots__ = ("_connected", "_epoch", "_has_reconnected", "_raised")

    def __init__(self, persisted: int) -> None:
        """Begin with the epoch that was persisted last, 0 where there is none."""
        self._epoch = min(max(persisted, 0), MAX_EPOCH)
        #: The present epoch was used in a connection.
        self._connected = True
        #: The present epoch was raised for the connection to come.
        self._raised = False
        self._has_reconnected = False

    def next(self) -> int:
        """The epoch for the next CONNECT and its Will; attempts without a CONNACK reuse it (§1)."""
        if self._connected and not self._raised:
            self._epoch += 1
        self._connected = self._raised = False
        return self._epoch

    def connected(self) -> None:
        """CONNACK came: the Will with this epoch exists."""
        self._connected = True

    def judge_retained(self, epoch: int | None) -> EpochVerdict:
        """Compare with the epoch of the retained own `info`, None where there was none (§1)."""
        if epoch is None or epoch < self._epoch:
            self._has_reconnected = False
            return EpochVerdict(self._epoch)
        self._epoch = min(epoch + 1, MAX_EPOCH)
        if self._has_reconnected:
            # Again not lower: go on with a Will that is one life behind; operators then see "unknown" and try.
            self._has_reconnected = False
            return EpochVerdict(self._epoch, persist=True)
        self._has_reconnected = self._raised = True
        return EpochVerdict(self._epoch, persist=True, reconnect=True)


class StatusKeeper:
    """Repairs the device's own `status` when a late Will overwrites it, at most once in five seconds."""

    __slots__ = ("_last_at", "_repair_at", "_status")

    def __init__(self) -> None:
        self._status: Status | None = None
        self._last_at = float("-inf")
        self._repair_at: float | None = None

    def publish(self, status: Status, *, now: float) -> bytes:
        """Note what is to be published now, and return the payload."""
        self._status = status
        self._last_at = now
        self._repair_at = None
        return status.encode()

    def disconnected(self) -> None:
        """The connection is gone: there is nothing to repair until the next `publish`."""
        self._status = None
        self._repair_at = None

    def receive(self, payload: bytes, *, now: float) -> None:
        """Take what came on the own `status` topic; the own document itself asks for nothing."""
        if self._status is None or payload == self._status.encode():
            self._repair_at = None
        elif self._repair_at is None:
            self._repair_at = max(now, self._last_at + _REPAIR_INTERVAL)

    def next_timeout(self) -> float | None:
        """When to repair."""
        return self._repair_at

    def handle_timeout(self, *, now: float) -> bytes | None:
        """The payload to publish again, where it is due."""
        if self._status is None or self._repair_at is None or now < self._repair_at:
            return None
        return self.publish(self._status, now=now)
