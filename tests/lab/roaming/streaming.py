"""An operator's process: opens a session and has a numbered stream returned by the device, 100 records a second.

    python streaming.py CONFIG DEVICE_KEY TRACE

Each line on standard output is a JSON object: `{"streaming": true}` once the first record is back.  A line on standard
input, `{"struck_at": T, "until": T, "patience": SECONDS}` with times of the monotonic clock, says when the network was
harmed; the stream goes on until then and until a record that was sent later is back, but no longer than the patience.
Then the stream is ended, and all that was seen of it is the last line.  What the session traces goes to a file, with
the monotonic time of each entry.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import trio

__all__ = ["DRAIN", "ECHO", "Seen", "next_order", "say", "watch_stream"]

sys.path.insert(0, str(Path(__file__).parents[3]))

from edgeice.operator.config import load_config
from edgeice.operator.errors import OperatorError
from edgeice.operator.interface import Step
from edgeice.operator.session import Session, open_session
from edgeice.services import EXEC_PROTOCOL, STDOUT, ExecClient, ServiceError, open_exec
from edgeice.signaling import Party, PrivateKey, PublicKey
from edgeice.trace import Record, entry_of
from tests.lab.roaming.stream import Reader, record

#: Seconds between two records.
_INTERVAL = 0.010
_TIMEOUT = 20.0
#: Seconds for which a stream goes on that is back, so that it shows its new round trip.
_CALM = 2.0
#: Seconds for what is under way when the stream is ended.
DRAIN = 30.0
ECHO = Path(__file__).with_name("echo.py")


class Stream:
    """The stream's end here."""

    def __init__(self, process: ExecClient) -> None:
        self._process = process
        self._reader = Reader()
        self._digest = hashlib.sha256()
        #: When each record was handed over, and which came back when.
        self.sent: list[float] = []
        self.arrived: list[tuple[int, float]] = []
        self.stopped = False
        self.streaming = trio.Event()
        self.ended = trio.Event()
        self.device: dict[str, Any] = {}

    async def send(self) -> None:
        """Send until `stopped`."""
        due = trio.current_time()
        while not self.stopped:
            data = record(len(self.sent))
            self.sent.append(time.monotonic())
            self._digest.update(data)
            await self._process.write(data)
            due = max(due + _INTERVAL, trio.current_time())  # what could not be sent in time is not made up for
            await trio.sleep_until(due)
        await self._process.send_eof()

    async def receive(self) -> None:
        """Receive until the device's end has ended."""
        said = b""
        while (output := await self._process.read()) is not None:
            stream, data = output
            now = time.monotonic()
            if stream != STDOUT:
                said += data
                continue
            self.arrived.extend((number, now) for number in self._reader.read(data))
            self.streaming.set()
        self._reader.end()
        self.device = json.loads(said)
        self.ended.set()

    def report(self) -> dict[str, Any]:
        """All that was seen."""
        return {
            "sent": self.sent,
            "arrived": self.arrived,
            "stray": self._reader.stray,
            "digests": [self._digest.hexdigest(), self.device.get("sha256"), self._reader.digest.hexdigest()],
            "whole": self.ended.is_set(),
        }


async def next_order() -> dict[str, Any]:
    """The next line of input, an object as JSON."""
    line, source = b"", trio.lowlevel.FdStream(os.dup(0))
    while not line.endswith(b"\n"):
        line += await source.receive_some(1)
    order: dict[str, Any] = json.loads(line)
    return order


async def _run(session: Session) -> dict[str, Any]:
    async with open_exec(await session.open(EXEC_PROTOCOL), [sys.executable, "-I", "-S", str(ECHO)]) as process:
        stream, failures = Stream(process), list[str]()

        async def guarded(work: Any, scope: trio.CancelScope) -> None:
            try:
                await work()
            except (ServiceError, OperatorError, trio.BrokenResourceError, trio.EndOfChannel) as error:
                failures.append(f"{type(error).__name__}: {error}")
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded, stream.send, nursery.cancel_scope)
            nursery.start_soon(guarded, stream.receive, nursery.cancel_scope)
            await stream.streaming.wait()
            say({"streaming": True})
            await watch_stream(stream, **await next_order())
            stream.stopped = True
            with trio.move_on_after(DRAIN):
                await stream.ended.wait()
            nursery.cancel_scope.cancel()
        return {**stream.report(), "failures": failures}


class Seen(Protocol):
    """What has been seen of a stream."""

    sent: list[float]
    arrived: list[tuple[int, float]]


async def watch_stream(stream: Seen, *, struck_at: float, until: float, patience: float) -> None:
    """Wait for the end of the time that counts."""
    back_at = math.inf
    while (now := time.monotonic()) < max(until, back_at + _CALM) and (now < struck_at + patience or back_at < now):
        number, at = stream.arrived[-1]
        if back_at == math.inf and stream.sent[number] > struck_at:
            back_at = at
        await trio.sleep(0.05)


@asynccontextmanager
async def _session(config_file: Path, device_key: str, trace: TextIO) -> AsyncIterator[Session]:
    config = load_config(config_file)
    key = PrivateKey.load(config.key.read_bytes(), source=str(config_file))

    def write(entry: Record) -> None:
        print(json.dumps({"monotonic": time.monotonic(), **entry_of(entry)}), file=trace)

    def step(said: Step) -> None:
        write(Record(math.nan, "step", said.name, {"text": said.text}))

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the device's key is pinned")

    async with open_session(
        config,
        key,
        "pi",
        pinned=PublicKey(bytes.fromhex(device_key)),
        want=("exec",),
        confirm=confirm,
        watch=step,
        timeout=_TIMEOUT,
        trace=write,
    ) as session:
        _listen(session, write)
        yield session


def _listen(session: Session, write: Callable[[Record], None]) -> None:
    """Have it written by which road each message of the device's comes."""
    connector = session._connector
    receive, receive_channel = connector.receive, connector.receive_channel

    def heard(road: str, jws: bytes) -> None:
        claims = json.loads(base64.urlsafe_b64decode(jws.split(b".")[1] + b"=="))
        write(Record(trio.current_time(), "lab", "heard", {"road": road, "t": claims["t"], "gen": claims.get("gen")}))

    def by_broker(sender: Party, payload: bytes, **when: Any) -> None:
        heard("broker", payload)
        receive(sender, payload, **when)

    def by_channel(text: str, **when: Any) -> None:
        heard("channel", text.encode())
        receive_channel(text, **when)

    connector.receive, connector.receive_channel = by_broker, by_channel  # type: ignore[method-assign]


def say(message: dict[str, Any]) -> None:
    """Print an object as a line of JSON."""
    print(json.dumps(message), flush=True)


async def _main(config: Path, device_key: str, trace: TextIO) -> None:
    report: dict[str, Any] = {}
    try:
        async with _session(config, device_key, trace) as session:
            report = await _run(session)
    except* OperatorError as errors:
        report.setdefault("failures", []).extend(str(error) for error in errors.exceptions)
    say(report)


def main(config: str, device_key: str, trace_file: str) -> None:
    """Run one session."""
    with Path(trace_file).open("w") as trace:
        trio.run(_main, Path(config), device_key, trace)


if __name__ == "__main__":
    main(*sys.argv[1:])
