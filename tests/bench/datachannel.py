"""How fast one data channel carries bulk data and what CPU that takes, beside aiortc; medians.

    python tests/bench/datachannel.py [--json] [--rounds N] [--mib N]

Two processes on 127.0.0.1, one pair of host candidates, one reliable and ordered data channel through DTLS and SCTP, no
signaling.  One end sends messages of 16 KiB, the other compares each with what it must be and answers with one message
when it has all.  When more than 1 MiB is unsent, the sender waits until 64 KiB are left.  aiortc does the same in two
processes of its own; both compute SCTP's checksum with google-crc32c.

- `mbit`: 10^6 bits of payload per second, from before the first message is sent until the answer is there.  The channel
  is open before; processes, ICE and handshakes do not count, but SCTP's slow start does.
- `cpu_s_per_mib_tx`: CPU seconds, user and system, of all the sender's process over the same time, for each MiB (2^20
  bytes) of payload.
- `cpu_s_per_mib_rx`: the same of the receiver's process, from when it sees the channel until it has all.
- `aiortc_mbit`, `aiortc_cpu_s_per_mib_tx`, `aiortc_cpu_s_per_mib_rx`: aiortc's.

aiortc, by aioice, never takes a loopback address by itself, and is told that 127.0.0.1 is this host's.  Each round
measures both with new processes, one after the other, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio  # noqa: TID251  # aiortc runs on it
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

SIZE = 16 * 1024
_MIB = 1 << 20
#: aiortc's sender waits above so many unsent bytes, and goes on below so many: the bounds of `DataChannel.send`.
HIGH_WATER, LOW_WATER = _MIB, 64 * 1024
_DONE = b"done"
_FIGURES = ("mbit", "cpu_s_per_mib_tx", "cpu_s_per_mib_rx")
_PREFIXES = {"edgeice": "", "aiortc": "aiortc_"}


class Inbox:
    """What the receiver has: raises if a message is not the next one."""

    def __init__(self, mib: int) -> None:
        self._wanted = mib * _MIB // SIZE
        self._count = 0
        self._begun = time.process_time()

    def take(self, data: bytes | str) -> bool:
        """Whether that was the last one."""
        if data != message(self._count):
            raise RuntimeError(f"message {self._count} is not what was sent")
        self._count += 1
        return self._count == self._wanted

    def report(self) -> None:
        say({"cpu": time.process_time() - self._begun})


class Stopwatch:
    """The sender's time and CPU."""

    def __init__(self) -> None:
        self._begun, self._cpu = time.perf_counter(), time.process_time()

    def report(self) -> None:
        say({"seconds": time.perf_counter() - self._begun, "cpu": time.process_time() - self._cpu})


_FILLING = bytes(SIZE - 4)


