"""Puts two peers opposite each other on hosts of a laboratory, by their adapters (tests/interop/PROTOCOL.md).

Each end gets the other's description and candidates at once, as by a signaling that takes no time.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.lab.lab import Host, LabError

__all__ = ["End", "Meeting", "Pair", "meet"]

_ADAPTERS = Path(__file__).parents[1] / "interop"
#: Seconds for processes to start, browsers among them, and to gather.
_START = 40.0
#: Seconds between two tries of a datagram that may be lost.
_REPEAT = 0.25
_ECHO = 15.0
#: Seconds from a first message to the pair that lasts.
_NOMINATION = 10.0
#: Seconds in which no end of a session tells of another pair, when both are on the last; browsers look each 0.1 s.
_CALM = 0.5
_PAIR = re.compile(r"(?P<local_type>\w+) (?P<local>\S+) -> (?P<remote_type>\w+) (?P<remote>\S+)")


@attrs.frozen
class Pair:
    """A candidate pair as one end tells of it.

    Addresses are `IP:PORT`, or `hidden:PORT` of a browser that does not tell; the local one is the base.
    """

    local_type: str
    local: str
    remote_type: str
    remote: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        """From what an adapter says."""
        match = _PAIR.fullmatch(text)
        if match is None:
            raise LabError(f"no pair: {text!r}")
        return cls(**match.groupdict())

    @property
    def is_relayed(self) -> bool:
        """Data takes the way over a relay of this end's; one of the other end's does not show here for certain."""
        return self.local_type == "relay"

    def __str__(self) -> str:
        return f"{self.local_type}->{self.remote_type}"


@attrs.frozen
class End:
    """What one end had to say."""

    pair: Pair | None
    #: Seconds from the moment when both ends were up until it could send data, and until its pair was nominated; None
    #: if that never came.
    connected: float | None
    nominated: float | None
    errors: tuple[str, ...]


@attrs.frozen
class Meeting:
    """How it went, offerer first."""

    ends: tuple[End, End]
    #: A message of the offerer's came back.
    echoed: bool

    @property
    def is_connected(self) -> bool:
        """Both ends have a nominated pair, and data passed in both directions."""
        return self.echoed and all(end.pair is not None for end in self.ends)

    @property
    def seconds(self) -> float | None:
        """Until both ends could send data."""
        return _latest(end.connected for end in self.ends)

    @property
    def nominated(self) -> float | None:
        """Seconds until both ends' pairs were nominated."""
        return _latest(end.nominated for end in self.ends)


def _latest(times: Any) -> float | None:
    known = list(times)
    return None if None in known else max(known)


