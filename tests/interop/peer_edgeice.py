"""edgeice behind the adapter protocol (PROTOCOL.md)."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgeice  # only now is it on the path
from edgeice import sdp
from edgeice.peer import CandidateGathered, CandidatesEnded, PathChanged, StateChanged
from edgeice.transport import ConnectionFailedError, DataChannel, Node, NodeConfig, Progress, open_node


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
        case PathChanged(path=None):
            tell("selected", "")
        case PathChanged(path=path):
            assert path is not None
            tell("selected", f"{progress.local_type} {path.local} -> {progress.remote_type} {path.remote}")


def node_config(config: dict[str, Any]) -> NodeConfig:
    if config.get("policy", "all") != "all":
        raise SystemExit("edgeice has no relayed candidates")
    if config.get("loopback"):
        return NodeConfig.loopback_only()
    urls: list[str] = []
    for server in config.get("ice_servers", []):
        urls += [server["urls"]] if isinstance(server["urls"], str) else server["urls"]
    return NodeConfig(stun=tuple(url for url in urls if url.startswith("stun:")))


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

    async def take_input(self) -> None:
        buffer = b""
        async for chunk in trio.lowlevel.FdStream(0):
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["type"] == "close":
                    return
                await self.take(message)

    async def run(self) -> None:
        tell("version", f"edgeice {edgeice.__version__}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.use_channel)
            if self.offers:
                out(type="offer", sdp=self.peer.create_offer())
            await self.take_input()
            nursery.cancel_scope.cancel()
        await self.peer.aclose()


async def main() -> None:
    config = json.loads(sys.argv[1])
    async with open_node(node_config(config)) as node:
        await Adapter(config, node).run()


if __name__ == "__main__":
    trio.run(main)
