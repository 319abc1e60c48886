"""Kept shells: they go on at the device when their session or channel ends, until their operator comes back.

Output is read whether or not anybody looks: the newest of it is held in a ring, and shown to who attaches.  While
somebody is attached, nothing that was not sent yet is dropped: a shell that is not read stops, as any shell does, and
goes on at the latest when the device gives the session up.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from edgeice.services.control import ErrorCode, ServiceError
from edgeice.services.signals import ExitStatus
from edgeice.services.spawner import Process, Spawner, Terminal
from edgeice.signaling import Party

__all__ = ["KeepLimits", "KeptShell", "KeptShells", "OwnedShells", "Owner", "Ring", "Viewer"]

#: Output that is held for each shell, bytes.
RING_SIZE: Final = 256 * 1024
#: Bytes taken off the terminal at a time.
_CHUNK: Final = 16 * 1024
#: How far a replay that begins in the midst of the output may be cut to begin with a line, bytes.
_TO_LINE: Final = 4096

#: Told what becomes of a shell, "kept", "attached", "detached" or "ended", and why it ended.
Tell: TypeAlias = "Callable[[str, KeptShell, str], None]"


@attrs.frozen(kw_only=True)
class KeepLimits:
    """What kept shells may take of a device."""

    #: At once, of all operators; 0 keeps none.
    total: int
    #: At once, of one operator.
    per_operator: int
    #: How long one is kept without anybody attached, seconds.
    time: float


@attrs.frozen
class Owner:
    """Whose a shell is; who has the key under another name, or the name with another key, is somebody else."""

    party: Party
    #: The key's name: its whole SHA-256 thumbprint (RFC 7638).
    kid: str


class Ring:
    """The newest output of a terminal; positions count bytes from its beginning."""

    __slots__ = ("_data", "_size", "start")

    def __init__(self, size: int = RING_SIZE) -> None:
        self._data = bytearray()
        # A viewer may be a whole ring behind while one more chunk arrives.
        self._size = size + _CHUNK
        #: Position of the oldest byte held.
        self.start = 0

    @property
    def end(self) -> int:
        """Position after the newest byte."""
        return self.start + len(self._data)

    def append(self, data: bytes) -> None:
        """Add output; the oldest is dropped where there is no room."""
        self._data += data
        excess = len(self._data) - self._size
        if excess > 0:
            del self._data[:excess]
            self.start += excess

    def read(self, position: int, limit: int) -> bytes:
        """Up to `limit` bytes from `position` on, which must be held."""
        offset = position - self.start
        return bytes(self._data[offset : offset + limit])

    def replay_from(self, size: int) -> int:
        """Where to begin to show the last `size` bytes: with a line, where what came before is left out."""
        position = max(self.start, self.end - size)
        if position == 0:
            return 0
        offset = position - self.start
        line_end = self._data.find(b"\n", offset, offset + _TO_LINE)
        return position if line_end < 0 else self.start + line_end + 1


class Viewer:
    """Who is attached to a kept shell; a `Process` for `bridge.carry`."""

    streams = (1,)

    def __init__(self, shell: KeptShell, position: int) -> None:
        self._shell = shell
        #: Position of the next byte to be shown.
        self.position = position
        #: Ends what it does.
        self.scope = trio.CancelScope()
        #: Why it has to go, None while it may stay.
        self.ousted: ServiceError | None = None
        #: Set once it is gone.
        self.gone = trio.Event()

    @property
    def user(self) -> str:
        """Name of the user whose shell it is."""
        return self._shell.process.user

    async def read(self, _stream: int, limit: int) -> bytes:
        """The next output, b"" at its end."""
        shell = self._shell
        while not (data := shell.ring.read(self.position, limit)) and not shell.drained:
            await shell.stirred.park()
        self.position += len(data)
        shell.stirred.unpark_all()
        return data

    async def write(self, data: bytes) -> int:
        """Type; raises trio.BrokenResourceError where the terminal is gone."""
        return await self._shell.process.write(data)

    def close_input(self) -> None:
        """Nothing: a terminal's input has no end."""

    def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size."""
        if not self._shell.exited.is_set():
            self._shell.process.resize(cols, rows)

    def signal(self, name: str) -> None:
        """Signal what is in the foreground."""
        if not self._shell.exited.is_set():  # afterwards its number may be another one's
            self._shell.process.signal(name)

    def foreground(self) -> str:
        """What runs in the foreground."""
        return self._shell.process.foreground()

    async def wait(self) -> ExitStatus:
        """Wait for the shell's exit."""
        await self._shell.exited.wait()
        if self._shell.status is None:  # it was ended from outside, and so is this scope
            await trio.sleep_forever()
        assert self._shell.status is not None
        return self._shell.status

    def oust(self, why: ServiceError) -> None:
        """Make it go, whatever it waits for."""
        if self.ousted is None:
            self.ousted = why
            self.scope.cancel()


