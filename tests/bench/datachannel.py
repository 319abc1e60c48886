"""How fast one data channel carries bulk data and what CPU that takes, beside aiortc; medians.

    python tests/bench/datachannel.py [--json] [--rounds N] [--mib N] [--seconds N]

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

As root also between two hosts of a laboratory (tests/lab), over a link with a round trip of 30 ms:

- `mbit_30ms`, `mbit_30ms_1pct`: as `mbit`, without loss and with 1 % of the packets lost in either direction.  Nothing
  new is sent after some seconds, so that slow rows end.
- `aiortc_mbit_30ms`, `aiortc_mbit_30ms_1pct`: aiortc's.
- `tcp_mbit_30ms`, `tcp_mbit_30ms_1pct`: a TCP connection's over the same link, with the kernel's congestion control.
- `link_mbit`: a TCP connection's over the same link without delay or loss: what the link itself carries at most.

aiortc, by aioice, never takes a loopback address by itself, and is told that 127.0.0.1 is this host's.  Each round
measures all with new processes, one after the other, so that all see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio  # noqa: TID251  # aiortc runs on it
import contextlib
import json
import math
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.transport import NodeConfig, open_node
from tests.lab.lab import Host, Impairment, Lab, Link, missing

SIZE = 16 * 1024
_MIB = 1 << 20
#: aiortc's sender waits above so many unsent bytes, and goes on below so many: the bounds of `DataChannel.send`.
HIGH_WATER, LOW_WATER = _MIB, 64 * 1024
_END, _DONE = b"end", b"done"
_FIGURES = ("mbit", "cpu_s_per_mib_tx", "cpu_s_per_mib_rx")
_PREFIXES = {"edgeice": "", "aiortc": "aiortc_"}
_ON_LINKS = {**_PREFIXES, "TCP": "tcp_"}
#: By suffix of the figures, what the link does.
_LINKS = {"_30ms": Impairment(delay=0.015), "_30ms_1pct": Impairment(delay=0.015, loss=0.01)}


@attrs.frozen
class Task:
    """What to carry: at most so many MiB, and nothing new after so many seconds; over loopback or a link."""

    mib: int
    seconds: float = math.inf
    link: bool = False

    def arguments(self) -> list[str]:
        return ["--mib", str(self.mib), "--seconds", str(self.seconds), *(["--link"] if self.link else [])]

    def messages(self) -> Iterator[bytes]:
        """What the sender sends."""
        deadline = time.perf_counter() + self.seconds
        for number in range(self.mib * _MIB // SIZE):
            if time.perf_counter() > deadline:
                break
            yield message(number)
        yield _END

    def node(self) -> NodeConfig:
        return NodeConfig() if self.link else NodeConfig.loopback_only()


class Inbox:
    """What the receiver has: raises if a message is not the next one."""

    def __init__(self) -> None:
        self._count = 0
        self._begun = time.process_time()

    def take(self, data: bytes | str) -> bool:
        """Whether that was the end."""
        if data == _END:
            return True
        if data != message(self._count):
            raise RuntimeError(f"message {self._count} is not what was sent")
        self._count += 1
        return False

    def report(self) -> None:
        say({"cpu": time.process_time() - self._begun, "mib": self._count * SIZE / _MIB})


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


async def edgeice_receiver(task: Task) -> None:
    async with open_node(task.node()) as node:
        connection = node.connection()
        say(connection.accept_offer(await trio.to_thread.run_sync(hear)))
        channel = await connection.incoming.receive()
        inbox = Inbox()
        while not inbox.take(await channel.receive()):
            pass
        inbox.report()
        await channel.send(_DONE)
        await trio.to_thread.run_sync(hear)


async def edgeice_sender(task: Task) -> None:
    async with open_node(task.node()) as node:
        connection = node.connection(offerer=True)
        say(connection.create_offer())
        connection.accept_answer(await trio.to_thread.run_sync(hear))
        channel = await connection.open_channel("bench")
        watch = Stopwatch()
        for data in task.messages():
            await channel.send(data)
        assert await channel.receive() == _DONE
        watch.report()
        await trio.to_thread.run_sync(hear)


@contextlib.asynccontextmanager
async def aiortc_connection(task: Task) -> Any:
    import aioice
    import aiortc

    with contextlib.ExitStack() as stack:
        if not task.link:
            stack.enter_context(mock.patch.object(aioice.ice, "get_host_addresses", return_value=["127.0.0.1"]))
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        try:
            yield connection
        finally:
            await connection.close()


async def aiortc_receiver(task: Task) -> None:
    import aiortc

    async with aiortc_connection(task) as connection:

        def take_channel(channel: Any) -> None:
            inbox = Inbox()

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


async def aiortc_sender(task: Task) -> None:
    import aiortc

    opened, low, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with aiortc_connection(task) as connection:
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
        for data in task.messages():
            if channel.bufferedAmount > HIGH_WATER:
                low.clear()
                await low.wait()
            channel.send(data)
        await done.wait()
        watch.report()
        await asyncio.to_thread(hear)


_ENDS: dict[tuple[str, str], Callable[[Task], None]] = {
    ("edgeice", "receiver"): lambda task: trio.run(edgeice_receiver, task),
    ("edgeice", "sender"): lambda task: trio.run(edgeice_sender, task),
    ("aiortc", "receiver"): lambda task: asyncio.run(aiortc_receiver(task)),
    ("aiortc", "sender"): lambda task: asyncio.run(aiortc_sender(task)),
}


class End:
    """One end as a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, stack: str, role: str, task: Task, host: Host | None = None) -> Iterator[End]:
        name = f"{stack}'s {role}"
        command = [sys.executable, __file__, *task.arguments(), "--end", stack, role]
        if host is not None:
            command = host.command(*command)
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


