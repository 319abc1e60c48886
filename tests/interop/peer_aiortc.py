"""aiortc behind the adapter protocol (PROTOCOL.md)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiortc
from aiortc.sdp import candidate_from_sdp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.interop.peer_aioice import pair_of  # only now is it on the path


def out(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class Adapter:
    def __init__(self, config: dict[str, Any]) -> None:
        self.role = config["role"]
        self.echo = config.get("echo", self.role == "answer")
        servers = [aiortc.RTCIceServer(**server) for server in config.get("ice_servers", [])]
        self.pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(servers))
        self.channel: Any = None
        self.described = False
        self.early: list[dict[str, Any]] = []
        self.pc.on("datachannel", self.use)
        self.pc.on("connectionstatechange", self.tell_connection)
        self.pc.on("iceconnectionstatechange", lambda: self.tell("ice", self.pc.iceConnectionState))

    def tell(self, what: str, value: str) -> None:
        out(type="state", what=what, value=value)

    def tell_connection(self) -> None:
        if self.pc.connectionState == "connected":
            assert self.pc.sctp is not None
            pair = pair_of(self.pc.sctp.transport.transport._connection)
            self.tell("selected", pair)
            self.tell("nominated", pair)
        self.tell("connection", self.pc.connectionState)

    def use(self, channel: Any) -> None:
        self.channel = channel
        channel.on("open", lambda: self.tell("channel", "open"))
        if channel.readyState == "open":
            self.tell("channel", "open")

        @channel.on("message")  # type: ignore[untyped-decorator]
        def on_message(data: str | bytes) -> None:
            out(type="message", data=data if isinstance(data, str) else data.decode("latin1"))
            if self.echo:
                channel.send(data)

    async def describe(self, kind: str) -> None:
        description = await (self.pc.createOffer() if kind == "offer" else self.pc.createAnswer())
        await self.pc.setLocalDescription(description)
        out(type=kind, sdp=self.pc.localDescription.sdp)
        out(type="candidate", candidate="", sdpMid="0", sdpMLineIndex=0)

    async def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "offer" | "answer":
                await self.pc.setRemoteDescription(aiortc.RTCSessionDescription(message["sdp"], message["type"]))
                self.described = True
                for held in self.early:
                    await self.add(held)
                self.early = []
                if message["type"] == "offer":
                    await self.describe("answer")
            case "candidate" if not self.described:
                self.early.append(message)
            case "candidate":
                await self.add(message)
            case "message":
                self.channel.send(message["data"])

    async def add(self, message: dict[str, Any]) -> None:
        if not message["candidate"]:
            await self.pc.addIceCandidate(None)
            return
        candidate = candidate_from_sdp(message["candidate"].split(":", 1)[1])
        candidate.sdpMid = message.get("sdpMid") or "0"
        candidate.sdpMLineIndex = message.get("sdpMLineIndex", 0)
        await self.pc.addIceCandidate(candidate)

    async def run(self) -> None:
        self.tell("version", f"aiortc {aiortc.__version__}")
        if self.role == "offer":
            self.use(self.pc.createDataChannel("echo"))
            await self.describe("offer")
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            if message["type"] == "close":
                break
            await self.take(message)
        await self.pc.close()


async def main() -> None:
    await Adapter(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    asyncio.run(main())