class KeptShell:
    """One kept shell, while it runs.  Made by `KeptShells.keep`.

    Args:
        name: What its operator calls it.
        owner: Whose it is.
        process: The shell itself, on its terminal.
        keep_time: Seconds that it is kept without anybody attached.
        tell: Told what becomes of it.
    """

    def __init__(self, name: str, owner: Owner, process: Process, keep_time: float, tell: Tell) -> None:
        self.name = name
        self.owner = owner
        self.process = process
        self.ring = Ring()
        #: No more output will come.
        self.drained = False
        #: Woken when output came or went, and when somebody attached or left.
        self.stirred = trio.lowlevel.ParkingLot()
        self.exited = trio.Event()
        #: How it ended; None while it runs, and where it was ended from outside.
        self.status: ExitStatus | None = None
        self.begun_at = trio.current_time()
        #: When it was last left, None while somebody is attached.
        self.left_at: float | None = self.begun_at
        self._scope = trio.CancelScope(deadline=self.begun_at + keep_time)
        self._why = "nobody came back"
        self._keep_time = keep_time
        self._tell = tell
        self._viewer: Viewer | None = None
        #: Up to here somebody took the output.
        self._seen = 0

    def unseen_before(self, position: int) -> int:
        """How many bytes before a position nobody took, which a replay from there leaves out."""
        return max(0, position - self._seen)

    async def run(self) -> None:
        """Read its output until it has ended, was alone for too long, or is ended; ends who is attached."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    self.status = await self.process.wait()
                    self.exited.set()  # who is attached waits for the rest of the output by itself
        finally:
            self.drained = True
            self.exited.set()
            self.stirred.unpark_all()
            why = self._why if self._scope.cancelled_caught else "the agent stops"
            if self.status is None and self._viewer is not None:
                self._viewer.oust(ServiceError(ErrorCode.REFUSED, f"the device ended the shell: {why}"))
            self._tell("ended", self, why if self.status is None else f"exit {self.status.as_code()}")

    def end(self, why: str) -> None:
        """End it from outside."""
        self._why = why
        self._scope.cancel()

    @asynccontextmanager
    async def attach(self, unseen: Callable[[], int]) -> AsyncIterator[Viewer]:
        """Be attached to it; who was before is told so, and is gone when this is entered.

        Args:
            unseen: How many bytes of what was sent nobody took yet; asked at the end.

        Raises ServiceError `not-found` where it was ended meanwhile.
        """
        while (before := self._viewer) is not None:
            before.oust(ServiceError(ErrorCode.REFUSED, "taken over: you attached to this shell from another session"))
            await before.gone.wait()
        if self.exited.is_set() and self.status is None:
            raise ServiceError(ErrorCode.NOT_FOUND, f"the device ended the shell: {self._why}")
        viewer = self._viewer = Viewer(self, self.ring.replay_from(RING_SIZE))
        self.left_at = None
        self._scope.deadline = math.inf
        self._tell("attached", self, "")
        try:
            yield viewer
        finally:
            self._seen = max(self._seen, viewer.position - unseen())
            self._viewer = None
            self.left_at = trio.current_time()
            self._scope.deadline = self.left_at + self._keep_time
            viewer.gone.set()
            self.stirred.unpark_all()
            if not self.exited.is_set():
                self._tell("detached", self, "")

    async def _read(self) -> None:
        while data := await self.process.read(1, _CHUNK):
            self.ring.append(data)
            self.stirred.unpark_all()
            while self._viewer is not None and self.ring.end - self._viewer.position >= RING_SIZE:
                await self.stirred.park()
        self.drained = True
        self.stirred.unpark_all()


class KeptShells:
    """All kept shells of a device.

    Args:
        nursery: Where they run: beyond every session.  Its end ends them.
        spawner: Starts them; not a session's, whose processes end with it.
        limits: How many, and for how long.
        tell: Told what becomes of each.
        fail: Told of a defect, which ended one shell.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        spawner: Spawner,
        limits: KeepLimits,
        *,
        tell: Tell,
        fail: Callable[[Exception], None],
    ) -> None:
        self._nursery = nursery
        self._spawner = spawner
        self._limits = limits
        self._tell = tell
        self._fail = fail
        #: Those that run, and the owners of those that are about to.
        self._shells: list[KeptShell] = []
        self._starting: list[tuple[Owner, str]] = []

    def of(self, owner: Owner) -> OwnedShells:
        """The shells of one operator, who sees and reaches no others."""
        return OwnedShells(self, owner)

    def running(self) -> list[KeptShell]:
        """Those that run, oldest first."""
        return list(self._shells)

    async def keep(self, owner: Owner, terminal: Terminal) -> KeptShell:
        """Start a shell; raises ServiceError `limit` or `refused`, and as `Spawner.spawn` does."""
        limits = self._limits
        if not limits.total:
            raise ServiceError(ErrorCode.REFUSED, "this device keeps no shells (its limits.kept_shells is 0)")
        names = {shell.name for shell in self._shells if shell.owner == owner}
        names |= {name for starting, name in self._starting if starting == owner}
        if len(names) >= limits.per_operator:
            raise ServiceError(ErrorCode.LIMIT, f"you keep {len(names)} shells already; attach to one and end it")
        if len(self._shells) + len(self._starting) >= limits.total:
            raise ServiceError(ErrorCode.LIMIT, f"{limits.total} shells are kept already, some of other operators")
        name = next(str(number) for number in range(1, len(names) + 2) if str(number) not in names)
        place = owner, name
        self._starting.append(place)
        try:
            shell = await self._nursery.start(self._run, name, owner, terminal)
        finally:
            self._starting.remove(place)
        assert isinstance(shell, KeptShell)
        return shell

    async def _run(
        self, name: str, owner: Owner, terminal: Terminal, *, task_status: trio.TaskStatus[KeptShell]
    ) -> None:
        started = False
        try:
            async with self._spawner.spawn(None, {}, terminal) as process:
                shell = KeptShell(name, owner, process, self._limits.time, self._tell)
                self._shells.append(shell)
                try:
                    started = True
                    task_status.started(shell)
                    self._tell("kept", shell, "")
                    await shell.run()
                finally:
                    self._shells.remove(shell)
        except Exception as error:
            if not started:
                raise  # to who wanted it
            self._fail(error)


