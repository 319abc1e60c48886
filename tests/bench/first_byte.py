"""How soon the first byte comes between two ends behind NATs that meet at a broker, beside aiortc; medians, ms.

    python tests/bench/first_byte.py [--json] [--rounds N]      (as root: network namespaces)

- `nat_first_byte_ms`: from an operator's offer to the first byte that comes back by a data channel (a ping's echo).
- `nat_first_byte_aiortc_ms`: the same between two aiortc peers, whose descriptions go by the same broker as they are,
  without signatures, and where the answerer sends as soon as the channel is open.  aiortc gathers before it offers;
  that is not counted.
- `round_trips`, `round_trips_aiortc`: the same in round trips of 80 ms.

Operator and device are each behind a router whose NAT maps independently of the destination and filters by address
and port (RFC 4787), with a link that takes 20 ms each way: 80 ms from one to the other and back.  Both know a STUN
server.  The broker, mosquitto with `set_tcp_nodelay true`, and that server are on the internet; each end has been
connected to the broker before.  Rounds alternate, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio  # noqa: TID251  # the peer runs on it
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.operator.config import load_config
from edgeice.operator.session import open_session
from edgeice.services import PING_PROTOCOL
from edgeice.signaling import Party, PrivateKey, PublicKey
from edgeice.trace import Record
from tests.agent.kit import AgentProcess, Device, Operator, environment
from tests.lab.lab import Host, Impairment, Lab, LabError
from tests.lab.nat import EIM_APDF
from tests.lab.services import coturn, mosquitto

PATIENCE = 30.0
#: Seconds that a frame takes on each end's link, in either direction.
DELAY = 0.020
#: From one end to the other and back.
ROUND_TRIP = 4 * DELAY


@attrs.frozen
class Site:
    """An end's host, its STUN server and the broker."""

    host: Host
    stun: str
    broker: str


@contextlib.contextmanager
def sites(folder: Path) -> Iterator[tuple[Site, Site]]:
    """Operator's and device's, each behind a NAT of its own."""
    with Lab() as lab:
        server, meeting = lab.public_host("server", addresses=2), lab.public_host("broker")
        hosts = []
        for name in ("operator", "device"):
            host = lab.host(name)
            lab.connect(host, lab.router(f"nat-{name}", nat=EIM_APDF), emulated=True).impair(
                Impairment(delay=DELAY), seed=1
            )
            hosts.append(host)
        for name in ("turn", "mqtt"):
            (folder / name).mkdir()
        with coturn(server, folder / "turn") as turn, mosquitto(meeting, folder / "mqtt") as broker:
            lab.settle()
            here, there = (Site(host, turn.stun, broker.url) for host in hosts)
            yield here, there


# edgeice


@contextlib.contextmanager
def agent(folder: Path, here: Site, there: Site) -> Iterator[tuple[Operator, Device]]:
    """A device that runs, and an operator that it lets in."""

    class InSite(Device):
        def command(self, *arguments: str) -> list[str]:
            return there.host.command(*super().command(*arguments))

    device = InSite(folder / "pi", there.broker)
    operator = Operator(folder / "alice", here.broker, "alice")
    for config in (device.config, operator.config):
        text = re.sub(r"\[ice\]\n(?:.+ = .+\n)*", f'[ice]\nstun = ["{here.stun}"]\n', config.read_text())
        config.write_text(text.replace('level = "debug"', 'level = "info"'))
    device.trust(operator, can="shell")
    operator.pin(device)
    with AgentProcess(device) as process:
        process.wait_log_sync("announced ")
        yield operator, device


async def edgeice_round(config: Path, device_key: bytes) -> float:
    """Seconds from the offer to the first byte."""
    settings = load_config(config)
    key = PrivateKey.load(settings.key.read_bytes(), source=str(config))
    offered_at: list[float] = []

    def hear(record: Record) -> None:
        if (record.layer, record.name) == ("session", "offer"):
            offered_at.append(trio.current_time())

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the device's key is pinned")

    with trio.fail_after(PATIENCE):
        async with open_session(
            settings,
            key,
            "pi",
            pinned=PublicKey(device_key),
            want=("shell",),
            confirm=confirm,
            watch=lambda _step: None,
            timeout=PATIENCE,
            trace=hear,
        ) as session:
            channel = await session.open(PING_PROTOCOL)
            await channel.send(b"first byte")
            await channel.receive()
            return trio.current_time() - offered_at[0]


# aiortc


