"""aioice behind the adapter protocol (PROTOCOL.md)."""

import asyncio
import contextlib
import importlib.metadata
import json
import re
import sys
from typing import Any

import aioice

_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):(?P<host>\[[^]]+\]|[^:?]+)(?::(?P<port>\d+))?(?:\?transport=(?P<transport>\w+))?"
)


def out(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def tell(what: str, value: str) -> None:
    out(type="state", what=what, value=value)


def servers_of(config: dict[str, Any]) -> dict[str, Any]:
    """Say in the words of aioice where one STUN and one TURN server are."""
    found: dict[str, Any] = {}
    for server in config.get("ice_servers", []):
        match = _URL.fullmatch(server["urls"])
        assert match is not None, server
        secure = match["scheme"].endswith("s")
        address = match["host"].strip("[]"), int(match["port"] or (5349 if secure else 3478))
        if match["scheme"].startswith("stun"):
            found["stun_server"] = address
        else:
            transport = match["transport"] or ("tcp" if secure else "udp")
            found |= {"turn_server": address, "turn_transport": transport, "turn_ssl": secure}
            found |= {"turn_username": server["username"], "turn_password": server["credential"]}
    if config.get("policy", "all") == "relay":
        found["transport_policy"] = aioice.TransportPolicy.RELAY
    return found


def place(ip: str | None, port: int | None) -> str:
    assert ip is not None
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def pair_of(connection: aioice.Connection) -> str:
    """Say which pair carries data, in the words of PROTOCOL.md."""
    pair = connection._nominated[1]
    local, remote = pair.local_candidate, pair.remote_candidate
    # The base: a reflexive candidate stands for the socket that it was learned through.
    own = local.type in ("host", "relay")
    base = place(local.host, local.port) if own else place(local.related_address, local.related_port)
    return f"{local.type} {base} -> {remote.type} {place(remote.host, remote.port)}"


class Adapter:
    def __init__(self, config: dict[str, Any]) -> None:
        self.role: str = config["role"]
        self.echo: bool = config.get("echo", self.role == "answer")
        self.connection = aioice.Connection(ice_controlling=self.role == "offer", **servers_of(config))
        self.talk: asyncio.Task[None] | None = None

    def describe(self) -> None:
        connection = self.connection
        out(type=self.role, sdp=f"a=ice-ufrag:{connection.local_username}\r\na=ice-pwd:{connection.local_password}\r\n")
        for line in [f"candidate:{candidate.to_sdp()}" for candidate in connection.local_candidates] + [""]:
            out(type="candidate", candidate=line, sdpMid="0", sdpMLineIndex=0)

    async def converse(self) -> None:
        tell("ice", "checking")
        try:
            await self.connection.connect()
        except ConnectionError as error:
            tell("ice", "failed")
            out(type="error", value=str(error))
            return
        tell("ice", "connected")
        tell("selected", pair_of(self.connection))
        tell("nominated", pair_of(self.connection))
        with contextlib.suppress(ConnectionError):
            while True:
                data = await self.connection.recv()
                out(type="message", data=data.decode("latin1"))
                if self.echo:
                    await self.connection.send(data)

    async def add(self, line: str) -> None:
        candidate = aioice.Candidate.from_sdp(line.partition(":")[2]) if line else None
        await self.connection.add_remote_candidate(candidate)

    async def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "offer" | "answer":
                found = dict(re.findall(r"a=ice-(ufrag|pwd):(\S+)", message["sdp"]))
                self.connection.remote_username, self.connection.remote_password = found["ufrag"], found["pwd"]
                if self.role == "answer":
                    self.describe()
                for line in re.findall(r"a=(candidate:[^\r\n]*)", message["sdp"]):
                    await self.add(line)
                self.talk = asyncio.create_task(self.converse())
            case "candidate":
                await self.add(message["candidate"])
            case "message":
                await self.connection.send(message["data"].encode("latin1"))

    async def run(self) -> None:
        tell("version", f"aioice {importlib.metadata.version('aioice')}")
        await self.connection.gather_candidates()
        tell("gathering", "complete")
        if self.role == "offer":
            self.describe()
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            if message["type"] == "close":
                break
            await self.take(message)
        if self.talk is not None:
            self.talk.cancel()
        await self.connection.close()


if __name__ == "__main__":
    asyncio.run(Adapter(json.loads(sys.argv[1])).run())
