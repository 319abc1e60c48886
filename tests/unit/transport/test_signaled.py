"""The session's second road, over a real channel."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from edgeice.signaling import SignalingSession
from edgeice.transport import NodeConfig, SignaledConnection, open_node


@attrs.define
class Signaling:
    """The one thing that a road tells its session."""

    channel_open: bool = False


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