class Mailbox:
    """A peer's messages at the broker."""

    def __init__(self, broker: str, own: str, other: str) -> None:
        import paho.mqtt.client as mqtt  # only the peers need it
        from paho.mqtt.enums import CallbackAPIVersion

        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._own, self._other = f"bench/{own}", f"bench/{other}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._take
        host, _, port = broker.removeprefix("mqtt://").partition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()

    # In the client's thread

    def _connected(self, *_details: object) -> None:
        self._client.subscribe(self._own, 1)

    def _subscribed(self, *_details: object) -> None:
        self._loop.call_soon_threadsafe(self._ready.set)

    def _take(self, _client: object, _data: object, message: Any) -> None:
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, json.loads(message.payload))

    # In the loop's

    async def ready(self) -> None:
        await self._ready.wait()

    def send(self, message: object) -> None:
        self._client.publish(self._other, json.dumps(message), 1)

    async def receive(self) -> Any:
        return await self._inbox.get()


async def aiortc_peer(site: dict[str, str], *, offers: bool) -> None:
    """Answer for ever, or say how long each offer took, one for each line of standard input."""
    import aiortc  # only the peers need it

    servers = aiortc.RTCConfiguration([aiortc.RTCIceServer(urls=site["stun"])])
    names = ("operator", "device") if offers else ("device", "operator")
    mailbox = Mailbox(site["broker"], *names)
    await mailbox.ready()
    print("ready", flush=True)
    while True:
        connection = aiortc.RTCPeerConnection(servers)
        if offers:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            came = asyncio.Event()
            channel = connection.createDataChannel("bench")
            channel.on("message", lambda _data, came=came: came.set())
            await connection.setLocalDescription(await connection.createOffer())
            begun = time.perf_counter()
            mailbox.send({"sdp": connection.localDescription.sdp, "type": "offer"})
            await connection.setRemoteDescription(aiortc.RTCSessionDescription(**await mailbox.receive()))
            await came.wait()
            print(time.perf_counter() - begun, flush=True)
            mailbox.send({})
            await connection.close()
        else:
            offer = await mailbox.receive()
            connection.on("datachannel", lambda channel: channel.send("x"))
            await connection.setRemoteDescription(aiortc.RTCSessionDescription(**offer))
            await connection.setLocalDescription(await connection.createAnswer())
            mailbox.send({"sdp": connection.localDescription.sdp, "type": "answer"})
            await mailbox.receive()
            await connection.close()


class Peer:
    """A process of this file on a site."""

    def __init__(self, site: Site, role: str, *arguments: str) -> None:
        where = json.dumps({"stun": site.stun, "broker": site.broker})
        command = [sys.executable, __file__, "--role", role, "--site", where, *arguments]
        self._process = subprocess.Popen(
            site.host.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self.line() == "ready"

    def line(self) -> str:
        """The next line of its output."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a peer ended with {self._process.wait()}")
        return line.strip()

    def ask(self) -> float:
        """Have it measure once; gives seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self.line())

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def edgeice_operator(config: Path, device_key: bytes) -> None:
    """Say how long each session took, one for each line of standard input."""
    print("ready", flush=True)
    for _line in sys.stdin:
        print(trio.run(edgeice_round, config, device_key), flush=True)


def measure(rounds: int) -> dict[str, float]:
    """Medians in ms; a first round of each warms up and does not count."""
    times: dict[str, list[float]] = {"nat_first_byte_ms": [], "nat_first_byte_aiortc_ms": []}
    with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        here, there = stack.enter_context(sites(folder))
        operator, device = stack.enter_context(agent(folder, here, there))
        answerer = Peer(there, "answer")
        stack.callback(answerer.end)
        subjects: dict[str, Callable[[], float]] = {}
        peer = Peer(here, "edgeice", "--config", str(operator.config), "--key", device.key.raw.hex())
        stack.callback(peer.end)
        subjects["nat_first_byte_ms"] = peer.ask
        offerer = Peer(here, "offer")
        stack.callback(offerer.end)
        subjects["nat_first_byte_aiortc_ms"] = offerer.ask
        for number in range(rounds + 1):
            for figure, ask in subjects.items():
                seconds = ask()
                if number:
                    times[figure].append(seconds)
    result = {figure: round(statistics.median(values) * 1000, 1) for figure, values in times.items()}
    result["round_trips"] = round(result["nat_first_byte_ms"] / ROUND_TRIP / 1000, 2)
    result["round_trips_aiortc"] = round(result["nat_first_byte_aiortc_ms"] / ROUND_TRIP / 1000, 2)
    return result


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count (%(default)s)")
    for name in ("role", "site", "config", "key"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "edgeice":
        edgeice_operator(Path(options.config), bytes.fromhex(options.key))
    elif options.role is not None:
        asyncio.run(aiortc_peer(json.loads(options.site), offers=options.role == "offer"))
    else:
        try:
            result = measure(options.rounds)
        except LabError as error:
            raise SystemExit(str(error)) from None
        for figure, value in result.items():
            print(f"{figure:<26} {value:>8}")
        if options.json:
            print(json.dumps(result))


if __name__ == "__main__":
    main()
