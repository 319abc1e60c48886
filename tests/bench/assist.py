"""How fast files go to a device by ssh's way through a session, and how a shell feels under load; medians.

    python tests/bench/assist.py [--json] [--rounds N] [--mib N] [--keys N] [--connects N]

A real agent and a mosquitto on loopback, and a real sshd that listens there.

- `scp_mib_s`: MiB (2^20 bytes) a second of one file that scp copies to the sshd through `edgeice proxy`, as `edgeice
  ssh-config` sets it up.  The whole command counts: programs, MQTT, session, ssh's handshake.
- `ssh_direct_mib_s`: the same file by the same scp with the same ciphers to the same sshd, without the proxy.
- `keystroke_ms`, `keystroke_p99_ms`: milliseconds from a key's byte, written to a shell on the device, until a program
  in that terminal has sent it back, while a TCP connection through a forward of the same session carries what it can in
  both directions; median and 99th percentile of all keys.
- `keystroke_other_ms`, `keystroke_other_p99_ms`: the same while the forward is a session's of its own, an `edgeice
  forward` of the same operator.
- `keystroke_idle_ms`, `keystroke_idle_p99_ms`: the same with nothing else going on.
- `forward_mib_s`, `forward_other_mib_s`: what those two forwards carried meanwhile, both directions together.
- `connects_s`: TCP connections a second through an `edgeice forward`, 16 at a time: each is made, sends a byte, gets it
  back, and sees the end.
- `ssh_connects_s`: the same through `ssh -L` to the same sshd.

Keys are pressed about 50 times a second, at random.  The two ends of the forwarded connection are processes of their
own, so up to six processes share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.operator.session import Session
from edgeice.services import (
    FORWARD_PROTOCOL,
    SHELL_PROTOCOL,
    ForwardTarget,
    ShellClient,
    TcpStream,
    forward_stream,
    open_shell,
)
from tests.agent.kit import environment
from tests.bench.rig import Rig
from tests.support.brokers import free_port
from tests.support.sshd import SSHD, Sshd, sshd_sync

_MIB = 1 << 20
_CHUNK = 64 * 1024
#: Seconds between two keys: even between these.
_PAUSE = (0.01, 0.03)
#: Seconds that a forward runs before keys are pressed.
_WARM_UP = 1.0
#: No key takes so long, seconds.
_LOST = 10.0
#: Nor does a login shell to read its profile.
_START_PATIENCE = 90.0
#: Connections at a time, where they are counted.
_AT_ONCE = 16
_SET_TERMINAL = b"stty raw -echo; echo rea''dy; exec cat\n"


class Blaster:
    """A process at one end of a TCP connection: sends and takes what goes, and counts both."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, *arguments: str) -> Iterator[Blaster]:
        command = [sys.executable, __file__, "--blast", *arguments]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def hear(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def count(self) -> int:
        """Bytes that it has received so far."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self.hear()


def blast(port: int) -> None:
    """What such a process does: listens where `port` is 0, and says its port then; answers each line with its count."""
    if port:
        connection = socket.create_connection(("127.0.0.1", port))
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            connection, _ = listener.accept()
    count = 0

    def send() -> None:
        data = random.Random(1).randbytes(_CHUNK)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(data)

    def receive() -> None:
        nonlocal count
        with contextlib.suppress(OSError):
            while data := connection.recv(_CHUNK):
                count += len(data)

    for job in (send, receive):
        threading.Thread(target=job, daemon=True).start()
    for _ in sys.stdin:
        print(count, flush=True)


def answer() -> None:
    """What a process does that is connected to: returns one byte of each connection, and says first where it is."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(await stream.receive_some(1))

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=128)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.serve_listeners(serve, listeners)

    trio.run(main)


def connect(port: int, count: int) -> float:
    """Seconds of so many connections."""
    left = iter(range(count))

    def work() -> int:
        done = 0
        for _ in left:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"x")
                if (connection.recv(1), connection.recv(1)) != (b"x", b""):
                    raise RuntimeError("what was connected to does not answer")
            done += 1
        return done

    begun = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        done = sum(worker.result() for worker in [pool.submit(work) for _ in range(_AT_ONCE)])
    seconds = time.perf_counter() - begun
    if done != count:
        raise RuntimeError(f"{done} connections of {count}")
    return seconds


