"""The path of one session on the device: kept, and told to the log."""

from __future__ import annotations

from collections.abc import Callable

from edgeice.agent.log import Log
from edgeice.peer import PathChanged, PathMoved, way_of
from edgeice.sansio import Event
from edgeice.transport import (
    Network,
    NetworkMissing,
    NetworkReturned,
    PathRecovery,
    Progress,
    RestartOffered,
    SignaledConnection,
    Trouble,
)

__all__ = ["SessionPath"]


class SessionPath:
    """Keeps a session's path by `PathRecovery`, and logs what becomes of it.

    Args:
        signaled: The session; its peer connection is attached before anything is heard.
        network: This host's addresses.
        log: Where events go.
        operator: Whose session it is, and `sid` which, for the log.
        sid: See above.
        patience: Seconds without a path after which it is over.
        on_first: Called once the first pair carries data.
    """

    def __init__(
        self,
        signaled: SignaledConnection,
        network: Network,
        log: Log,
        *,
        operator: str,
        sid: str,
        patience: float,
        on_first: Callable[[], None],
    ) -> None:
        self._signaled = signaled
        self._log = log
        self._facts = {"operator": operator, "sid": sid}
        self._on_first = on_first
        self._recovery = PathRecovery(signaled, network, self._note, offerer=False, patience=patience)
        #: Whether there ever was a path, and the one that was logged last, None for none.
        self._has_been = False
        self._shown: str | None = None

    def watch(self, progress: Progress) -> None:
        """Hear what the peer connection has to say."""
        self._recovery.watch(progress)
        match progress:
            case PathChanged():
                self._changed(progress)
            case PathMoved():
                self._moved(progress)
            case _:
                pass

    def take(self, event: Event) -> None:
        """Hear an event of the session's signaling, after the peer connection did."""
        self._recovery.take(event)

    async def run(self) -> None:
        """Keep it; returns once there was none for too long."""
        await self._recovery.run()

    def report(self) -> dict[str, object]:
        """What was tried for it: see `PathRecovery.report`."""
        return self._recovery.report()

    def describe(self, *, used: bool = False) -> str | None:
        """The pair that carries data in a few words, `host 192.0.2.1:4000 -> srflx 198.51.100.2:5000`; None without.

        `used`: Where none does now, the one that did last.
        """
        peer = self._signaled.peer
        return _describe(peer.path_used if used else peer.path)

    # Inside

    def _changed(self, path: PathChanged) -> None:
        if path.path is None:
            if self._shown is not None:
                self._shown = None
                self._log.info("path", **self._facts, path="none", cause=path.cause)
        elif not self._has_been:
            self._has_been = True
            self._shown = _describe(path)
            self._log.info("path", **self._facts, path=self._shown, cause=path.cause)
            self._on_first()

    def _moved(self, move: PathMoved) -> None:
        self._shown = _describe(move.after)
        rtt = {} if move.after.rtt is None else {"rtt_ms": round(move.after.rtt * 1000, 1)}
        self._log.info(
            "path",
            **self._facts,
            path=self._shown,
            was=way_of(move.before),
            way=way_of(move.after),
            cause=move.cause,
            pause_ms=round(move.pause * 1000, 1),
            **rtt,
        )

    def _note(self, trouble: Trouble) -> None:
        match trouble:
            case RestartOffered():
                self._log.info("restart", **self._facts, why=str(trouble.need))
            case NetworkMissing():
                self._log.info("no-network", **self._facts, patience=round(trouble.patience))
            case NetworkReturned():
                self._log.info("network-back", **self._facts, seconds=round(trouble.seconds, 1))


def _describe(path: PathChanged) -> str | None:
    if path.path is None:
        return None
    return f"{path.local_type} {path.path.local} -> {path.remote_type} {path.path.remote}"
