"""Which services there are, and one session's channels: admission, limits, errors told and counted."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter
from edgeice.services.channel import Channel, ServedChannel
from edgeice.services.control import ErrorCode, PeerError, ServiceError, encode_control, malformed
from edgeice.services.exec import EXEC_PROTOCOL, serve_exec
from edgeice.services.forward import FORWARD_PROTOCOL, Forwarder
from edgeice.services.ping import PING_PROTOCOL, serve_ping
from edgeice.services.shell import SHELL_PROTOCOL, serve_shell
from edgeice.services.spawner import LimitedSpawner, Spawner
from edgeice.services.telemetry import TELEMETRY_PROTOCOL, Telemetry
from edgeice.trace import Record, Tracer, ignore

if TYPE_CHECKING:
    from edgeice.services.kept import OwnedShells

__all__ = ["ChannelServer", "Service", "ServiceContext", "ServiceRegistry", "standard_services"]

#: How long a peer may take to read the error that ends its channel, seconds.
_CLOSE_PATIENCE = 5.0


@attrs.frozen
class Service:
    """What runs on channels of one protocol."""

    protocol: str
    #: What the session must have wanted; None if everybody may use it, or if the service looks at `wants` itself.
    capability: str | None
    #: Serves one channel until it is over.  Raises ServiceError for what the peer is to be told, and may let the
    #: channel's own exceptions through.
    serve: Callable[[Channel, ServiceContext], Awaitable[None]]
    #: Whether a channel on which nothing passes is of no use, so that the limit on idle channels ends it.
    ends_idle: bool = False


@attrs.frozen
class ServiceContext:
    """What a service may use for one session."""

    #: Starts processes.
    spawner: Spawner
    #: The capabilities that the session asked for and was allowed.
    wants: Collection[str]
    #: Gives the capabilities of the operator's trust lines as they are now.
    granted: Callable[[], Collection[str]]
    #: Gives the operator's kept shells; None where none are kept.
    kept: Callable[[], OwnedShells] | None = None
    #: Seconds that a channel may be idle where the service knows what that is; 0 sets no limit.
    idle_time: float = 0


def standard_services(broker: tuple[str, int], telemetry: Telemetry | None = None) -> tuple[Service, ...]:
    """The services of this package: shell, exec, forward, telemetry, ping.

    Args:
        broker: Host and port that forwards do not go to.
        telemetry: What the device measures; None for the system alone.
    """
    forwarder = Forwarder(broker)
    measured = telemetry or Telemetry()
    return (
        Service(
            SHELL_PROTOCOL, "shell", lambda channel, context: serve_shell(channel, context.spawner, context.kept), True
        ),
        Service(EXEC_PROTOCOL, "exec", lambda channel, context: serve_exec(channel, context.spawner), True),
        Service(
            FORWARD_PROTOCOL,
            None,
            lambda channel, context: forwarder.serve(channel, context.wants, context.granted),
            True,
        ),
        Service(TELEMETRY_PROTOCOL, None, measured.serve),
        Service(PING_PROTOCOL, None, lambda channel, _context: serve_ping(channel)),
    )


class ServiceRegistry:
    """The services of a device, by protocol name."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = {service.protocol: service for service in services}

    @property
    def protocols(self) -> tuple[str, ...]:
        """Their names in order, as the birth document lists them."""
        return tuple(sorted(self._services))

    def admit(self, protocol: str, wants: Collection[str]) -> Service:
        """The service for a channel; raises ServiceError `unsupported`, or `unauthorized` if it was not wanted."""
        service = self._services.get(protocol)
        if service is None:
            raise ServiceError(ErrorCode.UNSUPPORTED, "no such service")
        if service.capability is not None and service.capability not in wants:
            raise ServiceError(ErrorCode.UNAUTHORIZED, f"the session did not ask for {service.capability}")
        return service


