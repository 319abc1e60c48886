"""Whether an agent is after hours of use as it was before: random traffic that is checked, then figures beside figures.

    python tests/bench/soak.py [--json] [--minutes N] [--seed N]

A real agent and a mosquitto on loopback, and three operators.  Each opens a session, has random channels in it for a
random while, several at once, and ends it, often in the midst of what they do; and again.  A shell's program and a
forward's server return what they get, of random sizes, and every byte is compared; a subscriber to telemetry hears the
system's samples, and the lines that are written on the device meanwhile.  The seed decides what is done, not when the
machine gets to it.

The agent is read when it has just started, and after each quarter of the time, once no session and no process is left:

- `rss_mib`: VmRSS, MiB.
- `descriptors`: open ones of the process.
- `tasks`: Trio tasks that live.
- `threads`: of the process, in the end when those that Trio keeps for a while have had time to go.
- `children`: processes that it started, dead ones included that it did not wait for.
- `sessions`: those that it knows.

Each comes with `_before` and `_after`; before is when it had just started, but for memory after the first quarter: by
then every part of the code was used, and Python's own tables have grown to what they need.  `rss_mib_series` has all
five readings of memory.  Exits 1 when resident memory has grown by more than 2 MiB or any other by one, and at once
when bytes are wrong, the agent fails, or its log has a traceback.  Besides: what was done in the last three quarters:
`seconds`, `sessions_ended`, `shells`, `forwards` and `subscriptions` that went through, `lost` samples that telemetry
said were left out (a machine that is busy with other things has some), and `mib` that came back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.agent.config import load_config
from edgeice.operator.session import Session
from edgeice.services import FORWARD_PROTOCOL, ForwardTarget, TcpStream, forward_stream
from edgeice.services.telemetry import TELEMETRY_PROTOCOL
from edgeice.services.telemetry.client import Gap, Samples, Told, open_telemetry
from tests.agent.kit import Operator
from tests.bench.assist import keyboard
from tests.bench.rig import Rig

_MIB = 1 << 20
_WANTED = ("shell", "forward:127.0.0.1:*", "telemetry:*")
_OPERATORS = ("alice", "bob", "carol")
_CHANNELS = ("shells", "forwards", "subscriptions")
#: Channels that an operator has at once, and exchanges that each has, at most.
_AT_ONCE = 3
_EXCHANGES = 12
#: Bytes of an exchange at most: more than a channel's credit, so that it has to be granted.
_LARGEST = 300_000
#: Seconds that a session lasts, and that its operator rests.
_SESSION_TIME = (0.5, 15.0)
_REST = (0.0, 2.0)
#: Seconds between the system's samples.
_SAMPLE_INTERVAL = 0.2
#: Seconds until the agent is at rest; Trio's worker threads stay for 10.
_SETTLE_PATIENCE = 30.0
#: Seconds after the last session's end by which the agent has given its memory back: it waits for 5.
_RELEASE_TIME = 6.0
_POLL = 0.25
_TOLERANCES = {"rss_mib": 2.0}


@attrs.frozen
class Reading:
    """What the agent takes of its device."""

    rss_mib: float
    descriptors: int
    tasks: int
    threads: int
    children: int
    sessions: int

    @classmethod
    async def take(cls, rig: Rig) -> Reading:
        """What there is now."""
        status = await rig.agent.status()
        return cls(tasks=status["tasks"], sessions=len(status["sessions"]), **_of_process(rig.pid))

    @classmethod
    async def at_rest(cls, rig: Rig, *, at_most: Reading | None = None) -> Reading:
        """The reading once sessions are gone, and what is beyond another reading; at last, the one that there is."""
        found = await cls.take(rig)
        with trio.move_on_after(_SETTLE_PATIENCE):
            while found.sessions or found.children:
                await trio.sleep(_POLL)
                found = await cls.take(rig)
            await trio.sleep(_RELEASE_TIME)
            found = await cls.take(rig)
            while at_most is not None and found.grown(at_most):
                await trio.sleep(_POLL)
                found = await cls.take(rig)
        return found

    def grown(self, before: Reading) -> list[str]:
        """What there is more of than before, beyond the tolerance."""
        then, now = attrs.asdict(before), attrs.asdict(self)
        return [name for name in then if now[name] > then[name] + _TOLERANCES.get(name, 0)]


def _of_process(pid: int) -> dict[str, Any]:
    proc = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    children = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            children += stat.read_text().rpartition(")")[2].split()[1] == str(pid)
    return {
        "rss_mib": int(fields["VmRSS"].split()[0]) / 1024,
        "descriptors": len(list((proc / "fd").iterdir())),
        "threads": int(fields["Threads"]),
        "children": children,
    }


class Echo:
    """A TCP server that returns what it gets."""

    def __init__(self, port: int) -> None:
        self.port = port

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[Echo]:
        async def serve(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # a session that ends resets what it forwards
                async for data in stream:
                    await stream.send_all(data)
                await stream.send_eof()

        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield cls(listener.socket.getsockname()[1])
            nursery.cancel_scope.cancel()


async def exchange(
    data: bytes, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]
) -> None:
    """Send, and receive the same; raises where anything else comes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, data)
        got = bytearray()
        while len(got) < len(data):
            chunk = await receive()
            if not chunk:
                raise RuntimeError(f"the end came after {len(got)} of {len(data)} bytes")
            got += chunk
    if got != data:
        raise RuntimeError(f"{len(data)} bytes came back as others")


