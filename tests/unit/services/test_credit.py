from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edgeice.services.control import ErrorCode, PeerError, ServiceError
from edgeice.services.credit import CreditedChannel, Inbox, ReceiveCredit, SendCredit
from tests.support.channels import channel_pair

KIB = 1024


def test_receive_credit_bounds_what_is_held_and_grants_before_64_kib() -> None:
    credit = ReceiveCredit()
    for _ in range(16):
        credit.spend(16 * KIB)
    with pytest.raises(ServiceError) as caught:
        credit.spend(1)
    assert caught.value.code is ErrorCode.LIMIT
    granted, ungranted = 0, 0
    for _ in range(256):
        increment = credit.consume(KIB)
        granted, ungranted = granted + increment, ungranted + KIB - increment
        assert ungranted < 64 * KIB
    assert granted == 256 * KIB
    credit.spend(granted)


async def test_send_credit_waits_and_is_spent_in_parts() -> None:
    credit = SendCredit(10)
    assert await credit.take(6) == 6
    assert await credit.take(6) == 4
    taken: list[int] = []

    async def taker() -> None:
        taken.append(await credit.take(100, at_least=3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taker)
        await wait_all_tasks_blocked()
        credit.grant(2)
        await wait_all_tasks_blocked()
        assert taken == []
        credit.grant(5)
    assert taken == [7]


async def test_closed_send_credit_wakes_who_waits() -> None:
    credit = SendCredit(0)

    async def taker() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await credit.take(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taker)
        await wait_all_tasks_blocked()
        credit.close()


async def test_inbox_keeps_order_merges_and_accounts() -> None:
    inbox = Inbox()
    inbox.put(1, b"ab", overhead=1)
    inbox.put(1, b"cd", overhead=1)
    inbox.put(2, b"", overhead=1)
    inbox.put(1, b"efg", overhead=1)
    assert inbox.size == 7
    inbox.close()
    items = [await inbox.get(3) for _ in range(5)]
    assert items == [(1, b"abc", 5), (1, b"d", 1), (2, b"", 1), (1, b"efg", 4), None]
    assert inbox.size == 0


async def test_data_is_cut_into_messages_and_waits_for_credit() -> None:
    near, far = channel_pair("x", limit=1 << 20, log=True)
    sender, receiver = CreditedChannel(near), CreditedChannel(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_data, b"x" * 300 * KIB, b"\1")
        await wait_all_tasks_blocked()
        assert near.sent is not None
        assert [len(message) for message in near.sent] == [16 * KIB] * 16
        assert sender.sending.available == 0
        held = [await receiver.receive() for _ in range(16)]
        assert all(message[:1] == b"\1" for message in held if isinstance(message, bytes))
        await receiver.consumed(32 * KIB - 1)
        assert far.sent == []
        await receiver.consumed(32 * KIB + 1)
        assert far.sent == ['{"credit":65536}']
        nursery.start_soon(sender.receive)
        await wait_all_tasks_blocked()
        assert sum(len(message) - 1 for message in near.sent) == 300 * KIB
        nursery.cancel_scope.cancel()


async def test_more_bytes_than_credit_or_than_a_message_holds_is_limit() -> None:
    near, far = channel_pair("x", limit=1 << 20)
    link = CreditedChannel(far)
    for _ in range(16):
        await near.send(bytes(16 * KIB))
        await link.receive()
    await near.send(b"x")
    with pytest.raises(ServiceError, match="more bytes than credit"):
        await link.receive()
    await near.send(bytes(16 * KIB + 1))
    with pytest.raises(ServiceError, match="16384"):
        await link.receive()


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", '{"credit":0}', '{"credit":-5}', '{"credit":true}', '{"credit":1e3}', '{"error":1}']
)
async def test_malformed_control_messages(text: str) -> None:
    near, far = channel_pair("x")
    await near.send(text)
    with pytest.raises(ServiceError) as caught:
        await CreditedChannel(far).receive()
    assert caught.value.code is ErrorCode.MALFORMED
    assert not isinstance(caught.value, PeerError)