def message(number: int) -> bytes:
    return number.to_bytes(4, "big") + _FILLING


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def hear() -> Any:
    """The next value from the parent, None when it wants this end to go."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


async def edgeice_receiver(mib: int) -> None:
    from edgeice.transport import NodeConfig, open_node

    async with open_node(NodeConfig.loopback_only()) as node:
        connection = node.connection()
        say(connection.accept_offer(await trio.to_thread.run_sync(hear)))
        channel = await connection.incoming.receive()
        inbox = Inbox(mib)
        while not inbox.take(await channel.receive()):
            pass
        inbox.report()
        await channel.send(_DONE)
        await trio.to_thread.run_sync(hear)


async def edgeice_sender(mib: int) -> None:
    from edgeice.transport import NodeConfig, open_node

    async with open_node(NodeConfig.loopback_only()) as node:
        connection = node.connection(offerer=True)
        say(connection.create_offer())
        connection.accept_answer(await trio.to_thread.run_sync(hear))
        channel = await connection.open_channel("bench")
        watch = Stopwatch()
        for number in range(mib * _MIB // SIZE):
            await channel.send(message(number))
        assert await channel.receive() == _DONE
        watch.report()
        await trio.to_thread.run_sync(hear)


@contextlib.asynccontextmanager
async def aiortc_connection() -> Any:
    import aioice
    import aiortc

    with mock.patch.object(aioice.ice, "get_host_addresses", return_value=["127.0.0.1"]):
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        try:
            yield connection
        finally:
            await connection.close()


async def aiortc_receiver(mib: int) -> None:
    import aiortc

    async with aiortc_connection() as connection:

        def take_channel(channel: Any) -> None:
            inbox = Inbox(mib)

            def take(data: bytes | str) -> None:
                if inbox.take(data):
                    inbox.report()
                    channel.send(_DONE)

            channel.on("message", take)

        connection.on("datachannel", take_channel)
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(await asyncio.to_thread(hear), "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        say(connection.localDescription.sdp)
        await asyncio.to_thread(hear)


async def aiortc_sender(mib: int) -> None:
    import aiortc

    opened, low, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with aiortc_connection() as connection:
        channel = connection.createDataChannel("bench")
        channel.bufferedAmountLowThreshold = LOW_WATER
        channel.on("open", opened.set)
        channel.on("bufferedamountlow", low.set)
        channel.on("message", lambda _data: done.set())
        await connection.setLocalDescription(await connection.createOffer())
        say(connection.localDescription.sdp)
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(await asyncio.to_thread(hear), "answer"))
        await opened.wait()
        watch = Stopwatch()
        for number in range(mib * _MIB // SIZE):
            if channel.bufferedAmount > HIGH_WATER:
                low.clear()
                await low.wait()
            channel.send(message(number))
        await done.wait()
        watch.report()
        await asyncio.to_thread(hear)


_ENDS: dict[tuple[str, str], Callable[[int], None]] = {
    ("edgeice", "receiver"): lambda mib: trio.run(edgeice_receiver, mib),
    ("edgeice", "sender"): lambda mib: trio.run(edgeice_sender, mib),
    ("aiortc", "receiver"): lambda mib: asyncio.run(aiortc_receiver(mib)),
    ("aiortc", "sender"): lambda mib: asyncio.run(aiortc_sender(mib)),
}


class End:
    """One end as a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, stack: str, role: str, mib: int) -> Iterator[End]:
        name = f"{stack}'s {role}"
        command = [sys.executable, __file__, "--mib", str(mib), "--end", stack, role]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield cls(name, process)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"{name} ended with {process.returncode}")

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        return json.loads(line)

    def say(self, value: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps(value), file=self._process.stdin, flush=True)


def transfer(stack: str, mib: int) -> tuple[float, float, float]:
    """Mbit/s, and CPU seconds per MiB of the sender and of the receiver."""
    with End.running(stack, "receiver", mib) as receiver, End.running(stack, "sender", mib) as sender:
        receiver.say(sender.hear())
        sender.say(receiver.hear())
        sent, received = sender.hear(), receiver.hear()
    return mib * _MIB * 8 / 1e6 / sent["seconds"], sent["cpu"] / mib, received["cpu"] / mib


def measure(rounds: int, mib: int) -> dict[str, float]:
    """Values by figure."""
    samples: dict[str, list[tuple[float, float, float]]] = {stack: [] for stack in _PREFIXES}
    for _ in range(rounds):
        for stack, found in samples.items():
            found.append(transfer(stack, mib))
    return {
        f"{_PREFIXES[stack]}{name}": round(statistics.median(column), 1 if name == "mbit" else 5)
        for stack, found in samples.items()
        for name, column in zip(_FIGURES, zip(*found, strict=True), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--mib", type=int, default=64, help="MiB to carry each time (default 64)")
    parser.add_argument("--end", nargs=2, metavar=("STACK", "ROLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        _ENDS[options.end[0], options.end[1]](options.mib)
        return
    found = measure(options.rounds, options.mib)
    for stack, prefix in _PREFIXES.items():
        mbit, tx, rx = (found[f"{prefix}{name}"] for name in _FIGURES)
        print(f"{stack:8} {mbit:7.1f} Mbit/s   CPU {tx * 1000:7.2f} ms/MiB to send  {rx * 1000:7.2f} ms/MiB to receive")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
