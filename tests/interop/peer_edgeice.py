"""edgeice behind the adapter protocol (PROTOCOL.md)."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgeice  # only now is it on the path
from edgeice import sdp
from edgeice.errors import LocalProtocolError
from edgeice.ice import CandidatePolicy, IceConfig
from edgeice.peer import CandidateGathered, CandidatesEnded, PathChanged, StateChanged, TurnServer
from edgeice.transport import ConnectionFailedError, DataChannel, Node, NodeConfig, Progress, open_node

#: What this end announces, in milliseconds: edgeice's own Ta (RFC 8839 §5.7).
PACING = 20


def out(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def tell(what: str, value: str) -> None:
    out(type="state", what=what, value=value)


def tell_candidate(line: str) -> None:
    out(type="candidate", candidate=line, sdpMid="0", sdpMLineIndex=0)


def tell_progress(progress: Progress) -> None:
    match progress:
        case CandidateGathered():
            tell_candidate(progress.candidate)
        case CandidatesEnded():
            tell_candidate("")
            tell("gathering", "complete")
        case StateChanged():
            tell("connection", progress.state.value)
        case PathChanged():
            tell_path(progress)


def tell_path(changed: PathChanged) -> None:
    path = changed.path
    pair = "" if path is None else f"{changed.local_type} {path.local} -> {changed.remote_type} {path.remote}"
    tell("selected", pair)
    if changed.nominated:
        tell("nominated", pair)


def node_config(config: dict[str, Any]) -> NodeConfig:
    if config.get("loopback"):
        return NodeConfig.loopback_only()
    stun: list[str] = []
    turn: list[TurnServer] = []
    for server in config.get("ice_servers", []):
        for url in [server["urls"]] if isinstance(server["urls"], str) else server["urls"]:
            if url.startswith("stun:"):
                stun.append(url)
            else:
                turn.append(TurnServer(url, server["username"], server["credential"]))
    policy = CandidatePolicy(config.get("policy", "all"))
    return NodeConfig(
        stun=() if policy is CandidatePolicy.RELAY else tuple(stun),
        turn=tuple(turn),
        ice=IceConfig(policy=policy, resolve_names=config.get("look_up", config.get("hidden", False))),
    )


class Adapter:
    def __init__(self, config: dict[str, Any], node: Node) -> None:
        self.offers = config["role"] == "offer"
        self.echo = config.get("echo", not self.offers)
        self.peer = node.connection(watch=tell_progress, offerer=self.offers)
        self.channel: DataChannel | None = None
        self.remote_ufrag: str | None = None
        self.early: list[str] = []

    def describe_remote(self, text: str) -> None:
        """The description is in: candidates that came before it can be placed now."""
        self.remote_ufrag = sdp.parse(text).ufrag
        for line in self.early:
            self.add(line)
        self.early = []

    def add(self, line: str) -> None:
        if self.remote_ufrag is None:
            self.early.append(line)
        elif line:
            self.peer.add_candidate(line, self.remote_ufrag)
        else:
            self.peer.end_of_candidates(self.remote_ufrag)

    async def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "offer":
                out(type="answer", sdp=self.peer.accept_offer(message["sdp"]))
                self.describe_remote(message["sdp"])
            case "answer":
                self.peer.accept_answer(message["sdp"])
                self.describe_remote(message["sdp"])
            case "candidate":
                self.add(message["candidate"])
            case "message":
                assert self.channel is not None, "no channel yet"
                await self.channel.send(message["data"])

    async def use_channel(self) -> None:
        try:
            await self.peer.wait_connected()
        except ConnectionFailedError as error:
            out(type="error", value=str(error))
            return
        if self.offers:
            self.channel = await self.peer.open_channel(label="echo")
        else:
            self.channel = await self.peer.incoming.receive()
        tell("channel", "open")
        with contextlib.suppress(trio.BrokenResourceError):  # the peer ended its session, and the channel with it
            await self.receive(self.channel)
        tell("channel", "closed")

    async def receive(self, channel: DataChannel) -> None:
        async for data in channel:
            out(type="message", data=data if isinstance(data, str) else data.decode("latin1"))
            if self.echo:
                await channel.send(data)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.use_channel)
            if self.offers:
                out(type="offer", sdp=self.peer.create_offer())
            await each_message(self.take)
            nursery.cancel_scope.cancel()
        await self.peer.aclose()


class IceAdapter:
    """ICE alone."""

    def __init__(self, config: dict[str, Any], node: Node) -> None:
        self.offers = config["role"] == "offer"
        self.echo = config.get("echo", not self.offers)
        self.transport = node.ice_transport(tell_path, controlling=self.offers)

    def describe(self, kind: str) -> None:
        lines = f"a=ice-ufrag:{self.transport.ufrag}", f"a=ice-pwd:{self.transport.pwd}", f"a=ice-pacing:{PACING}"
        out(type=kind, sdp="\r\n".join([*lines, ""]))

    def describe_remote(self, text: str) -> None:
        found = dict(re.findall(r"a=ice-(ufrag|pwd|pacing):(\S+)", text))
        pacing = int(found["pacing"]) / 1000 if "pacing" in found else None
        self.transport.set_remote(found["ufrag"], found["pwd"], pacing=pacing)
        for line in re.findall(r"a=(candidate:[^\r\n]*)", text):
            self.transport.add_candidate(line)

    async def trickle(self) -> None:
        async for line in self.transport.candidates:
            tell_candidate(line)
            if not line:
                tell("gathering", "complete")

    async def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "offer":
                self.describe("answer")
                self.nursery.start_soon(self.trickle)
                self.describe_remote(message["sdp"])
            case "answer":
                self.describe_remote(message["sdp"])
            case "candidate":
                self.transport.add_candidate(message["candidate"])
            case "message":
                await self.transport.send(message["data"].encode("latin1"))

    async def converse(self) -> None:
        try:
            await self.transport.wait_connected()
        except ConnectionFailedError as error:
            out(type="error", value=str(error))  # first: nobody may listen after the other
            tell("ice", "failed")
            return
        tell("ice", "connected")
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                data = await self.transport.receive()
                out(type="message", data=data.decode("latin1"))
                if self.echo:
                    with contextlib.suppress(LocalProtocolError):  # no path at the moment: a datagram may be lost
                        await self.transport.send(data)

    async def run(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self.converse)
            if self.offers:
                self.describe("offer")
                self.nursery.start_soon(self.trickle)
            await each_message(self.take)
            self.nursery.cancel_scope.cancel()
        self.transport.close()


async def each_message(take: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Bring what comes on standard input, until it says to close or ends."""
    buffer = b""
    async for chunk in trio.lowlevel.FdStream(0):
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["type"] == "close":
                return
            await take(message)


async def main() -> None:
    config = json.loads(sys.argv[1])
    async with open_node(node_config(config)) as node:
        adapter = (IceAdapter if config.get("ice_only") else Adapter)(config, node)
        tell("version", f"edgeice {edgeice.__version__}")  # now that all is imported
        await adapter.run()


if __name__ == "__main__":
    trio.run(main)