@attrs.define(eq=False)
class _Peer:
    """One adapter's process, and what it has said so far."""

    process: trio.Process
    ice_only: bool
    other: _Peer | None = None
    #: It is not told the other one's candidates.
    untold: bool = False
    connected_at: float | None = None
    nominated_at: float | None = None
    channel_open: bool = False
    pair: str = ""
    pair_told_at: float = 0.0
    errors: list[str] = attrs.field(factory=list)
    #: It is up, and begins to gather.
    started: trio.Event = attrs.field(factory=trio.Event)
    #: Its pair is nominated or its channel open; or that will never be.
    settled: trio.Event = attrs.field(factory=trio.Event)
    nominated: trio.Event = attrs.field(factory=trio.Event)
    heard: trio.Event = attrs.field(factory=trio.Event)

    async def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line + b"\n")

    async def read(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for chunk in self.process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                await self._take(json.loads(line), line)
        self.errors.append("the process has ended")
        for peer in filter(None, (self, self.other)):  # nothing more will come of it
            peer.started.set()
            peer.settled.set()

    async def _take(self, message: dict[str, Any], line: bytes) -> None:
        now = trio.current_time()
        match message["type"]:
            case "offer" | "answer" | "candidate":
                assert self.other is not None
                await self.other.started.wait()
                await self.other.write(_without_candidates(message) if self.other.untold else line)
            case "message":
                self.heard.set()
            case "error":
                self.errors.append(message["value"])
            case "state":
                self._note(message["what"], message["value"], now)

    def _note(self, what: str, value: str, now: float) -> None:
        match what, value:
            case "version", _:
                self.started.set()
            case "ice", "connected" if self.ice_only:
                self.connected_at = now
            case (("ice" | "connection"), "failed"):
                self.settled.set()
            case "channel", "open":
                self.connected_at = now
                self.channel_open = True
                self.settled.set()
            case "selected", _:
                self.pair, self.pair_told_at = value, now
            case "nominated", _:
                self.nominated_at = self.nominated_at or now
                self.nominated.set()
                if self.ice_only:
                    self.settled.set()

    @property
    def is_ready(self) -> bool:
        """Whether messages should pass."""
        return self.channel_open or (self.ice_only and self.nominated_at is not None)

    def end(self, begun: float) -> End:
        """All of that, with times since then."""
        return End(
            pair=Pair.parse(self.pair) if self.pair and self.nominated_at is not None else None,
            connected=None if self.connected_at is None else self.connected_at - begun,
            nominated=None if self.nominated_at is None else self.nominated_at - begun,
            errors=tuple(self.errors),
        )


def _without_candidates(message: dict[str, Any]) -> bytes:
    if message["type"] == "candidate":
        return json.dumps({**message, "candidate": ""}).encode()
    return json.dumps({**message, "sdp": re.sub("a=candidate:.*\r\n", "", message["sdp"])}).encode()


@asynccontextmanager
async def _adapter(host: Host, name: str, config: dict[str, Any], environment: dict[str, str]) -> AsyncIterator[_Peer]:
    command = host.command(sys.executable, str(_ADAPTERS / f"peer_{name}.py"), json.dumps(config))
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
    )
    try:
        yield _Peer(process, config["ice_only"])
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def meet(
    hosts: tuple[Host, Host],
    peers: tuple[str, str],
    *,
    ice_servers: Sequence[dict[str, str]] = (),
    policy: str = "all",
    cafile: Path | None = None,
    ice_only: bool = True,
    hidden: bool = False,
    look_up: bool = False,
    untold: str = "",
    patience: float = 20.0,
) -> Meeting:
    """Connect two peers.

    Args:
        hosts: Where they run, offerer first.
        peers: The adapters' names, such as `edgeice` and `aioice`.
        ice_servers: STUN and TURN servers of both, as browsers take them.
        policy: `all`, or `relay` for relayed candidates only.
        cafile: The authority of servers with TLS.
        ice_only: Whether ICE is all; otherwise they open a data channel.
        hidden: Whether browsers hide their addresses behind `.local` names.
        look_up: Whether edgeice looks such names up.
        untold: The name of a peer that is not told the other one's candidates, so that only its own can be found.
        patience: Seconds until both have a nominated pair, or the channel; after that they have none.
    """
    config = {"ice_servers": list(ice_servers), "policy": policy, "ice_only": ice_only}
    config |= {"hidden": hidden, "look_up": look_up}
    environment = {} if cafile is None else {"SSL_CERT_FILE": str(cafile)}
    async with (
        _adapter(hosts[0], peers[0], {**config, "role": "offer"}, environment) as offerer,
        _adapter(hosts[1], peers[1], {**config, "role": "answer"}, environment) as answerer,
        trio.open_nursery() as nursery,
    ):
        offerer.other, answerer.other = answerer, offerer
        offerer.untold, answerer.untold = (name == untold for name in peers)
        nursery.start_soon(offerer.read)
        nursery.start_soon(answerer.read)
        with trio.fail_after(_START):
            await offerer.started.wait()
            await answerer.started.wait()
        begun = trio.current_time()
        with trio.move_on_after(patience):
            await offerer.settled.wait()
            await answerer.settled.wait()
        echoed = offerer.is_ready and answerer.is_ready and await _echo(offerer)
        with trio.move_on_after(_NOMINATION):
            for peer in (offerer, answerer):
                if echoed and peer.pair:  # who tells of its pair tells of its end
                    await peer.nominated.wait()
            if echoed and not ice_only:
                await _calm(offerer, answerer)
        ends = offerer.end(begun), answerer.end(begun)
        nursery.cancel_scope.cancel()
    return Meeting(ends, echoed)


async def _calm(*peers: _Peer) -> None:
    """Wait until none has told of another pair for a while."""
    last = -math.inf
    while (told := max(peer.pair_told_at for peer in peers)) > last:
        last = told
        await trio.sleep_until(told + _CALM)


async def _echo(offerer: _Peer) -> bool:
    """Whether a message comes back, sent until one does."""
    line = json.dumps({"type": "message", "data": "over"}).encode()
    with trio.move_on_after(_ECHO):
        while not offerer.heard.is_set():
            await offerer.write(line)
            with trio.move_on_after(_REPEAT):
                await offerer.heard.wait()
    return offerer.heard.is_set()
