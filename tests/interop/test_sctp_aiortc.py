"""SCTP and data channels against aiortc's, in one process and without DTLS between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities

from edgeice.sansio import Entropy, Event
from edgeice.sctp import ChannelClosed, ChannelOpened, DataChannels, MessageReceived

pytestmark = pytest.mark.interop


class Wire:
    """What aiortc takes for its DTLS transport: packets go straight to our machine and back."""

    state = "connected"

    def __init__(self, role: Literal["client", "server"], lose: Callable[[int], bool] = lambda _number: False) -> None:
        self._role = "server" if role == "client" else "client"
        self.ours = DataChannels(role, entropy=Entropy.seeded(4))
        self.events: list[Event] = []
        self._lose = lose
        self._count = 0
        self._receiver: Any = None
        self.theirs = RTCSctpTransport(self)  # type: ignore[arg-type]

    def _register_data_receiver(self, receiver: object) -> None:
        self._receiver = receiver

    def _unregister_data_receiver(self, _receiver: object) -> None:
        self._receiver = None

    async def _send_data(self, data: bytes) -> None:
        if not self._lost():
            self.ours.receive_packets([bytes(data)], now=self.now)

    def _lost(self) -> bool:
        self._count += 1
        return self._lose(self._count)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, condition: Callable[[], object]) -> None:
        """Carry packets until something holds; at most ten seconds."""
        async with asyncio.timeout(10):
            while not condition():
                await self.step()

    async def step(self) -> None:
        due = self.ours.next_timeout()
        if due is not None and due <= self.now:
            self.ours.handle_timeout(now=self.now)
        while (packet := self.ours.poll_transmit()) is not None:
            if self._receiver is not None and not self._lost():
                await self._receiver._handle_data(packet)
        while (event := self.ours.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, MessageReceived):
                self.ours.consumed(event.charge, now=self.now)
        await asyncio.sleep(0)

    async def start(self) -> None:
        self.ours.start(now=self.now)
        await self.theirs.start(RTCSctpCapabilities(maxMessageSize=262_144), 5000)
        await self.until(lambda: self.ours.established and self.theirs.state == "connected")

    def received(self) -> list[bytes | str]:
        return [event.data for event in self.events if isinstance(event, MessageReceived)]


def run(wire_of: Callable[[], Wire], test: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        wire = wire_of()
        await wire.start()
        await test(wire)
        wire.ours.abort("over", now=wire.now)
        await wire.step()
        await wire.theirs.stop()

    asyncio.run(main())


MESSAGES: list[bytes | str] = ["", b"", "text é", bytes(1), bytes(1172), bytes(range(256)) * 256]


@pytest.mark.parametrize("role", ["client", "server"])
def test_dc_04_channel_that_we_open(role: Literal["client", "server"]) -> None:
    async def test(wire: Wire) -> None:
        theirs: list[RTCDataChannel] = []
        got: list[bytes | str] = []

        def on_channel(channel: RTCDataChannel) -> None:
            theirs.append(channel)
            channel.on("message", got.append)

        wire.theirs.on("datachannel", on_channel)
        channel = wire.ours.open("label", "proto", now=wire.now)
        for message in MESSAGES:
            wire.ours.send(channel, message, now=wire.now)
        await wire.until(lambda: len(got) == len(MESSAGES))
        assert got == MESSAGES
        assert (theirs[0].label, theirs[0].protocol, theirs[0].id) == ("label", "proto", channel)
        for message in MESSAGES:
            theirs[0].send(message)
        await wire.until(lambda: len(wire.received()) == len(MESSAGES))
        assert wire.received() == MESSAGES
        wire.ours.close_channel(channel, now=wire.now)
        await wire.until(lambda: any(isinstance(event, ChannelClosed) for event in wire.events))
        assert theirs[0].readyState == "closed"
        assert wire.ours.open("again", now=wire.now) == channel

    run(lambda: Wire(role), test)


@pytest.mark.parametrize("role", ["client", "server"])
def test_dc_05_channel_that_aiortc_opens_and_closes(role: Literal["client", "server"]) -> None:
    async def test(wire: Wire) -> None:
        theirs = RTCDataChannel(wire.theirs, RTCDataChannelParameters(label="l", protocol="p", ordered=False))
        await wire.until(lambda: theirs.readyState == "open")
        opened = next(event for event in wire.events if isinstance(event, ChannelOpened))
        assert opened == ChannelOpened(opened.channel_id, "l", "p", False, True)
        assert opened.channel_id % 2 == (1 if role == "client" else 0)
        theirs.send("hello")
        await wire.until(lambda: wire.received() == ["hello"])
        theirs.close()
        await wire.until(lambda: theirs.readyState == "closed")
        assert [event for event in wire.events if isinstance(event, ChannelClosed)] == [
            ChannelClosed(opened.channel_id, "closed by peer")
        ]

    run(lambda: Wire(role), test)


def test_sctp_11_bulk_both_ways_over_a_lossy_wire() -> None:
    data = [bytes((n,)) * 16_000 for n in range(40)]

    async def test(wire: Wire) -> None:
        got: list[bytes] = []
        theirs: list[RTCDataChannel] = []

        def on_channel(channel: RTCDataChannel) -> None:
            theirs.append(channel)
            channel.on("message", got.append)

        wire.theirs.on("datachannel", on_channel)
        channel = wire.ours.open("bulk", now=wire.now)
        await wire.until(lambda: theirs)
        for each in data:
            wire.ours.send(channel, each, now=wire.now)
            theirs[0].send(each)
        await wire.until(lambda: len(got) == len(data) == len(wire.received()))
        assert got == data == wire.received()

    run(lambda: Wire("client", lambda number: number % 83 == 82), test)


def test_sctp_16_unreliable_channel_skips() -> None:
    async def test(wire: Wire) -> None:
        got: list[str] = []
        wire.theirs.on("datachannel", lambda channel: channel.on("message", got.append))
        channel = wire.ours.open("l", max_retransmits=0, now=wire.now)
        await wire.until(lambda: any(isinstance(event, ChannelOpened) for event in wire.events))
        wire._lose = lambda _number: True
        wire.ours.send(channel, "lost", now=wire.now)
        await wire.step()
        wire._lose = lambda _number: False
        wire.ours.send(channel, "kept", now=wire.now)
        await wire.until(lambda: got)
        assert got == ["kept"]

    run(lambda: Wire("client"), test)
