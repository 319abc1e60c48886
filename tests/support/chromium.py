"""Headless Chromium driven over its debugging pipe, with nothing but Trio."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

__all__ = ["BROWSER", "Page", "chromium_page"]

BROWSER = shutil.which("chromium")

FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
#: Tests meet on loopback, where a browser gathers nothing by default, under addresses that are not hidden.
ON_LOOPBACK = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"]


class Page:
    """One tab.  `messages` carries what the page handed to `window.out(text)`."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read = trio.lowlevel.FdStream(read_fd)
        self._write = trio.lowlevel.FdStream(write_fd)
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[trio.Event, dict[str, Any]]] = {}
        self._session: str | None = None
        self._loaded = trio.Event()
        self._send_message, self.messages = trio.open_memory_channel[str](1000)
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Read what the browser says until it ends."""
        buffer = bytearray()
        async with self._read:
            async for chunk in self._read:
                buffer += chunk
                *whole, rest = bytes(buffer).split(b"\0")
                buffer = bytearray(rest)
                for text in whole:
                    self._take(json.loads(text))
        self._send_message.close()

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one DevTools command and wait for its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        slot: tuple[trio.Event, dict[str, Any]] = (trio.Event(), {})
        self._waiting[number] = slot
        async with self._lock:
            await self._write.send_all(json.dumps(message).encode() + b"\0")
        await slot[0].wait()
        if "error" in slot[1]:
            raise RuntimeError(f"{method}: {slot[1]['error']}")
        result = slot[1]["result"]
        assert isinstance(result, dict)
        return result

    async def attach(self, url: str) -> None:
        """Open a tab on `url` and wait until it is loaded."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self.command("Page.enable")
        await self.command("Runtime.enable")
        await self.command("Runtime.addBinding", name="out")
        await self.command("Page.navigate", url=url)
        await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """Run JavaScript; a promise is awaited, an exception raised."""
        result = await self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    async def call(self, function: str, *args: Any) -> Any:
        """Call a global JavaScript function with JSON arguments."""
        return await self.evaluate(f"{function}({', '.join(json.dumps(arg) for arg in args)})")

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            event, result = self._waiting.pop(message["id"])
            result.update(message)
            event.set()
        elif message["method"] == "Page.loadEventFired":
            self._loaded.set()
        elif message["method"] == "Runtime.bindingCalled":
            self._send_message.send_nowait(message["params"]["payload"])


@asynccontextmanager
async def chromium_page(path: Path, *, hidden: bool = False) -> AsyncIterator[Page]:
    """A headless browser with one tab on a local file.

    Args:
        path: The file.
        hidden: Whether it hides its addresses behind names in `.local`, as browsers do by default.
    """
    if BROWSER is None:
        raise RuntimeError("chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="edgeice-chromium-", ignore_cleanup_errors=True) as profile:
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()
        flags = [*FLAGS, *([] if hidden else ON_LOOPBACK), f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        # The pipe has to stand on descriptors 3 and 4, and bash can put it there.
        command = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", BROWSER, *flags]
        process = await trio.lowlevel.open_process(
            command,
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        page = Page(ours_in, ours_out)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(page.run)
                await page.attach(path.as_uri())
                yield page
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await page._write.aclose()
                with trio.move_on_after(5):
                    await process.wait()
                if process.poll() is None:
                    process.kill()
                    await process.wait()