@attrs.frozen
class Load:
    """A forwarded connection under way."""

    ends: tuple[Blaster, Blaster]

    def count(self) -> int:
        """Bytes that it carried so far."""
        return sum(end.count() for end in self.ends)


@contextlib.asynccontextmanager
async def load_in(session: Session) -> AsyncIterator[Load]:
    """A connection forwarded through this session."""
    async with contextlib.AsyncExitStack() as stack:
        there = stack.enter_context(Blaster.running("0"))
        target = ForwardTarget("127.0.0.1", there.hear())
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        async with listener:
            here = stack.enter_context(Blaster.running(str(listener.socket.getsockname()[1])))
            stream = TcpStream(await listener.accept())
        nursery.start_soon(forward_stream, await session.open(FORWARD_PROTOCOL), target, stream)
        yield Load((there, here))


@contextlib.contextmanager
def load_beside(rig: Rig) -> Iterator[Load]:
    """A connection forwarded by a command of its own."""
    with Blaster.running("0") as there, forwarding(rig, there.hear()) as port, Blaster.running(str(port)) as here:
        yield Load((there, here))


@contextlib.contextmanager
def forwarding(rig: Rig, target: int) -> Iterator[int]:
    """An `edgeice forward` to a port of the device's; the port where it listens."""
    arguments = ["forward", "--json", rig.device.name, f"127.0.0.1:0:127.0.0.1:{target}"]
    command = [sys.executable, "-m", "edgeice.cli.main", *arguments]
    with subprocess.Popen(command, stdout=PIPE, text=True, env=environment(rig.operators[0].folder)) as process:
        try:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["port"])
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def keyboard(session: Session) -> AsyncIterator[ShellClient]:
    """A shell in whose terminal each byte comes back from a program."""
    async with open_shell(await session.open(SHELL_PROTOCOL), "xterm", 80, 24) as shell:
        await shell.write(_SET_TERMINAL)
        seen = b""
        with trio.fail_after(_START_PATIENCE):
            while b"ready" not in seen:
                seen += await shell.read()
            while not seen.endswith(b"\n"):
                seen += await shell.read()
        yield shell


async def press(shell: ShellClient, keys: int) -> list[float]:
    """Milliseconds by key."""
    dice = random.Random(2)
    found: list[float] = []
    for number in range(keys):
        await trio.sleep(dice.uniform(*_PAUSE))
        key = bytes((ord("a") + number % 26,))
        begun = time.perf_counter()
        await shell.write(key)
        with trio.fail_after(_LOST):
            echo = await shell.read()
        if echo != key:
            raise RuntimeError(f"{key!r} came back as {echo!r}")
        found.append((time.perf_counter() - begun) * 1000)
    return found


async def press_under(shell: ShellClient, keys: int, load: Load) -> tuple[list[float], float]:
    """Milliseconds by key, and MiB/s of the load meanwhile."""
    await trio.sleep(_WARM_UP)
    begun, before = time.perf_counter(), load.count()
    found = await press(shell, keys)
    rate = (load.count() - before) / _MIB / (time.perf_counter() - begun)
    if not rate:
        raise RuntimeError("the forward carried nothing")
    return found, rate


