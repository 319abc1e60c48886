"""Data channels between two real transports on the loopback address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from edgeice.peer import ConnectionEnded
from edgeice.sctp.streams import OutMessage
from edgeice.transport import DataChannel, NodeConfig, PeerConnection, open_node
from edgeice.transport.channel import HIGH_WATER
from tests.unit.sctp.link import data_chunk, forge

MESSAGES = [Random(9).randbytes(16_000) for _ in range(400)]
WINDOW = 1 << 20


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[PeerConnection, PeerConnection]]:
    """Two connections that data channels work on, each at a node of its own."""
    loopback = NodeConfig.loopback_only()
    with trio.fail_after(30):
        async with open_node(loopback) as here, open_node(loopback) as there:
            a, b = here.connection(offerer=True), there.connection()
            a.accept_answer(b.accept_offer(a.create_offer()))
            await a.wait_connected()
            await b.wait_connected()
            yield a, b


async def open_pair(a: PeerConnection, b: PeerConnection) -> tuple[DataChannel, DataChannel]:
    """Both ends of a new channel."""
    channel = await a.open_channel("test")
    return channel, await b.incoming.receive()


async def until(condition: Callable[[], object]) -> None:
    """Let the transports work until something holds."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def window_closed(receiver: PeerConnection) -> None:
    """Wait until the receiver had to refuse the sender's probe, as its window is full."""
    refused = receiver.drops().get("sctp.window", 0)
    await until(lambda: receiver.drops().get("sctp.window", 0) > refused)


async def send_all(channel: DataChannel, sent: list[bytes]) -> None:
    for message in MESSAGES:
        await channel.send(message)
        sent.append(message)


@pytest.mark.slow
async def test_a_reader_that_stops_stops_its_sender_and_nothing_is_lost(nursery: trio.Nursery) -> None:
    async with connected() as (a, b):
        sender, receiver = await open_pair(a, b)
        bystander, other = await open_pair(a, b)
        sent: list[bytes] = []
        nursery.start_soon(send_all, sender, sent)
        await window_closed(b)
        await bystander.send("behind the same window")
        await window_closed(b)
        held = sum(charge for _, charge in receiver._inbox)
        assert WINDOW - 16_064 < held <= WINDOW
        assert len(sent) * 16_000 <= held + HIGH_WATER + 2 * 16_000
        assert not other._inbox
        assert [await receiver.receive() for _ in MESSAGES] == MESSAGES
        assert await other.receive() == "behind the same window"
        assert sent == MESSAGES


@pytest.mark.slow
async def test_closing_an_unread_channel_opens_the_window_for_the_others(nursery: trio.Nursery) -> None:
    async with connected() as (a, b):
        sender, unread = await open_pair(a, b)
        bystander, other = await open_pair(a, b)

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await send_all(sender, [])

        nursery.start_soon(flood)
        await window_closed(b)
        await bystander.send("through")
        await unread.aclose()
        assert await other.receive() == "through"
        with pytest.raises(trio.ClosedResourceError):
            await unread.receive()


@pytest.mark.slow
async def test_a_channel_that_the_peer_closed_holds_its_window_until_it_is_closed_here_too() -> None:
    async with connected() as (a, b):
        sender, unread = await open_pair(a, b)
        for message in MESSAGES[:60]:
            await sender.send(message)
        await sender.aclose()
        await until(lambda: unread.closed)
        assert await unread.receive() == MESSAGES[0]
        window = b._connection.channels._association._receiver
        assert window.used == 59 * 16_064
        await unread.aclose()
        assert window.used == 0
        with pytest.raises(trio.ClosedResourceError):
            await unread.receive()


@pytest.mark.parametrize("end", ["abort", "aclose"])
async def test_a_clean_end_is_the_end_of_the_channels_on_both_sides(end: str) -> None:
    async with connected() as (a, b):
        ours, theirs = await open_pair(a, b)
        await ours.send("one")
        await theirs.send("two")
        await until(lambda: ours._inbox and theirs._inbox)
        if end == "abort":
            a.abort()
        else:
            await a.aclose()
        assert not (await b.wait_closed()).broken
        for channel, last in ((theirs, "one"), (ours, "two")):
            assert [message async for message in channel] == [last]
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            with pytest.raises(trio.BrokenResourceError, match="closed"):
                await channel.send("too late")
        assert [channel async for channel in b.incoming] == []


async def test_a_broken_session_breaks_its_channels_and_says_why() -> None:
    async with connected() as (a, b):
        ours, theirs = await open_pair(a, b)
        await ours.send("one")
        await until(lambda: theirs._inbox)
        packet = forge(b._connection.channels, data_chunk(1, b""))
        assert a._connection._dtls is not None
        a._connection._dtls.send(packet, now=trio.current_time())
        a._connection.flush(now=trio.current_time())
        a._touch()
        assert await b.wait_closed() == ConnectionEnded("sctp", "DATA without data")
        assert await theirs.receive() == "one"
        with pytest.raises(trio.BrokenResourceError, match="DATA without data"):
            await theirs.receive()
        assert (await a.wait_closed()).broken
        with pytest.raises(trio.BrokenResourceError, match="peer saw an error"):
            await ours.receive()


async def test_a_message_that_breaks_the_rules_breaks_its_channel_alone() -> None:
    async with connected() as (a, b):
        ours, theirs = await open_pair(a, b)
        other, others_end = await open_pair(a, b)
        association = a._connection.channels._association
        unknown = OutMessage(association.queue.stream(ours.channel_id), 99, b"x")
        association.send(unknown, now=trio.current_time())
        await other.send("still here")
        with pytest.raises(trio.BrokenResourceError, match="invalid message"):
            await theirs.receive()
        with pytest.raises(trio.EndOfChannel):
            await ours.receive()
        assert await others_end.receive() == "still here"
