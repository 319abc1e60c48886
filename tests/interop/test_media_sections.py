"""Offers that begin with audio or video: data channels and ICE restarts work, whatever the bundle policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from edgeice.peer import RestartEnded
from edgeice.transport import NodeConfig, PeerConnection, Progress, open_node
from tests.support.chromium import BROWSER, Page, chromium_page

PAGE = Path(__file__).resolve().parent / "browser" / "operator.html"
PATIENCE = 30.0

SCRIPT = """
let pc, channel;
async function described(type, options) {
  await pc.setLocalDescription(type === "offer" ? await pc.createOffer(options) : await pc.createAnswer());
  while (pc.iceGatheringState !== "complete")
    await new Promise((done) => pc.addEventListener("icegatheringstatechange", done, { once: true }));
  return pc.localDescription.sdp;
}
window.begin = (policy, media) => {
  pc = new RTCPeerConnection({ bundlePolicy: policy });
  for (const kind of media) pc.addTransceiver(kind);
  channel = pc.createDataChannel("echo");
  return described("offer");
};
window.restart = () => described("offer", { iceRestart: true });
window.takeAnswer = (sdp) => pc.setRemoteDescription({ type: "answer", sdp });
window.takeOffer = (sdp) => pc.setRemoteDescription({ type: "offer", sdp }).then(() => described("answer"));
window.directions = () => pc.getTransceivers().map((each) => each.currentDirection);
window.echo = async (text) => {
  if (channel.readyState !== "open") await new Promise((done) => (channel.onopen = done));
  const answer = new Promise((done) => (channel.onmessage = ({ data }) => done(data)));
  channel.send(text);
  return answer;
};
"""


@asynccontextmanager
async def browser_and_peer() -> AsyncIterator[tuple[Page, PeerConnection, trio.MemoryReceiveChannel[bool]]]:
    """A page with the script, a connection that echoes, and how its restarts ended."""
    send, restarts = trio.open_memory_channel[bool](10)

    def watch(progress: Progress) -> None:
        if isinstance(progress, RestartEnded):
            send.send_nowait(progress.succeeded)

    async def serve(peer: PeerConnection) -> None:
        async for channel in peer.incoming:
            async for message in channel:
                await channel.send(message)

    with trio.fail_after(PATIENCE):
        async with (
            chromium_page(PAGE) as page,
            open_node(NodeConfig.loopback_only()) as node,
            trio.open_nursery() as nursery,
        ):
            await page.evaluate(SCRIPT)
            peer = node.connection(watch=watch)
            nursery.start_soon(serve, peer)
            yield page, peer, restarts
            nursery.cancel_scope.cancel()


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("policy", ["balanced", "max-compat", "max-bundle"])
@pytest.mark.parametrize("media", [["audio"], ["video", "audio"]], ids=" and ".join)
async def test_chromium_offers_media_first(policy: str, media: list[str]) -> None:
    async with browser_and_peer() as (page, peer, restarts):
        await page.call("takeAnswer", peer.accept_offer(await page.call("begin", policy, media)))
        assert await page.call("echo", "one") == "one"
        assert await page.call("directions") == ["inactive"]  # of a second one, which was rejected, nothing is left
        await page.call("takeAnswer", peer.accept_offer(await page.call("restart")))
        assert await restarts.receive()
        assert await page.call("echo", "two") == "two"
        peer.accept_answer(await page.call("takeOffer", peer.restart()))
        assert await restarts.receive()
        assert await page.call("echo", "three") == "three"
        assert await page.call("directions") == ["inactive"]
