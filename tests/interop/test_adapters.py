"""Any two peers opposite each other by their adapters (PROTOCOL.md): offer, answer, candidates, ten echoes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeice.net import InterfaceMonitor, InterfacePolicy, usable_addresses
from tests.support.chromium import BROWSER

HERE = Path(__file__).resolve().parent
PATIENCE = 30.0
MESSAGES = [f"message {number}" for number in range(10)]

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@attrs.define
class Peer:
    """One adapter's process, and what it has said."""

    name: str
    process: trio.Process
    #: Offers, answers and candidates go here: the other peer's process.
    other: trio.Process | None = None
    opened: trio.Event = attrs.field(factory=trio.Event)
    states: dict[str, list[str]] = attrs.field(factory=dict)
    errors: list[str] = attrs.field(factory=list)
    received: list[str] = attrs.field(factory=list)
    wanted: int = len(MESSAGES)
    #: The other one is not told its candidates.
    reticent: bool = False
    done: trio.Event = attrs.field(factory=trio.Event)
    #: Its descriptions and candidates.
    said: list[str] = attrs.field(factory=list)

    async def say(self, **message: Any) -> None:
        await write(self.process, json.dumps(message).encode())

    async def read(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for chunk in self.process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                await self.take(json.loads(line), line)

    async def take(self, message: dict[str, Any], line: bytes) -> None:
        match message["type"]:
            case "offer" | "answer" | "candidate":
                assert self.other is not None
                self.said.append(message.get("candidate", message.get("sdp", "")))
                if self.reticent:
                    line = without_candidates(message)
                await write(self.other, line)
            case "state":
                self.states.setdefault(message["what"], []).append(message["value"])
                if (message["what"], message["value"]) == ("channel", "open"):
                    self.opened.set()
            case "message":
                self.received.append(message["data"])
                if len(self.received) == self.wanted:
                    self.done.set()
            case "error":
                self.errors.append(message["value"])


async def write(process: trio.Process, line: bytes) -> None:
    assert process.stdin is not None
    await process.stdin.send_all(line + b"\n")


def without_candidates(message: dict[str, Any]) -> bytes:
    if message["type"] == "candidate":
        message["candidate"] = ""
    else:
        message["sdp"] = re.sub("a=candidate:.*\r\n", "", message["sdp"])
    return json.dumps(message).encode()


@asynccontextmanager
async def adapter(name: str, **config: Any) -> AsyncIterator[Peer]:
    command = [sys.executable, str(HERE / f"peer_{name}.py"), json.dumps(config)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Peer(name, process)
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def connected(
    offerer: str, answerer: str, *, reticent: str = "", **config: Any
) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two adapters joined to each other, with the channel open on both sides."""
    async with (
        adapter(offerer, role="offer", **config) as a,
        adapter(answerer, role="answer", **config) as b,
        trio.open_nursery() as nursery,
    ):
        a.other, b.other = b.process, a.process
        for peer in (a, b):
            peer.reticent = peer.name == reticent
        nursery.start_soon(a.read)
        nursery.start_soon(b.read)
        with trio.move_on_after(PATIENCE) as scope:
            await a.opened.wait()
            await b.opened.wait()
        assert not scope.cancelled_caught, f"no channel: {a} {b}"
        yield a, b
        nursery.cancel_scope.cancel()


async def need(*names: str) -> bool:
    """Skip what cannot run here; says whether the peers can meet on loopback."""
    if "chromium" in names and BROWSER is None:
        pytest.skip("chromium is not installed")
    if "aiortc" not in names:
        return True
    await need_address("aiortc gathers no loopback candidates")
    return False


async def need_address(why: str) -> None:
    with InterfaceMonitor() as monitor:
        if not usable_addresses(monitor.read(), InterfacePolicy()):
            pytest.skip(f"{why}, and this host has no other address")


@pytest.mark.parametrize(
    ("offerer", "answerer"),
    [
        ("edgeice", "edgeice"),
        ("edgeice", "aiortc"),
        ("aiortc", "edgeice"),
        ("edgeice", "chromium"),
        ("chromium", "edgeice"),
    ],
)
async def test_ten_messages_are_echoed(offerer: str, answerer: str) -> None:
    loopback = await need(offerer, answerer)
    async with connected(offerer, answerer, loopback=loopback) as (a, b):
        for text in MESSAGES:
            await a.say(type="message", data=text)
        with trio.fail_after(PATIENCE):
            await a.done.wait()
            await b.done.wait()  # its pipe may be read later than the echoes
        assert (a.received, b.received) == (MESSAGES, MESSAGES)
        assert (a.errors, b.errors) == ([], [])
        assert [len(peer.states["version"]) for peer in (a, b)] == [1, 1]
        for peer in (a, b):
            await peer.say(type="close")
        with trio.fail_after(PATIENCE):
            assert (await a.process.wait(), await b.process.wait()) == (0, 0)


@pytest.mark.parametrize(("offerer", "answerer"), [("edgeice", "chromium"), ("chromium", "edgeice")])
@pytest.mark.parametrize(
    ("reticent", "look_up", "kinds"),
    [("", True, {"host", "prflx"}), ("edgeice", True, {"host"}), ("", False, {"prflx"})],
    ids=["told", "untold", "not looked up"],
)
async def test_mdns_03_a_browser_that_hides_its_addresses_is_found(
    offerer: str, answerer: str, reticent: str, *, look_up: bool, kinds: set[str]
) -> None:
    """Known by its name or by its checks; untold of edgeice's candidates it makes none."""
    await need("chromium")
    await need_address("a browser hides no loopback address")
    async with connected(offerer, answerer, hidden=True, look_up=look_up, reticent=reticent) as (a, b):
        edgeice, chromium = (a, b) if offerer == "edgeice" else (b, a)
        named = re.findall(r"candidate:\S+ 1 udp \S+ (\S+) ", "\n".join(chromium.said))
        assert named
        assert all(name.endswith(".local") for name in named)
        a.wanted = 1
        await a.say(type="message", data=MESSAGES[0])
        with trio.fail_after(PATIENCE):
            await a.done.wait()
        assert a.received == [MESSAGES[0]]
        assert (a.errors, b.errors) == ([], [])
        assert {said.split()[3] for said in edgeice.states["selected"] if said} <= kinds


@pytest.mark.parametrize("role", ["offer", "answer"])
async def test_the_end_of_one_edgeice_is_seen_by_the_other(role: str) -> None:
    async with connected("edgeice", "edgeice", loopback=True) as (a, b):
        leaver, stayer = (a, b) if role == "offer" else (b, a)
        await leaver.say(type="close")
        with trio.fail_after(PATIENCE):
            assert await leaver.process.wait() == 0
            while "closed" not in stayer.states["connection"]:  # noqa: ASYNC110  # told by another process
                await trio.sleep(0.01)