def transfer(stack: str, task: Task, hosts: Sequence[Host | None] = (None, None)) -> tuple[float, float, float]:
    """Mbit/s, and CPU seconds per MiB of the sender and of the receiver."""
    with (
        End.running(stack, "receiver", task, hosts[1]) as receiver,
        End.running(stack, "sender", task, hosts[0]) as sender,
    ):
        receiver.say(sender.hear())
        sender.say(receiver.hear())
        sent, received = sender.hear(), receiver.hear()
    mib = received["mib"]
    return mib * _MIB * 8 / 1e6 / sent["seconds"], sent["cpu"] / mib, received["cpu"] / mib


def transfer_tcp(task: Task, hosts: Sequence[Host], address: str) -> float:
    """Mbit/s of a TCP connection from the first host to the second."""
    with hosts[1].inside():
        listener = socket.create_server((address, 0))
    with hosts[0].inside():
        client = socket.socket()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(_MIB):
                pass
            connection.sendall(_DONE)

    with listener, client:
        receiver = threading.Thread(target=receive)
        receiver.start()
        client.connect(listener.getsockname())
        begun, sent = time.perf_counter(), 0
        for data in task.messages():
            client.sendall(data)
            sent += len(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(len(_DONE)) == _DONE
        seconds = time.perf_counter() - begun
        receiver.join()
    return sent * 8 / 1e6 / seconds


def measure_links(task: Task, hosts: Sequence[Host], link: Link, seed: int) -> dict[str, float]:
    """Mbit/s by figure, once."""
    address = link.addresses[1]
    link.impair(Impairment())
    found = {"link_mbit": transfer_tcp(task, hosts, address)}
    for suffix, impairment in _LINKS.items():
        for stack, prefix in _PREFIXES.items():
            link.impair(impairment, seed=seed)
            found[f"{prefix}mbit{suffix}"] = transfer(stack, task, hosts)[0]
        link.impair(impairment, seed=seed)
        found[f"tcp_mbit{suffix}"] = transfer_tcp(task, hosts, address)
    return found


def measure(rounds: int, mib: int, seconds: float) -> dict[str, float]:
    """Values by figure; those over links only where there can be any."""
    samples: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab()) if missing() is None else None
        hosts = [lab.host("here"), lab.host("there")] if lab else []
        link = lab.link(*hosts) if lab else None
        for number in range(rounds):
            found = {
                f"{prefix}{name}": value
                for stack_name, prefix in _PREFIXES.items()
                for name, value in zip(_FIGURES, transfer(stack_name, Task(mib)), strict=True)
            }
            if link is not None:
                found |= measure_links(Task(mib, seconds, link=True), hosts, link, number)
            samples.append(found)
    return {
        name: round(statistics.median(found[name] for found in samples), 5 if "cpu" in name else 1)
        for name in samples[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--mib", type=int, default=64, help="MiB to carry each time (default 64)")
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long to send at most over a link, each time (default 10)"
    )
    parser.add_argument("--link", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--end", nargs=2, metavar=("STACK", "ROLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        _ENDS[options.end[0], options.end[1]](Task(options.mib, options.seconds, options.link))
        return
    found = measure(options.rounds, options.mib, options.seconds)
    for stack, prefix in _PREFIXES.items():
        mbit, tx, rx = (found[f"{prefix}{name}"] for name in _FIGURES)
        print(f"{stack:8} {mbit:7.1f} Mbit/s   CPU {tx * 1000:7.2f} ms/MiB to send  {rx * 1000:7.2f} ms/MiB to receive")
    if "link_mbit" in found:
        control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        print(f"{'link':8} {found['link_mbit']:7.1f} Mbit/s   TCP's congestion control is {control}")
        for suffix, impairment in _LINKS.items():
            values = ", ".join(f"{name} {found[f'{prefix}mbit{suffix}']:.1f}" for name, prefix in _ON_LINKS.items())
            print(f"30 ms    {impairment.loss:7.0%} lost     {values} Mbit/s")
    else:
        print(f"links    not measured: {missing()}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
