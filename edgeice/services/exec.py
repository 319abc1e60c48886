"""`edgeice.exec.1`, device half: one command, with its input, output and error apart."""

from __future__ import annotations

import attrs

from edgeice.errors import DecodeError
from edgeice.services.bridge import Commands, carry, receive_open
from edgeice.services.channel import Channel
from edgeice.services.control import Control, JsonValue, as_list, as_object, as_text, malformed
from edgeice.services.credit import CreditedChannel, Inbox
from edgeice.services.spawner import Process, Spawner

__all__ = ["EXEC_PROTOCOL", "serve_exec"]

EXEC_PROTOCOL = "edgeice.exec.1"


async def serve_exec(channel: Channel, spawner: Spawner) -> None:
    """Serve one exec channel until its command ends; closes the channel then.

    The command has ended when the process itself has: what it left in the background is ended with it, and does not
    hold the channel open.  Raises what `carry` and `Spawner.spawn` raise; `ChannelServer` tells the peer.
    """
    link = CreditedChannel(channel)
    try:
        request = _Request.parse(await receive_open(link))
    except DecodeError as error:
        raise malformed(error) from None
    async with spawner.spawn(request.argv, request.env, None) as process:
        status = await carry(link, process, _commands(process), framed=True)
        if status.signal is not None:
            await link.send_control({"exit_signal": status.signal})
        else:
            await link.send_control({"exit": status.code})
        # Before the scope ends what the command left behind, which may take seconds.
        await channel.aclose()


@attrs.frozen
class _Request:
    argv: list[str]
    env: dict[str, str]

    @classmethod
    def parse(cls, members: Control) -> _Request:
        argv = [_word(value, "argv") for value in as_list(members.get("argv"), "argv")]
        if not argv or not argv[0]:
            raise DecodeError("control-range", "argv names no command")
        env = {}
        for name, value in as_object(members.get("env", {}), "env").items():
            if not _word(name, "env") or "=" in name:
                raise DecodeError("control-range", "env has a member that is not a variable's name")
            env[name] = _word(value, "env")
        return cls(argv, env)


def _word(value: JsonValue, name: str) -> str:
    text = as_text(value, name)
    if "\0" in text:
        raise DecodeError("control-range", f"{name} holds a NUL character")
    return text


def _commands(process: Process) -> Commands:
    def eof(value: JsonValue, inbox: Inbox) -> None:
        if value is not True:
            raise DecodeError("control-type", "eof is not true")
        inbox.close()  # after what it holds, in order

    def signal(value: JsonValue, _inbox: Inbox) -> None:
        process.signal(as_text(value, "signal"))

    return {"eof": eof, "signal": signal}
