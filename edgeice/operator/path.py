"""The path of an operator's session: kept, watched for silence, and told to the person."""

from __future__ import annotations

from collections.abc import Callable

import trio

from edgeice.operator.interface import Move, Step
from edgeice.operator.silence import SILENCE, SilenceWatch
from edgeice.peer import PathChanged, PathMoved, way_of
from edgeice.sansio import Event
from edgeice.text import duration
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
    """Keeps a session's path by `PathRecovery`, and says what becomes of it.

    Args:
        signaled: The session; its peer connection is attached.
        network: This host's addresses.
        say: Hears steps.
        device: The device's name.
        patience: Seconds without a path after which it is over.
    """

    def __init__(
        self,
        signaled: SignaledConnection,
        network: Network,
        say: Callable[[Step], None],
        *,
        device: str,
        patience: float,
    ) -> None:
        self.patience = patience
        self._signaled = signaled
        self._network = network
        self._say = say
        self._device = device
        self._recovery = PathRecovery(signaled, network, self._note, offerer=True, patience=patience)
        #: The path as it was said last, empty while there is none.
        self._shown = ""
        #: Silence was said, and its end is to be.
        self._is_silent = False

    def watch(self, progress: Progress) -> None:
        """Hear what the peer connection has to say."""
        self._recovery.watch(progress)
        match progress:
            case PathChanged():
                self._changed(progress)
            case PathMoved():
                move = _move(progress)
                self._say(Step("move", move.text, move))
            case _:
                pass

    def take(self, event: Event) -> None:
        """Hear an event of the session's signaling, after the peer connection did."""
        self._recovery.take(event)

    async def run(self) -> None:
        """Keep it; returns once there was none for too long."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(SilenceWatch(lambda: self._signaled.peer.heard_at, self._silent, self._back).run)
            await self._recovery.run()
            nursery.cancel_scope.cancel()

    def report(self) -> dict[str, object]:
        """What was tried for it: see `PathRecovery.report`."""
        return self._recovery.report()

    # Inside

    def _changed(self, path: PathChanged) -> None:
        if path.path is None:
            self._shown = ""
            return
        shown = _pair(path)
        if shown != self._shown:  # a pair is told again when it is nominated
            self._shown = shown
            self._say(Step("path", shown))

    def _silent(self) -> None:
        if self._signaled.peer.ended is not None or not self._network.bases:
            return  # without a network here, that is what was said
        self._is_silent = True
        path = f" (path {self._shown})" if self._shown else ""
        self._notice(f"{self._device}: no answer for {SILENCE:g} s, trying again{path}")
        # Not only when consent has ended: where the way is another one by now, a restart finds it much sooner.
        self._recovery.fell_silent(silent=True)

    def _back(self, seconds: float) -> None:
        self._recovery.fell_silent(silent=False)
        if not self._is_silent:
            return
        self._is_silent = False
        self._notice(f"{self._device}: back after {seconds:.0f} s")

    def _notice(self, text: str) -> None:
        self._say(Step("notice", text))

    def _note(self, trouble: Trouble) -> None:
        match trouble:
            case RestartOffered(need="lost"):
                self._say(Step("path", "no path; restarting ICE"))
            case RestartOffered():
                pass  # the path that there is goes on
            case NetworkMissing():
                self._notice(f"no network: waiting, up to {duration(trouble.patience)}")
            case NetworkReturned():
                self._notice(f"the network is back after {duration(trouble.seconds)}")


def _pair(path: PathChanged) -> str:
    assert path.path is not None  # there is one
    return f"{path.local_type} {path.path.local} -> {path.remote_type} {path.path.remote}"


def _move(event: PathMoved) -> Move:
    rtt = event.after.rtt
    return Move(
        was=way_of(event.before),
        way=way_of(event.after),
        path=_pair(event.after),
        cause=event.cause,
        pause_ms=round(event.pause * 1000, 1),
        rtt_ms=None if rtt is None else round(rtt * 1000, 1),
    )
