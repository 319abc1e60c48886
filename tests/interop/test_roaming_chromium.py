"""Chromium at the other end while this host's addresses come and go: restarts are offered to it, and taken from it."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest
import trio

from edgeice.ice import IceConfig
from edgeice.peer import PathMoved
from edgeice.signaling import AnswerReceived, OfferReceived, Party, SessionId
from edgeice.transport import (
    Node,
    NodeConfig,
    PathRecovery,
    PeerConnection,
    Progress,
    RestartOffered,
    SignaledConnection,
    Trouble,
    open_node,
)
from edgeice.transport.restarts import Need
from tests.interop.test_media_sections import PAGE, SCRIPT
from tests.support.chromium import BROWSER, Page, chromium_page

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
]

PATIENCE = 40.0
#: A message each 20 ms; gives how many there were, whether all came back in order, and the longest silence.
STREAM = """
window.stream = async (seconds) => {
  const end = performance.now() + seconds * 1000;
  let sent = 0, back = 0, ordered = true, last = performance.now(), longest = 0;
  channel.onmessage = ({ data }) => {
    ordered = ordered && data === String(back++);
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  };
  while (performance.now() < end) {
    channel.send(String(sent++));
    await new Promise((done) => setTimeout(done, 20));
  }
  while (back < sent) await new Promise((done) => setTimeout(done, 20));
  return { sent, ordered, longest };
};
window.lead = async () => { pc.restartIce(); return described("offer"); };
"""
SESSION = SessionId(Party.device("home", "pi"), "kid", "sid")


@attrs.define(eq=False)
class Device:
    """The end that answers: what a device has of a session, with the page in the place of its signaling."""

    page: Page
    node: Node
    nursery: trio.Nursery
    id: SessionId = SESSION
    troubles: list[Trouble] = attrs.field(factory=list)
    moves: list[PathMoved] = attrs.field(factory=list)
    peer: PeerConnection = attrs.field(init=False)
    recovery: PathRecovery = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.peer = self.node.connection(watch=self._watch)
        self.recovery = PathRecovery(cast("SignaledConnection", self), self.node, self.troubles.append, offerer=False)
        self.nursery.start_soon(self._serve)

    @property
    def session(self) -> Device:
        return self

    async def begin(self) -> None:
        """Open the session."""
        await self.page.evaluate(SCRIPT + STREAM)
        answer = self.peer.accept_offer(await self.page.call("begin", "balanced", []))
        await self.page.call("takeAnswer", answer)
        assert await self.page.call("echo", "one") == "one"
        self.nursery.start_soon(self.recovery.run)

    def restart(self) -> None:
        """As `SignaledConnection` does."""
        self.nursery.start_soon(self._offer, self.peer.restart())

    async def _offer(self, offer: str) -> None:
        self.peer.accept_answer(await self.page.call("takeOffer", offer))
        self.recovery.take(AnswerReceived(SESSION, 1, ""))

    async def take_restart(self) -> None:
        """Answer a restart that the page begins."""
        offer = await self.page.call("lead")
        answer = self.peer.accept_offer(offer)
        self.recovery.take(OfferReceived(SESSION, 1, "", ()))
        await self.page.call("takeAnswer", answer)

    def have(self, *addresses: str) -> None:
        """The host has these addresses from now on."""
        self.node.reconfigure(config_of(*addresses))

    def _watch(self, progress: Progress) -> None:
        self.recovery.watch(progress)
        if isinstance(progress, PathMoved):
            self.moves.append(progress)

    async def _serve(self) -> None:
        async for channel in self.peer.incoming:
            async for message in channel:
                await channel.send(message)


def config_of(*addresses: str) -> NodeConfig:
    return NodeConfig(loopback=addresses, interfaces=False, ice=IceConfig(allow_loopback=True))


async def test_an_address_that_goes_is_answered_with_one_restart_and_nothing_is_lost() -> None:
    with trio.fail_after(PATIENCE):
        async with (
            chromium_page(PAGE) as page,
            open_node(config_of("127.0.0.1", "127.0.0.2")) as node,
            trio.open_nursery() as nursery,
        ):
            device = Device(page, node, nursery)
            await device.begin()
            await trio.sleep(4)  # the pairs that were not taken are released by then
            result: dict[str, Any] = {}

            async def stream() -> None:
                result.update(await page.call("stream", 8))

            async with trio.open_nursery() as streaming:
                streaming.start_soon(stream)
                await trio.sleep(2)
                path = device.peer.path.path
                assert path is not None
                left = {"127.0.0.1", "127.0.0.2"} - {path.local.ip}
                device.have(*left)
            needs = [each.need for each in device.troubles if isinstance(each, RestartOffered)]
            assert needs in ([Need.LOST], [Need.BASE_GONE])
            assert [move.cause for move in device.moves] == ["base_gone"]
            assert result["ordered"]
            assert result["sent"] > 100
            print(f"longest silence {result['longest']:.0f} ms, pause {device.moves[0].pause * 1000:.0f} ms")
            nursery.cancel_scope.cancel()


async def test_the_browser_restarts_ice_itself_after_the_address_changed() -> None:
    """Both may have begun: one of them carries the session, and the browser's `restartIce()` is answered."""
    with trio.fail_after(PATIENCE):
        async with (
            chromium_page(PAGE) as page,
            open_node(config_of("127.0.0.1")) as node,
            trio.open_nursery() as nursery,
        ):
            device = Device(page, node, nursery)
            await device.begin()
            await device.take_restart()
            assert await page.call("echo", "two") == "two"
            await trio.sleep(2)
            # Its new ports, without a pause: the old path works until the new one does.
            assert {(move.cause, move.pause) for move in device.moves} <= {("restart", 0.0)}
            # No network for a while, and another address then.
            device.have()
            await trio.sleep(1)
            device.have("127.0.0.2")
            assert await page.call("echo", "three") == "three"
            needs = [each.need for each in device.troubles if isinstance(each, RestartOffered)]
            assert needs == [Need.LOST]
            await device.take_restart()
            assert await page.call("echo", "four") == "four"
            nursery.cancel_scope.cancel()
