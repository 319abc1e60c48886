"""Headless Chromium behind the adapter protocol (PROTOCOL.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.chromium import Page, chromium_page  # noqa: E402  # only now is it on the path


async def forward_output(page: Page) -> None:
    async for line in page.messages:
        print(line, flush=True)


async def main() -> None:
    config = json.loads(sys.argv[1])
    hidden = config.get("hidden", False)
    async with (
        chromium_page(HERE / "browser" / "operator.html", hidden=hidden) as page,
        trio.open_nursery() as nursery,
    ):
        version = (await page.command("Browser.getVersion"))["product"]
        print(json.dumps({"type": "state", "what": "version", "value": version}), flush=True)
        nursery.start_soon(forward_output, page)
        await page.call("startAdapter", config)
        buffer = b""
        stdin = trio.lowlevel.FdStream(0)
        async for chunk in stdin:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["type"] == "close":
                    nursery.cancel_scope.cancel()
                    return
                await page.call("input", message)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
