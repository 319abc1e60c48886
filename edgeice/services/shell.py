"""`edgeice.shell.1`, device half: a login shell on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from edgeice.errors import DecodeError
from edgeice.services.bridge import Commands, carry, receive_open
from edgeice.services.channel import Channel
from edgeice.services.control import Control, ErrorCode, JsonValue, ServiceError, as_int, as_list, as_text, malformed
from edgeice.services.credit import INITIAL_CREDIT, CreditedChannel, Inbox
from edgeice.services.spawner import Process, Spawner, Terminal

if TYPE_CHECKING:
    from edgeice.services.kept import KeptShell, OwnedShells

__all__ = ["SHELL_PROTOCOL", "serve_shell"]

SHELL_PROTOCOL = "edgeice.shell.1"

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


async def serve_shell(channel: Channel, spawner: Spawner, kept: Callable[[], OwnedShells] | None = None) -> None:
    """Serve one shell channel until its shell ends, or until who is attached to a kept one leaves; closes it then.

    Args:
        channel: the channel.
        spawner: starts the shell.
        kept: gives the operator's kept shells; without it, none are kept.

    Raises what `carry` raises; `ChannelServer` tells the peer.
    """
    link = CreditedChannel(channel)
    try:
        request = _Request.parse(await receive_open(link))
    except DecodeError as error:
        raise malformed(error) from None
    if request.terminal is None:
        await link.send_control({"shells": _owned(kept).entries()})
    elif request.attach is not None:
        await _serve_kept(link, _owned(kept).find(request.attach), request.terminal, replay=True)
    elif request.keep:
        await _serve_kept(link, await _owned(kept).keep(request.terminal), request.terminal, replay=False)
    else:
        async with spawner.spawn(None, {}, request.terminal) as process:
            await link.send_control({"opened": {"user": process.user}})
            await _carry(link, process, outlives=False)
            # Before the scope ends what the shell left behind, which may take seconds.
            await channel.aclose()
    await channel.aclose()


def _owned(kept: Callable[[], OwnedShells] | None) -> OwnedShells:
    if kept is None:
        raise ServiceError(ErrorCode.UNSUPPORTED, "no shells are kept here")
    return kept()


async def _serve_kept(link: CreditedChannel, shell: KeptShell, terminal: Terminal, *, replay: bool) -> None:
    def unseen() -> int:
        return max(0, INITIAL_CREDIT - link.sending.available)

    async with shell.attach(unseen) as viewer:
        with viewer.scope:
            opened: dict[str, object] = {"user": viewer.user, "kept": shell.name}
            if replay:
                opened |= {"replay": shell.ring.end - viewer.position, "lost": shell.unseen_before(viewer.position)}
            await link.send_control({"opened": opened})
            viewer.resize(terminal.cols, terminal.rows)
            if replay:
                viewer.signal("WINCH")  # also where the size is the same: what fills the screen draws it anew
            await _carry(link, viewer, outlives=True)
            return
    assert viewer.ousted is not None  # nothing else cancels that scope
    raise viewer.ousted


async def _carry(link: CreditedChannel, process: Process, *, outlives: bool) -> None:
    status = await carry(link, process, _commands(process), framed=False, outlives=outlives)
    await link.send_control({"exit": status.as_code()})


@attrs.frozen
class _Request:
    #: None where only a list is wanted.
    terminal: Terminal | None
    keep: bool = False
    #: The name of the kept shell to attach to, "" for any; None for a new shell.
    attach: str | None = None

    @classmethod
    def parse(cls, members: Control) -> _Request:
        wishes = [name for name in ("keep", "attach", "list") if members.get(name, False) is not False]
        if len(wishes) > 1:
            raise DecodeError("control-range", f"{wishes[0]} and {wishes[1]} at once")
        for name in wishes:
            if members[name] is not True and name != "attach":
                raise DecodeError("control-type", f"{name} is not true")
        if wishes == ["list"]:
            return cls(None)
        attach = None
        if wishes == ["attach"]:
            attach = "" if members["attach"] is True else as_text(members["attach"], "attach")
        return cls(_terminal(members), wishes == ["keep"], attach)


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
