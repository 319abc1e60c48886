"""The session's second road, over a real channel."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from edgeice.errors import DecodeError
from edgeice.signaling import AnswerReceived, Party, SessionId, SignalingSession
from edgeice.transport import NodeConfig, SignaledConnection, open_node


@attrs.define
class Signaling:
    """What a road tells its session."""

    channel_open: bool = False
    next_gen: int = 1
    ended: bool = False
    offers: list[str] = attrs.field(factory=list)

    def offer(self, sdp: str, **_when: float | None) -> None:
        self.offers.append(sdp)


def refuse(_text: str) -> None:
    raise AssertionError("nothing was sent here")


@pytest.mark.parametrize("closed_first", [False, True])
async def test_a_goodbye_still_goes_out_when_the_reader_was_canceled(closed_first: bool) -> None:
    config = NodeConfig.loopback_only()
    with trio.fail_after(10):
        async with open_node(config) as here, open_node(config) as there, trio.open_nursery() as nursery:
            a, b = here.connection(offerer=True), there.connection()
            a.accept_answer(b.accept_offer(a.create_offer()))
            machine = Signaling()
            signaled = SignaledConnection(cast("SignalingSession", machine), lambda: None, lambda: None)
            channel = await a.open_channel("signal")
            reader = await b.incoming.receive()
            nursery.start_soon(signaled.run_channel, channel, refuse)
            await trio.testing.wait_all_tasks_blocked()
            assert machine.channel_open
            if closed_first:
                await reader.aclose()
                while machine.channel_open:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                signaled.send_on_channel(b"bye")
                if not closed_first:
                    assert await reader.receive() == "bye"
            assert machine.channel_open is not closed_first


SESSION = SessionId(Party.device("home", "pi"), "kid", "sid")


@pytest.mark.parametrize("answer", ["", "nonsense", "v=0\r\n", "the present one"])
async def test_an_answer_to_a_restart_that_cannot_be_used_takes_the_restart_back(answer: str) -> None:
    config = NodeConfig.loopback_only()
    with trio.fail_after(10):
        async with open_node(config) as here, open_node(config) as there:
            a, b = here.connection(offerer=True), there.connection()
            present = b.accept_offer(a.create_offer())
            a.accept_answer(present)
            machine = Signaling()
            signaled = SignaledConnection(cast("SignalingSession", machine), lambda: None, lambda: None)
            signaled.attach(a)
            channel = await a.open_channel("echo")
            signaled.restart()
            assert len(machine.offers) == 1
            signaled.take(AnswerReceived(SESSION, 1, present if answer == "the present one" else answer))
            assert not a.awaits_answer
            assert signaled.drops()["signal.answer"] == 1
            await channel.send("still there")
            assert await (await b.incoming.receive()).receive() == "still there"
            signaled.restart()
            assert len(machine.offers) == 2


async def test_without_an_answer_to_the_first_offer_there_is_no_session() -> None:
    async with open_node(NodeConfig.loopback_only()) as node:
        signaled = SignaledConnection(cast("SignalingSession", Signaling()), lambda: None, lambda: None)
        signaled.attach(node.connection(offerer=True))
        signaled.describe_first()
        with pytest.raises(DecodeError):
            signaled.take(AnswerReceived(SESSION, 0, "nonsense"))