class ChannelServer:
    """Serves all channels that the peer of one session opens."""

    def __init__(
        self,
        registry: ServiceRegistry,
        wants: Collection[str],
        spawner: Spawner,
        *,
        max_channels: int = 16,
        max_processes: int = 8,
        idle_time: float = 0,
        channel_time: float = 0,
        granted: Callable[[], Collection[str]] = tuple,
        kept: Callable[[], OwnedShells] | None = None,
        drops: DropCounter | None = None,
        tracer: Tracer = ignore,
        on_failure: Callable[[Channel, Exception], None] | None = None,
    ) -> None:
        """Set up.

        Args:
            registry: what the device offers.
            wants: the capabilities that the session asked for and was allowed.
            spawner: starts processes.
            max_channels: channels open at a time, and as many that are closed and whose service still ends, such as a
                forward that writes what came last; one more is refused with `limit`, and once as many refusals are
                still unread, further ones are aborted without a word.
            max_processes: processes at a time, those under way to their end included; likewise.
            idle_time: seconds without a message either way after which a channel of a service that `ends_idle` is
                ended with `timeout`, as others are that are idle in their own way; 0 sets no limit.
            channel_time: seconds after which a channel of any service is ended with `limit`; 0 sets no limit.
            granted: gives the capabilities of the operator's trust lines, where a service wants to know how it came
                to be allowed; without it, none are known.
            kept: gives the operator's kept shells; without it, none are kept.
            drops: counts channels that ended with an error, as `channel-` and the error's code.
            tracer: told of each channel's begin and end.
            on_failure: told what a service let through that none may: a defect, which ended its channel.
        """
        self._registry = registry
        self._context = ServiceContext(LimitedSpawner(spawner, max_processes), wants, granted, kept, idle_time)
        self._max_channels = max_channels
        self._idle_time = idle_time
        self._channel_time = channel_time
        self._drops = DropCounter() if drops is None else drops
        self._tracer = tracer
        self._on_failure = on_failure
        self._served: set[ServedChannel] = set()
        self._changed = trio.lowlevel.ParkingLot()
        self._refusing = 0

    @property
    def channels(self) -> int:
        """Channels served now."""
        return len(self._served)

    async def serve(self, channel: ServedChannel) -> None:
        """Serve one channel until it is over and closed; raises nothing (but trio.Cancelled)."""
        if self._is_full:
            await self._refuse(channel)
            return
        self._served.add(channel)
        self._changed.unpark_all()
        try:
            self._trace("channel-opened", channel)
            await self._end(channel, await self._run(channel))
        finally:
            self._served.discard(channel)
            self._changed.unpark_all()
            channel.abort()

    async def wait_idle(self) -> None:
        """Wait until no channel is served."""
        while self.channels:
            await self._changed.park()

    async def wait_busy(self) -> None:
        """Wait until a channel is served."""
        while not self.channels:
            await self._changed.park()

    @property
    def _is_full(self) -> bool:
        if len(self._served) < self._max_channels:
            return False
        # A peer cannot know how long a service takes to end: for it, a channel that is closed is none any more.
        opened = sum(not channel.closed for channel in self._served)
        return opened >= self._max_channels or len(self._served) >= 2 * self._max_channels

    async def _refuse(self, channel: Channel) -> None:
        """Turn a channel away for which there is no room."""
        if self._refusing >= self._max_channels:
            self._drops.count("channel-flood")
            channel.abort()
            return
        self._refusing += 1
        try:
            await self._end(channel, ServiceError(ErrorCode.LIMIT, f"{self._max_channels} channels are open already"))
        finally:
            self._refusing -= 1
            channel.abort()

    async def _run(self, channel: Channel) -> ServiceError | None:
        """Run the channel's service; returns what the peer is to be told, if anything."""
        try:
            service = self._registry.admit(channel.protocol, self._context.wants)
            return await self._run_in_time(service, channel)
        except (PeerError, trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        except ServiceError as error:
            return error
        except DecodeError as error:
            return malformed(error)
        except Exception as error:  # noqa: BLE001  # a bug in one service must not end the others' sessions
            if self._on_failure is not None:
                self._on_failure(channel, error)
            return ServiceError(ErrorCode.INTERNAL, "the service failed")

    async def _run_in_time(self, service: Service, channel: Channel) -> ServiceError | None:
        with trio.move_on_after(self._channel_time or math.inf):
            return await self._run_service(service, channel)
        return ServiceError(ErrorCode.LIMIT, f"a channel may last {self._channel_time:g} s")

    async def _run_service(self, service: Service, channel: Channel) -> ServiceError | None:
        if not (service.ends_idle and self._idle_time):
            await service.serve(channel, self._context)
            return None
        from edgeice.services.idle import WatchedChannel  # noqa: PLC0415  # most devices have no such limit

        watched = WatchedChannel(channel, self._idle_time)
        with watched.scope:
            await service.serve(watched, self._context)
        return watched.error() if watched.scope.cancelled_caught else None

    async def _end(self, channel: Channel, error: ServiceError | None) -> None:
        if error is not None:
            self._drops.count(f"channel-{error.code}")
        self._trace("channel-closed", channel, error)
        await _close(channel, error)

    def _trace(self, name: str, channel: Channel, error: ServiceError | None = None) -> None:
        fields: dict[str, object] = {"protocol": channel.protocol[:64]}
        if error is not None:
            fields |= {"code": str(error.code), "reason": error.reason}
        self._tracer(Record(trio.current_time(), "services", name, fields))


async def _close(channel: Channel, error: ServiceError | None) -> None:
    """Tell the error, if any, and close, within a bounded time: a peer that does not read gets no more of ours."""
    with trio.move_on_after(_CLOSE_PATIENCE):
        try:
            if error is not None:
                await channel.send(encode_control(error.message()))
            await channel.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
