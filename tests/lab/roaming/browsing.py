"""The operator's process of `streaming.py`, with Chromium as the operator.

    python browsing.py CONFIG

The configuration is what `startStream` of `tests/interop/browser/stream.js` takes, as JSON; `argv` is given here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.lab.roaming.stream import Reader, record
from tests.lab.roaming.streaming import DRAIN, ECHO, next_order, say, watch_stream
from tests.support.chromium import Page, chromium_page

__all__: list[str] = []

_PAGE = Path(__file__).parents[2] / "interop" / "browser" / "operator.html"
#: Records at most: two minutes of them.
_COUNT = 12_000


class Stream:
    """What the browser says of its stream, in the monotonic clock's times."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._reader = Reader()
        #: The monotonic clock, seen from the wall clock.
        self._offset = time.monotonic() - time.time()
        self.sent: list[float] = []
        self.arrived: list[tuple[int, float]] = []
        self.events: list[dict[str, Any]] = []
        self.device: dict[str, Any] = {}
        self.streaming, self.ended = trio.Event(), trio.Event()

    async def receive(self) -> None:
        """Take what the page says."""
        async for message in self._page.messages:
            event = json.loads(message)
            event["monotonic"] = at = event.pop("at") + self._offset
            if event["name"] != "data":
                self.events.append(event)
                continue
            self._note_sent(event["sent"])
            data = base64.urlsafe_b64decode(event["data"] + "==")
            if event["stream"] == 1:
                self.arrived.extend((number, at) for number in self._reader.read(data))
                self.streaming.set()
            else:
                self._reader.end()
                self.device = json.loads(data)
                self.ended.set()

    def _note_sent(self, times: list[float]) -> None:
        self.sent += [at + self._offset for at in times]

    async def end(self) -> None:
        """Let the stream end."""
        self._note_sent(await self._page.call("endStream"))

    def report(self) -> dict[str, Any]:
        """All that was seen."""
        digest = hashlib.sha256(b"".join(map(record, range(len(self.sent))))).hexdigest()
        return {
            "sent": self.sent,
            "arrived": self.arrived,
            "stray": self._reader.stray,
            "digests": [digest, self.device.get("sha256"), self._reader.digest.hexdigest()],
            "whole": self.ended.is_set(),
            "events": self.events,
            "failures": [],
        }


async def _main(config: dict[str, Any]) -> None:
    config |= {"argv": [sys.executable, "-I", "-S", str(ECHO)], "count": _COUNT}
    async with chromium_page(_PAGE) as page, trio.open_nursery() as nursery:
        stream = Stream(page)
        nursery.start_soon(stream.receive)
        await page.call("startStream", config)
        await stream.streaming.wait()
        say({"streaming": True})
        await watch_stream(stream, **await next_order())
        with trio.move_on_after(DRAIN):
            await stream.end()
            await stream.ended.wait()
        say(stream.report())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, json.loads(sys.argv[1]))