class OwnedShells:
    """The kept shells of one operator."""

    def __init__(self, shells: KeptShells, owner: Owner) -> None:
        self._shells = shells
        self._owner = owner

    async def keep(self, terminal: Terminal) -> KeptShell:
        """Start one; see `KeptShells.keep`."""
        return await self._shells.keep(self._owner, terminal)

    def find(self, name: str) -> KeptShell:
        """The one of that name; "" is the one left last, or, where somebody is attached to each, the youngest.

        Raises ServiceError `not-found` that says what there is.
        """
        own = self._own()
        if not own:
            raise ServiceError(ErrorCode.NOT_FOUND, "no shell of yours is kept here; `edgeice shell --keep` begins one")
        if not name:
            return max(own, key=lambda shell: (shell.left_at is not None, shell.left_at or shell.begun_at))
        for shell in own:
            if shell.name == name:
                return shell
        raise ServiceError(
            ErrorCode.NOT_FOUND, f"no kept shell has this name; yours are {', '.join(shell.name for shell in own)}"
        )

    def entries(self) -> list[dict[str, object]]:
        """What to tell of each, oldest first."""
        now = trio.current_time()
        return [
            {
                "name": shell.name,
                "running": shell.process.foreground(),
                "seconds": int(now - shell.begun_at),
                "left": None if shell.left_at is None else int(now - shell.left_at),
            }
            for shell in self._own()
        ]

    def _own(self) -> list[KeptShell]:
        return [shell for shell in self._shells.running() if shell.owner == self._owner]
