"""Permissions: the peers, by IP address alone, that a relay lets through (RFC 8656 §9, §10)."""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.sansio import BoundedQueue
from edgeice.turn.config import TurnConfig

__all__ = ["TRANSITIONS", "Permission", "PermissionInput", "PermissionState", "Permissions"]

#: RFC 8656 §9.
LIFETIME: Final = 300.0
#: Who sent nothing for so long has given the address up, as ICE does after its checks: consent is asked for more often.
_IN_USE: Final = 60.0


class PermissionState(Enum):
    """How far a permission is."""

    #: Somebody wants to send; the request waits its turn.
    WANTED = "wanted"
    REQUESTED = "requested"
    #: Data may be sent and is taken.
    INSTALLED = "installed"
    #: The same, and a request to renew it is under way.
    RENEWING = "renewing"
    #: The server refused, or did not answer; not asked again for a while.
    REFUSED = "refused"


class PermissionInput(Enum):
    """What can happen to a permission; one whose time is over is forgotten, whatever its state."""

    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    #: No usable answer.
    UNANSWERED = "unanswered"


_S = PermissionState
_I = PermissionInput

#: What is not in here changes nothing.
TRANSITIONS: Final[dict[tuple[PermissionState, PermissionInput], PermissionState]] = {
    (_S.WANTED, _I.ASKED): _S.REQUESTED,
    # A ChannelBind that succeeds installs one too (RFC 8656 §12).
    (_S.WANTED, _I.GRANTED): _S.INSTALLED,
    (_S.REQUESTED, _I.GRANTED): _S.INSTALLED,
    (_S.REQUESTED, _I.REFUSED): _S.REFUSED,
    (_S.REQUESTED, _I.UNANSWERED): _S.REFUSED,
    (_S.INSTALLED, _I.ASKED): _S.RENEWING,
    (_S.INSTALLED, _I.GRANTED): _S.INSTALLED,
    (_S.RENEWING, _I.GRANTED): _S.INSTALLED,
    (_S.RENEWING, _I.REFUSED): _S.REFUSED,
    # It stands until its time is over, and is asked for again.
    (_S.RENEWING, _I.UNANSWERED): _S.INSTALLED,
    (_S.REFUSED, _I.GRANTED): _S.INSTALLED,
}
LIVE: Final = frozenset({_S.INSTALLED, _S.RENEWING})


@attrs.define(eq=False)
class Permission:
    """One peer address."""

    ip: str
    #: What waits for it.
    waiting: BoundedQueue[tuple[TransportAddress, bytes]]
    state: PermissionState = PermissionState.WANTED
    #: When it ends, or is no longer known to be refused.
    ends_at: float | None = None
    #: When to ask for it (again), None while that is not wanted.
    ask_at: float | None = None
    #: When something was last sent to the address.
    used_at: float = 0.0


class Permissions:
    """All permissions of an allocation.

    Those that nobody uses any more are not renewed and end after five minutes.
    """

    __slots__ = ("_all", "_config")

    def __init__(self, config: TurnConfig) -> None:
        self._config = config
        self._all: dict[str, Permission] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, ip: str) -> Permission | None:
        """The permission for an address, whatever its state."""
        return self._all.get(ip)

    def is_live(self, ip: str) -> bool:
        """Whether data may be sent to, and is taken from, an address."""
        permission = self._all.get(ip)
        return permission is not None and permission.state in LIVE

    def use(self, permission: Permission, *, now: float) -> None:
        """Note that something is sent to the address, so that the permission is renewed, at once if that is late."""
        permission.used_at = now
        if permission.ask_at is None and permission.state is PermissionState.INSTALLED:
            permission.ask_at = now

    def renew_latest(self, *, now: float) -> bool:
        """Renew the one that was used last at once, unless that is under way; False if none stands."""
        live = [each for each in self._all.values() if each.state in LIVE]
        if not live:
            return False
        latest = max(live, key=lambda each: each.used_at)
        if latest.state is PermissionState.INSTALLED:
            latest.ask_at = latest.used_at = now
        return True

    def postpone(self, ip: str, until: float) -> None:
        """Renew at `until` at the earliest: binding a channel is to do that too (RFC 8656 §12)."""
        permission = self._all.get(ip)
        if permission is not None and permission.state is PermissionState.INSTALLED and permission.ask_at is not None:
            permission.ask_at = max(permission.ask_at, until)

    def want(self, ip: str, *, now: float) -> Permission | None:
        """The permission for an address, which is new if there was none; None if there are too many."""
        permission = self._all.get(ip)
        if permission is None and len(self._all) < self._config.max_permissions:
            permission = Permission(ip, BoundedQueue(self._config.max_waiting, "drop_oldest"), ask_at=now, used_at=now)
            self._all[ip] = permission
        return permission

    def happened(self, ip: str, what: PermissionInput, *, asked_at: float, now: float) -> Permission | None:
        """Note what became of a request that was sent first at `asked_at`; None if nobody waits for it any more."""
        permission = self._all.get(ip)
        if permission is None or (state := TRANSITIONS.get((permission.state, what))) is None:
            return None
        permission.state = state
        if what is PermissionInput.GRANTED:
            # The server's clock started when the request came: not before it was sent.
            permission.ends_at = asked_at + LIFETIME
            permission.ask_at = asked_at + self._config.permission_refresh
        elif state is PermissionState.REFUSED:
            permission.ends_at = now + self._config.refusal_time
            permission.ask_at = None
        elif what is PermissionInput.UNANSWERED:
            permission.ask_at = now
        return permission

    def take_due(self, now: float) -> list[str]:
        """Addresses to ask for, each marked as asked; forgets what is over."""
        due: list[str] = []
        for permission in list(self._all.values()):
            if permission.ends_at is not None and permission.ends_at <= now:
                # Somebody who still wants it has to say so again.
                del self._all[permission.ip]
            elif permission.ask_at is not None and permission.ask_at <= now:
                permission.ask_at = None
                if now - permission.used_at <= _IN_USE:
                    permission.state = TRANSITIONS[permission.state, PermissionInput.ASKED]
                    due.append(permission.ip)
        return due

    def next_timeout(self) -> float | None:
        """When something is to be renewed or forgotten."""
        times = [at for each in self._all.values() for at in (each.ends_at, each.ask_at) if at is not None]
        return min(times, default=None)