async def measure_keys(rig: Rig, keys: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds by key under each load, and what the loads carried."""
    found: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
    async with rig.session(rig.operators[0], "shell", "forward:127.0.0.1:*") as session, keyboard(session) as shell:
        found["keystroke_idle"] = await press(shell, keys)
        async with load_in(session) as load:
            found["keystroke"], rates["forward_mib_s"] = await press_under(shell, keys, load)
        with load_beside(rig) as load:
            found["keystroke_other"], rates["forward_other_mib_s"] = await press_under(shell, keys, load)
    return found, rates


@contextlib.contextmanager
def answering() -> Iterator[int]:
    """A process that answers; the port where it listens."""
    with subprocess.Popen([sys.executable, __file__, "--answer"], stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def forwarding_by_ssh(sshd: Sshd, target: int) -> Iterator[int]:
    """An `ssh -L` to a port; the port where it listens."""
    port = free_port()
    where = f"127.0.0.1:{port}:127.0.0.1:{target}"
    command = ["ssh", *sshd.options, "-N", "-o", "ExitOnForwardFailure=yes", "-L", where, "direct"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=sshd.environment) as process:
        try:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    raise RuntimeError(f"ssh -L ended with {process.returncode}")
                time.sleep(0.02)
            yield port
        finally:
            process.kill()


def measure_connects(rig: Rig, sshd: Sshd, count: int) -> dict[str, float]:
    """Connections a second by figure."""
    with answering() as target:
        with forwarding(rig, target) as port:
            own = count / connect(port, count)
        with forwarding_by_ssh(sshd, target) as port:
            return {"connects_s": own, "ssh_connects_s": count / connect(port, count)}


def copy(sshd: Sshd, host: str, source: Path) -> float:
    """MiB a second of the whole command; raises where the file is another one then."""
    target = source.with_name("copied")
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    subprocess.run(["scp", "-q", *sshd.options, str(source), f"{host}:{target}"], check=True, env=sshd.environment)
    seconds = time.perf_counter() - begun
    if target.read_bytes() != source.read_bytes():
        raise RuntimeError(f"what was copied to {host} is not what was sent")
    return source.stat().st_size / _MIB / seconds


def measure(rounds: int, mib: int, keys: int, connects: int) -> dict[str, float]:
    """Values by figure."""
    if SSHD is None:
        raise SystemExit("assist.py needs sshd: apt-get install openssh-server")
    copies: dict[str, list[float]] = {"scp_mib_s": [], "ssh_direct_mib_s": []}
    times: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    with Rig.running(can="shell,forward:localhost:*,forward:127.0.0.1:*") as rig:
        source = rig.folder / "source"
        source.write_bytes(random.Random(3).randbytes(mib * _MIB))
        with sshd_sync(rig.folder, environment(rig.operators[0].folder)) as sshd:
            for _ in range(rounds):
                copies["scp_mib_s"].append(copy(sshd, f"{rig.device.name}.edgeice", source))
                copies["ssh_direct_mib_s"].append(copy(sshd, "direct", source))
                by_key, carried = trio.run(measure_keys, rig, keys)
                for name, values in by_key.items():
                    times.setdefault(name, []).extend(values)
                carried |= measure_connects(rig, sshd, connects)
                for name, value in carried.items():
                    rates.setdefault(name, []).append(value)
    figures = {name: statistics.median(values) for name, values in (copies | rates).items()}
    for name, values in times.items():
        figures[f"{name}_ms"] = statistics.median(values)
        figures[f"{name}_p99_ms"] = statistics.quantiles(values, n=100)[-1]
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--mib", type=int, default=100, help="MiB of the file (default 100)")
    parser.add_argument("--keys", type=int, default=500, help="keys pressed under each load (default 500)")
    parser.add_argument("--connects", type=int, default=1000, help="connections that are made (default 1000)")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--blast", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.blast is not None:
        blast(options.blast)
        return
    if options.answer:
        answer()
        return
    found = measure(options.rounds, options.mib, options.keys, options.connects)
    print(f"scp        {found['scp_mib_s']:7.2f} MiB/s   without the proxy {found['ssh_direct_mib_s']:.2f} MiB/s")
    for name, load in (("keystroke", "forward"), ("keystroke_other", "forward_other"), ("keystroke_idle", None)):
        beside = f"beside {found[f'{load}_mib_s']:.2f} MiB/s of {load.replace('_', ' in an')}" if load else "alone"
        print(f"keystroke  {found[f'{name}_ms']:7.2f} ms      99 % within {found[f'{name}_p99_ms']:.2f} ms, {beside}")
    print(f"connects   {found['connects_s']:7.0f} a second  ssh -L {found['ssh_connects_s']:.0f} a second")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
