"""`edgeice proxy`: a TCP connection of the device on standard input and output, for ssh's ProxyCommand."""

from __future__ import annotations

import os

import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import device_argument
from edgeice.cli.stdio import read_input, write_output
from edgeice.cli.targets import parse_target
from edgeice.services import FORWARD_PROTOCOL, forward_stream

__all__ = ["command"]

#: Seconds that the device may take to write the last bytes over there; the session ends after it.
_LINGER = 10.0


@click.command(
    "proxy",
    cls=SessionCommand,
    epilog="""\b
Examples:
  edgeice proxy pi17 22
  edgeice proxy pi17 192.168.1.20:22

\b
With ssh, scp and rsync:
  ssh -o ProxyCommand='edgeice proxy %h 22' pi@pi17

\b
The device has to allow it: edgeice-agent trust add --can forward:localhost:22 …""",
)
@device_argument
@click.argument("target", metavar="[HOST:]PORT")
@session_options
def command(options: Options, device: str, target: str) -> None:
    """Connect standard input and output to [HOST:]PORT as DEVICE sees it; without HOST to the device itself."""
    where = parse_target(target)

    async def main() -> int:
        async with device_session(options, device, (where.capability,)) as session:
            channel = await session.open(FORWARD_PROTOCOL)
            await forward_stream(channel, where, _Stdio(), linger=_LINGER)
        return 0

    run(main)


class _Stdio:
    """Standard input and output as one stream."""

    async def receive_some(self, max_bytes: int) -> bytes:
        """Read standard input."""
        return await read_input(max_bytes)

    async def send_all(self, data: bytes) -> None:
        """Write standard output."""
        try:
            await write_output(data)
        except BrokenPipeError as error:
            raise trio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Close standard output, for whoever reads it; later prints go nowhere."""
        await trio.lowlevel.checkpoint()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def reset(self) -> None:
        """The exit status tells that it is no orderly end."""
