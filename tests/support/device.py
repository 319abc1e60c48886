"""A device's channel server on in-memory channels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from edgeice.sansio import DropCounter
from edgeice.services import ChannelServer, LocalSpawner, ServiceRegistry, standard_services
from edgeice.services.kept import KeepLimits, KeptShells, Owner
from edgeice.services.telemetry import Telemetry
from edgeice.signaling import Party
from tests.support.channels import MemoryChannel, channel_pair

__all__ = ["Device", "alive", "kept_shells"]


def kept_shells(
    nursery: trio.Nursery, told: list[tuple[str, str, str]], *, grace: float = 0.1, time: float = 3600
) -> KeptShells:
    """A device's kept shells, at most three and two of an operator; `told` gets the event, the shell's name and why."""

    def defect(error: Exception) -> None:
        raise error

    return KeptShells(
        nursery,
        LocalSpawner(grace=grace),
        KeepLimits(total=3, per_operator=2, time=time),
        tell=lambda event, shell, why: told.append((event, shell.name, why)),
        fail=defect,
    )


class Device:
    """Opens channels to the channel server of one session that wants shell and exec."""

    def __init__(
        self,
        nursery: trio.Nursery,
        grace: float = 0.1,
        wants: tuple[str, ...] = (),
        *,
        kept: KeptShells | None = None,
        operator: str = "alice",
        kid: str = "kid",
        idle_time: float = 0,
        channel_time: float = 0,
        granted: tuple[str, ...] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self.drops = DropCounter()
        #: What became of kept shells; of this session's own, where they are not shared.
        self.told: list[tuple[str, str, str]] = []
        self.kept = kept or kept_shells(nursery, self.told, grace=grace)
        self.server = ChannelServer(
            ServiceRegistry(standard_services(("127.0.0.1", 1), telemetry)),
            {"shell", "exec", *wants},
            LocalSpawner(grace=grace),
            max_channels=4,
            max_processes=2,
            idle_time=idle_time,
            channel_time=channel_time,
            granted=lambda: granted,
            kept=partial(self.kept.of, Owner(Party.operator("home", operator), kid)),
            drops=self.drops,
        )
        self._nursery = nursery
        self._scopes: list[trio.CancelScope] = []
        self._idle = trio.lowlevel.ParkingLot()

    def open(self, protocol: str, *, log: bool = False) -> MemoryChannel:
        """The operator's end of a channel that the server serves from now on."""
        operator, device = channel_pair(protocol, log=log)
        self._nursery.start_soon(self._serve, device)
        return operator

    async def idle(self, left: int = 0) -> None:
        """Wait until no channel is served, or only so many."""
        while self.server.channels > left:
            await self._idle.park()

    def cancel(self) -> None:
        """Cancel what is served, as the end of a session does."""
        for scope in self._scopes:
            scope.cancel()

    async def _serve(self, channel: MemoryChannel) -> None:
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            await self.server.serve(channel)
        self._idle.unpark_all()


def alive(pid: str) -> bool:
    """Whether a process of this number runs (a zombie does not)."""
    try:
        stat = Path("/proc", pid.strip(), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
