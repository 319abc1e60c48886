"""Keeps a session's path: restarts when they are needed, waiting while there is no network, and the end of patience."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import attrs
import trio

from edgeice.addresses import Base, Path
from edgeice.peer import PathChanged, RestartEnded
from edgeice.sansio import Event
from edgeice.signaling import AnswerReceived, LocalOfferCanceled, OfferExpired, OfferReceived, OfferRejected
from edgeice.transport.peer import Progress
from edgeice.transport.restarts import ORDER_WAIT, Need, Outlook, RestartPolicy
from edgeice.transport.signaled import SignaledConnection

__all__ = ["PATIENCE", "Network", "NetworkMissing", "NetworkReturned", "PathRecovery", "RestartOffered", "Trouble"]

#: Seconds without a path after which a session is given up: a long tunnel, not a device that was switched off.
PATIENCE: Final = 600.0
#: Seconds without any address after which that is said: an interface that is set up anew takes less.
_MISSING_TIME: Final = 0.5
#: By how much the two ends' restarts for good order are apart, seconds, so that one of them suffices, and those of
#: different sessions at most.
_ORDER_APART: Final = 1.5
_ORDER_SPREAD: Final = 0.5


@attrs.frozen
class RestartOffered(Event):
    """An ICE restart was offered."""

    need: Need


@attrs.frozen
class NetworkMissing(Event):
    """This host has no address to send from: the session waits for one, at most for so many seconds from now on."""

    patience: float


@attrs.frozen
class NetworkReturned(Event):
    """There is an address again, after so many seconds; only where it was told that there was none."""

    seconds: float


#: What a person or a log should know of a path in trouble.
Trouble: TypeAlias = RestartOffered | NetworkMissing | NetworkReturned


class Network(Protocol):
    """Whoever knows this host's addresses: `edgeice.transport.Node`."""

    @property
    def bases(self) -> Sequence[Base]:
        """Those that can be sent from."""

    def watch_network(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of `bases`; gives what ends that."""


class PathRecovery:
    """Keeps the path of one session (RFC 8445 §2.4, §9), by restarts that `RestartPolicy` asks for.

    Both ends do so, and the first that gets through serves both.  An offer that nobody answered is replaced once it
    has expired, so that one is fresh whenever the broker comes back; on a session's own channel nothing passes without
    a path.

    Where this host has no address left nothing is offered: the session waits, and goes on at once when there is one.
    SCTP's timers stand still meanwhile, and services notice nothing but silence.

    Args:
        signaled: The session; its peer connection is attached.
        network: This host's addresses.
        tell: Hears what should be known.
        offerer: This end opened the session, and is first to restart for good order.
        patience: Seconds without a path after which `run` returns.
    """

    def __init__(
        self,
        signaled: SignaledConnection,
        network: Network,
        tell: Callable[[Trouble], None],
        *,
        offerer: bool,
        patience: float = PATIENCE,
    ) -> None:
        self._signaled = signaled
        self._network = network
        self._tell = tell
        self._patience = patience
        # Random, and so not the same for all sessions of a device that moved.
        spread = zlib.crc32(signaled.session.id.sid.encode()) / 0xFFFFFFFF * _ORDER_SPREAD
        order_wait = ORDER_WAIT + (0.0 if offerer else _ORDER_APART) + spread
        self._policy = RestartPolicy(order_wait=order_wait, controlling=offerer)
        self._changed = trio.Event()
        self._begun = False
        self._path: Path | None = None
        #: Since when no path carries data, and since when there is no address; None while there is one.
        self._lost_at: float | None = None
        self._missing_at: float | None = None
        self._told_missing = False
        #: What was tried, see `report`.
        self._tried = dict.fromkeys(("offered", "unanswered", "refused", "failed"), 0)
        self._missed = 0.0

    def report(self) -> dict[str, object]:
        """What was tried for the path so far, for a verdict; empty where nothing was necessary.

        `offered` restarts, of which so many were `unanswered`, `refused` by the peer and `failed` to find a path (no
        matter whose), and the seconds without a network here, `no_network`.
        """
        now = trio.current_time()
        missed = self._missed + (0.0 if self._missing_at is None else now - self._missing_at)
        if not any(self._tried.values()) and missed < _MISSING_TIME:
            return {}
        return {**self._tried, "no_network": round(missed, 1)}

    def watch(self, progress: Progress) -> None:
        """Hear what the peer connection has to say."""
        now = trio.current_time()
        match progress:
            case PathChanged():
                self._look(now)
                if progress.path != self._path:  # a path is told again when something is known of it
                    self._path = progress.path
                    self._policy.moved(progress.cause, now=now)
                if progress.nominated and not self._begun:
                    self._begun = True
                    self._policy.began()
            case RestartEnded(succeeded=True):
                self._policy.began()
            case RestartEnded():
                self._tried["failed"] += 1
                self._policy.failed()
            case _:
                return
        self._changed.set()

    def take(self, event: Event) -> None:
        """Hear an event of the session's signaling, after the peer connection did."""
        now = trio.current_time()
        match event:
            case OfferExpired() | OfferRejected() | LocalOfferCanceled():
                if not isinstance(event, LocalOfferCanceled):
                    self._tried["unanswered" if isinstance(event, OfferExpired) else "refused"] += 1
                self._policy.failed()
            case AnswerReceived() | OfferReceived():
                self._policy.checking(now=now)
            case _:
                return
        self._changed.set()

    def fell_silent(self, *, silent: bool) -> None:
        """The peer was not heard for long although it should have been, or is heard again."""
        self._policy.fell_silent(silent=silent)
        self._changed.set()

    async def run(self) -> None:
        """Keep the path; returns once there was none for `patience` seconds."""
        stop = self._network.watch_network(self._network_changed)
        try:
            self._look(trio.current_time())
            while not self._is_over(trio.current_time()):
                self._act(trio.current_time())
                with trio.move_on_at(self._next(trio.current_time())):
                    await self._changed.wait()
                self._changed = trio.Event()
        finally:
            stop()

    # Inside

    def _network_changed(self) -> None:
        self._look(trio.current_time())
        self._changed.set()

    def _look(self, now: float) -> None:
        """See what the session rests on."""
        peer, path = self._signaled.peer, self._signaled.peer.path
        bases = tuple(self._network.bases)
        if path.path is not None:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = now
        if not bases:
            self._missing_at = now if self._missing_at is None else self._missing_at
        elif self._missing_at is not None:
            missing_at, self._missing_at = self._missing_at, None
            self._missed += now - missing_at
            if self._told_missing:
                self._told_missing = False
                self._tell(NetworkReturned(now - missing_at))
        self._policy.look(
            Outlook(
                path=path.path,
                fading=path.fading,
                interface=path.interface,
                rtt=path.rtt,
                bases=bases,
                mobility=peer.mobility,
            ),
            now=now,
        )

    def _act(self, now: float) -> None:
        """Do what is due."""
        if self._missing_at is not None and not self._told_missing and now >= self._missing_at + _MISSING_TIME:
            self._told_missing = True
            since = now if self._lost_at is None else self._lost_at
            self._tell(NetworkMissing(self._patience - (now - since)))
        need = self._policy.need(now=now)
        if need is not None and self._policy.next_at(now=now) <= now:
            self._policy.take(now=now)
            self._policy.offered(now=now)
            self._tried["offered"] += 1
            self._signaled.restart()
            self._tell(RestartOffered(need))

    def _next(self, now: float) -> float:
        times = [self._policy.next_at(now=now)]
        if self._missing_at is not None and not self._told_missing:
            times.append(self._missing_at + _MISSING_TIME)
        if self._lost_at is not None:
            times.append(self._lost_at + self._patience)
        return min(times)

    def _is_over(self, now: float) -> bool:
        return self._lost_at is not None and now >= self._lost_at + self._patience
