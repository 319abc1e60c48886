"""`edgeice.forward.1`: a TCP connection that the device makes, carried over one channel; both halves."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.services.boundary import Boundary
from edgeice.services.channel import Channel
from edgeice.services.control import ErrorCode, ServiceError, as_int, as_object, as_text, malformed
from edgeice.services.credit import CreditedChannel
from edgeice.services.relay import ByteStream, StreamBrokenError, relay
from edgeice.services.tcp import connect_tcp

__all__ = ["FORWARD_PROTOCOL", "ForwardTarget", "Forwarder", "forward_stream"]

FORWARD_PROTOCOL = "edgeice.forward.1"

#: Seconds that a peer may take to say where to, and that the operator waits for the connection to stand.
_OPEN_PATIENCE: Final = 10.0
_CONNECT_PATIENCE: Final = 20.0
_LONGEST_NAME: Final = 253


@attrs.frozen
class ForwardTarget:
    """Where a forward goes to, as the device sees it."""

    #: A name, or an IP address without brackets.
    host: str
    port: int

    @property
    def capability(self) -> str:
        """What a session must want for it (contract §4)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"forward:{host}:{self.port}"


class Forwarder:
    """The device's half.

    Args:
        broker: Host and port of the device's own broker, where forwards do not go.
    """

    def __init__(self, broker: tuple[str, int]) -> None:
        self._boundary = Boundary(broker)

    async def serve(self, channel: Channel, wants: Collection[str], granted: Callable[[], Collection[str]]) -> None:
        """Serve one forward channel until both directions have ended.

        Args:
            channel: The channel.
            wants: What the session asked for and was allowed.
            granted: Gives the capabilities of the operator's trust lines (see `Boundary.bars`).

        Raises what `relay` and `connect_tcp` raise; `ChannelServer` tells the peer.
        """
        from edgeice.signaling import covers  # noqa: PLC0415  # an operator's half needs none of what comes with it

        link = CreditedChannel(channel)
        target = await _receive_connect(link)
        if not any(covers(want, target.capability) for want in wants):
            raise ServiceError(ErrorCode.UNAUTHORIZED, f"the session did not ask for {target.capability}")
        bars = partial(self._boundary.bars, granted=granted())
        stream, address = await connect_tcp(target.host, target.port, bars)
        async with aclosing(stream):
            try:
                await link.send_control({"connected": {"address": address}})
                await relay(link, stream)
            except StreamBrokenError:
                return  # either side knows
            except BaseException:
                stream.reset()  # who listens there is not to take it for the end
                raise


async def _receive_connect(link: CreditedChannel) -> ForwardTarget:
    value = await link.receive_first("connect", _OPEN_PATIENCE)
    try:
        members = as_object(value, "connect")
        host = as_text(members.get("host"), "host")
        if not 1 <= len(host) <= _LONGEST_NAME or not host.isprintable() or " " in host:
            raise DecodeError("control-range", "host is no name and no address")  # noqa: TRY301  # as the others
        return ForwardTarget(host, as_int(members.get("port"), "port", 1, 0xFFFF))
    except DecodeError as error:
        raise malformed(error) from None


async def forward_stream(channel: Channel, target: ForwardTarget, stream: ByteStream, *, linger: float = 0) -> None:
    """The operator's half: carry `stream` to `target` over a fresh forward channel, until both directions ended.

    Args:
        channel: The channel.
        target: Where to.
        stream: What is carried.
        linger: Seconds to wait for the device to close the channel first, which it does when everything is written
            over there: for whoever ends the session next.  `timeout` where it does not.

    Raises:
        ServiceError: `refused`, `unreachable`, `not-found`, `timeout`, `unauthorized`, …: as the device says; the
            stream is reset.
        StreamBrokenError: the connection broke at either end; likewise.
        trio.BrokenResourceError, trio.EndOfChannel: the session is gone; likewise.
    """
    link = CreditedChannel(channel)
    try:
        try:
            await link.send_control({"connect": {"host": target.host, "port": target.port}})
            await link.receive_first("connected", _CONNECT_PATIENCE)
        except BaseException:
            stream.reset()
            raise
        await relay(link, stream)
        with trio.move_on_after(linger) as lingering, suppress(trio.EndOfChannel, trio.BrokenResourceError):
            while True:
                await channel.receive()
        await channel.aclose()
        if linger and lingering.cancelled_caught:
            raise ServiceError(ErrorCode.TIMEOUT, f"the device had not written everything after {linger:g} s")
    finally:
        channel.abort()