@attrs.define
class Traffic:
    """What is done to one device, and how much of it was."""

    rig: Rig
    echo: Echo
    #: Where the device's processes write telemetry.
    writes_to: str
    done: Counter[str] = attrs.field(factory=Counter)

    async def shell(self, session: Session, dice: random.Random) -> None:
        # A login shell that is killed while it reads its profile may leave locks behind that slow the next: so it is
        # not cut off before it is up.
        with trio.CancelScope(shield=True) as starting:
            async with keyboard(session) as shell:
                starting.shield = False
                for _ in range(dice.randint(1, _EXCHANGES)):
                    await self._exchange(dice, shell.write, shell.read)
        self.done["shells"] += 1

    async def forward(self, session: Session, dice: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with listener:
                near = await trio.open_tcp_stream(*listener.socket.getsockname())
                far = TcpStream(await listener.accept())
            target = ForwardTarget("127.0.0.1", self.echo.port)
            nursery.start_soon(forward_stream, await session.open(FORWARD_PROTOCOL), target, far)
            async with near:
                for _ in range(dice.randint(1, _EXCHANGES)):
                    await self._exchange(dice, near.send_all, near.receive_some)
                await near.send_eof()
                if await near.receive_some():
                    raise RuntimeError("bytes after the end")
        self.done["forwards"] += 1

    async def telemetry(self, session: Session, dice: random.Random) -> None:
        left, awaited = dice.randint(2, _EXCHANGES), dict[str, float]()
        channel = await session.open(TELEMETRY_PROTOCOL)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            async with open_telemetry(channel, interval=_SAMPLE_INTERVAL) as client:
                async for told in client:
                    is_sample = self._hear(told, awaited)
                    left -= is_sample
                    if awaited:
                        continue
                    if left <= 0:
                        break
                    if is_sample:
                        name = dice.randbytes(8).hex()
                        awaited[name] = dice.random()
                        writer.sendto(json.dumps({"name": name, "value": awaited[name]}).encode(), self.writes_to)
        self.done["subscriptions"] += 1

    def _hear(self, told: Told, awaited: dict[str, float]) -> bool:
        """Strike off what was awaited, and say whether it is a sample of the system."""
        match told:
            case Gap(stream="system", lost=int(lost)):
                self.done["lost"] += lost
            case Gap():
                raise RuntimeError(f"{told.lost} of {told.stream} were lost")
            case Samples(stream="local"):
                for row in told.rows:
                    if awaited.pop(row.name, row.value) != row.value:
                        raise RuntimeError(f"{row.name} came as {row.value}")
        return isinstance(told, Samples) and told.stream == "system"

    async def _exchange(
        self, dice: random.Random, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]
    ) -> None:
        data = dice.randbytes(dice.randint(1, dice.choice((100, 10_000, _LARGEST))))
        await exchange(data, send, receive)
        self.done["bytes"] += len(data)

    async def session(self, operator: Operator, dice: random.Random) -> None:
        """One session from its beginning to its end."""
        kinds = (self.shell, self.forward, self.telemetry)
        async with self.rig.session(operator, *_WANTED) as session:
            with trio.move_on_after(dice.uniform(*_SESSION_TIME)):
                async with trio.open_nursery() as nursery:
                    for _ in range(dice.randint(1, _AT_ONCE)):
                        nursery.start_soon(self._channels, session, kinds, random.Random(dice.random()))
        self.done["sessions_ended"] += 1

    @staticmethod
    async def _channels(
        session: Session,
        kinds: tuple[Callable[[Session, random.Random], Awaitable[None]], ...],
        dice: random.Random,
    ) -> None:
        while True:
            await dice.choice(kinds)(session, dice)

    async def sessions(self, operator: Operator, dice: random.Random) -> None:
        """One after another."""
        while True:
            await self.session(operator, dice)
            await trio.sleep(dice.uniform(*_REST))

    async def run(self, seconds: float, dice: random.Random) -> None:
        """All operators for some time; what they are at then is cut off."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for operator in self.rig.operators:
                    nursery.start_soon(self.sessions, operator, random.Random(dice.random()))


async def soak(rig: Rig, minutes: float, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Values by figure, and what has grown."""
    dice = random.Random(seed)
    fresh = await Reading.at_rest(rig)
    async with Echo.running() as echo:
        traffic = Traffic(rig, echo, str(load_config(rig.device.config).telemetry_socket))
        quarter = minutes * 60 / 4
        await traffic.run(quarter, dice)
        warm = await Reading.at_rest(rig)
        before = attrs.evolve(fresh, rss_mib=warm.rss_mib)
        series = [fresh, warm]
        traffic.done.clear()
        seconds = 0.0
        for _ in range(3):
            begun = trio.current_time()
            await traffic.run(quarter, dice)
            seconds += trio.current_time() - begun
            series.append(await Reading.at_rest(rig, at_most=before))
    after = series[-1]
    figures: dict[str, Any] = {"seconds": round(seconds, 1)}
    figures |= {name: traffic.done[name] for name in ("sessions_ended", *_CHANNELS)}
    figures["lost"] = traffic.done["lost"]
    figures["mib"] = round(traffic.done["bytes"] / _MIB, 1)
    for name in attrs.asdict(before):
        figures |= {f"{name}_before": round(getattr(before, name), 2), f"{name}_after": round(getattr(after, name), 2)}
    figures["rss_mib_series"] = [round(each.rss_mib, 2) for each in series]
    return figures, after.grown(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--minutes", type=float, default=30, help="how long it goes on, in all (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="of what is done (default 1)")
    options = parser.parse_args()
    with Rig.running(can=",".join(_WANTED), names=_OPERATORS) as rig:
        found, grown = trio.run(soak, rig, options.minutes, options.seed)
    print(
        f"{found['seconds']:.0f} s    {found['sessions_ended']} sessions ended, {found['shells']} shells,"
        f" {found['forwards']} forwards and {found['subscriptions']} subscriptions went through,"
        f" {found['lost']} samples were left out, {found['mib']} MiB came back"
    )
    for name in (field.name for field in attrs.fields(Reading)):
        verdict = "   GROWN" if name in grown else ""
        print(f"{name:12} {found[f'{name}_before']:8.6g} -> {found[f'{name}_after']:.6g}{verdict}")
    print("rss_mib      when it had started, and after each quarter:", *found["rss_mib_series"])
    if options.json:
        print(json.dumps(found))
    if grown:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
