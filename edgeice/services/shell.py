"""`edgeice.shell.1`, device half: a login shell on a terminal."""

from __future__ import annotations

import re

from edgeice.errors import DecodeError
from edgeice.services.bridge import Commands, carry, receive_open
from edgeice.services.channel import Channel
from edgeice.services.control import Control, JsonValue, as_int, as_list, as_text, malformed
from edgeice.services.credit import CreditedChannel, Inbox
from edgeice.services.spawner import Process, Spawner, Terminal

__all__ = ["SHELL_PROTOCOL", "serve_shell"]

SHELL_PROTOCOL = "edgeice.shell.1"

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


async def serve_shell(channel: Channel, spawner: Spawner) -> None:
    """Serve one shell channel until its shell ends; closes the channel then.

    Raises what `carry` raises; `ChannelServer` tells the peer.
    """
    link = CreditedChannel(channel)
    try:
        terminal = _terminal(await receive_open(link))
    except DecodeError as error:
        raise malformed(error) from None
    async with spawner.spawn(None, {}, terminal) as process:
        await link.send_control({"opened": {"user": process.user}})
        status = await carry(link, process, _commands(process), framed=False)
        # Before the scope ends what the shell left behind, which may take seconds.
        await link.send_control({"exit": status.as_code()})
        await channel.aclose()


def _terminal(members: Control) -> Terminal:
    term = as_text(members.get("term"), "term")
    if _TERM.fullmatch(term) is None:
        raise DecodeError("control-range", "term is not a terminal's name")
    return Terminal(term, _size(members.get("cols"), "cols"), _size(members.get("rows"), "rows"))


def _size(value: JsonValue, name: str) -> int:
    return as_int(value, name, 0, 0xFFFF)  # struct winsize holds unsigned shorts; 0 is "unknown"


def _commands(process: Process) -> Commands:
    def resize(value: JsonValue, _inbox: Inbox) -> None:
        size = as_list(value, "resize")
        if len(size) != 2:
            raise DecodeError("control-range", "resize is not [cols,rows]")
        process.resize(_size(size[0], "cols"), _size(size[1], "rows"))

    def signal(value: JsonValue, _inbox: Inbox) -> None:
        process.signal(as_text(value, "signal"))

    return {"resize": resize, "signal": signal}
