"""How long a connection takes to come up and how much CPU, beside aioice and aiortc; in ms, medians.

    python tests/bench/connect.py [--json] [--rounds N]

- `ice_ms`: two ICE transports in one process, one host candidate each, from before their sockets are opened until both
  ends may send: a valid pair (RFC 8445 §12.1).  `ice_nominated_ms`: until both ends have a nominated pair.
- `aioice_ms`: the same by aioice, which knows no data before a nominated pair.
- `offer_to_first_byte_ms`: from the moment when an operator that is connected to the broker makes its offer to the
  first byte that comes back to it from the device by a data channel (the echo of a ping).  Offer, answer and candidates
  are signed and go by a local mosquitto, data by DTLS and SCTP; the agent is a process of its own, and so is this
  operator.  Included are the offer's description, the device's new session and the opening of the data channel; not the
  operator's own way to the broker, and on its side not the certificate.
- `cpu_ms_1`, `cpu_ms_5`, `cpu_ms_17`: CPU of two ICE transports in one process with so many addresses each, from
  opening their sockets to closing them, once both have a nominated pair.  All addresses are of loopback, so that each
  pair would work.  `aioice_cpu_ms_1` and so on: the same by aioice.
- `aiortc_ms`: aiortc's own set-up, from createOffer to the open channel at the offerer: both ends in one process,
  without signaling, DTLS and SCTP on; certificates are made before.

All pairs are on 127.0.0.1 (for CPU also on 127.0.0.2 to 17).  aioice, and aiortc by it, never take a loopback address:
they look for the host's addresses as they always do, which is measured, and then are told that it is these.  Each round
measures each subject once, so that all see the same machine; a first round warms up and does not count.
"""

import argparse
import asyncio  # noqa: TID251  # the peers run on it
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import aioice
import aiortc
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.ice import IceConfig
from edgeice.operator.config import load_config
from edgeice.operator.interface import Step
from edgeice.operator.session import open_session
from edgeice.services import PING_PROTOCOL, PingClient
from edgeice.signaling import Party, PrivateKey, PublicKey
from edgeice.transport import IceTransport, NodeConfig, open_node
from tests.agent.kit import AgentProcess, Device, Operator
from tests.support.brokers import MOSQUITTO, mosquitto_sync

PATIENCE = 20.0
#: How many addresses each side has where CPU is measured.
ADDRESSES = (1, 5, 17)
_FIGURES = (
    "ice_ms",
    "ice_nominated_ms",
    "aioice_ms",
    "offer_to_first_byte_ms",
    "aiortc_ms",
    *(f"{name}_{count}" for count in ADDRESSES for name in ("cpu_ms", "aioice_cpu_ms")),
)


async def edgeice_ice() -> tuple[float, float]:
    """Seconds to a valid and to a nominated pair at both ends."""
    config = NodeConfig.loopback_only()
    begun = time.perf_counter()
    async with open_node(config) as here, open_node(config) as there:
        a, b = here.ice_transport(controlling=True), there.ice_transport(controlling=False)
        introduce(a, b)
        introduce(b, a)
        await a.wait_connected()
        await b.wait_connected()
        valid = time.perf_counter() - begun
        while not (a.path.nominated and b.path.nominated):  # noqa: ASYNC110  # nothing tells of it but the path
            await trio.sleep(0.0002)
        nominated = time.perf_counter() - begun
        await a.send(b"x")
        assert await b.receive() == b"x"
        return valid, nominated


async def edgeice_cpu(count: int) -> float:
    """CPU seconds of both ends with so many addresses."""
    config = NodeConfig(loopback=tuple(loopback(count)), interfaces=False, ice=IceConfig(allow_loopback=True))
    begun = time.process_time()
    async with open_node(config) as here, open_node(config) as there:
        a, b = here.ice_transport(controlling=True), there.ice_transport(controlling=False)
        introduce(a, b)
        introduce(b, a)
        await a.wait_connected()
        await b.wait_connected()
        while not (a.path.nominated and b.path.nominated):  # noqa: ASYNC110  # as above
            await trio.sleep(0.01)
        a.close()
        b.close()
    return time.process_time() - begun


def loopback(count: int) -> list[str]:
    return [f"127.0.0.{number}" for number in range(1, count + 1)]


def introduce(sender: IceTransport, receiver: IceTransport) -> None:
    receiver.set_remote(sender.ufrag, sender.pwd, sender.candidates_so_far(), pacing=IceConfig().pacing)


@contextlib.contextmanager
def aioice_on_loopback(count: int = 1) -> Iterator[None]:
    """Let aioice ask for the host's addresses, and then use 127.0.0.1 and those after it."""
    ask = aioice.ice.get_host_addresses

    def answer(*args: bool, **kwargs: bool) -> list[str]:
        ask(*args, **kwargs)
        return loopback(count)

    with mock.patch.object(aioice.ice, "get_host_addresses", answer):
        yield


async def aioice_ice(clock: Callable[[], float] = time.perf_counter, count: int = 1) -> float:
    """Seconds until both have a nominated pair, or, by the process's clock, CPU seconds until they are closed."""
    begun = clock()
    a, b = aioice.Connection(ice_controlling=True), aioice.Connection(ice_controlling=False)
    await asyncio.gather(a.gather_candidates(), b.gather_candidates())
    for sender, receiver in ((a, b), (b, a)):
        assert len(sender.local_candidates) == count
        receiver.remote_username, receiver.remote_password = sender.local_username, sender.local_password
        for candidate in [*sender.local_candidates, None]:
            await receiver.add_remote_candidate(candidate)
    await asyncio.gather(a.connect(), b.connect())
    seconds = clock() - begun
    await a.send(b"x")
    assert await b.recv() == b"x"
    await a.close()
    await b.close()
    return seconds if clock is time.perf_counter else clock() - begun


def aioice_cpu(count: int) -> float:
    with aioice_on_loopback(count):
        return asyncio.run(aioice_ice(time.process_time, count))


async def aiortc_channel() -> float:
    configuration = aiortc.RTCConfiguration(iceServers=[])
    a, b = aiortc.RTCPeerConnection(configuration), aiortc.RTCPeerConnection(configuration)
    opened = asyncio.Event()
    begun = time.perf_counter()
    channel = a.createDataChannel("bench")
    channel.on("open", opened.set)
    await a.setLocalDescription(await a.createOffer())
    await b.setRemoteDescription(a.localDescription)
    await b.setLocalDescription(await b.createAnswer())
    await a.setRemoteDescription(b.localDescription)
    await opened.wait()
    seconds = time.perf_counter() - begun
    await a.close()
    await b.close()
    return seconds


async def edgeice_channel(operator: Operator, device: Device) -> float:
    """Seconds from the offer to the device's first byte."""
    config = load_config(operator.config)
    offered: list[float] = []

    def watch(step: Step) -> None:
        if step.name == "offer":
            offered.append(time.perf_counter())

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the device's key is pinned")

    pinned = PublicKey(device.key.raw)
    key = PrivateKey.load(config.key.read_bytes(), source=str(config.key))
    async with open_session(
        config, key, device.name, pinned=pinned, want=(), confirm=confirm, watch=watch, timeout=PATIENCE
    ) as session:
        await PingClient(await session.open(PING_PROTOCOL)).round_trip()
        echoed = time.perf_counter()
    (begun,) = offered
    return echoed - begun


@contextlib.contextmanager
def fleet() -> Iterator[tuple[Operator, Device]]:
    """A broker and an agent that run, and an operator that they know."""
    if MOSQUITTO is None:
        raise SystemExit("connect.py needs mosquitto: apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as name:
        folder = Path(name)
        with mosquitto_sync(folder) as broker:
            url = f"mqtt://127.0.0.1:{broker.port}"
            device, operator = Device(folder / "pi", url), Operator(folder / "alice", url)
            # Logging as a device in service does.
            device.config.write_text(device.config.read_text().replace('level = "debug"', 'level = "info"'))
            device.trust(operator)
            operator.pin(device)
            with AgentProcess(device) as agent:
                agent.wait_log_sync("^announced ")
                yield operator, device


def measure(rounds: int) -> dict[str, float]:
    """Milliseconds by figure."""
    with fleet() as (operator, device), aioice_on_loopback():
        subjects: tuple[Callable[[], tuple[float, ...]], ...] = (
            lambda: trio.run(edgeice_ice),
            lambda: (asyncio.run(aioice_ice()),),
            lambda: (trio.run(edgeice_channel, operator, device),),
            lambda: (asyncio.run(aiortc_channel()),),
            *(cpu_of(count) for count in ADDRESSES),
        )
        samples = [[seconds for subject in subjects for seconds in subject()] for _ in range(rounds + 1)][1:]
    columns = zip(*samples, strict=True)
    return {name: round(statistics.median(column) * 1000, 2) for name, column in zip(_FIGURES, columns, strict=True)}


def cpu_of(count: int) -> Callable[[], tuple[float, ...]]:
    return lambda: (trio.run(edgeice_cpu, count), aioice_cpu(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=31, help="how often each is measured (default 31)")
    options = parser.parse_args()
    found = measure(options.rounds)
    print(
        f"ICE                  {found['ice_ms']:7.2f} ms   aioice {found['aioice_ms']:7.2f} ms"
        f"   (nominated {found['ice_nominated_ms']:.2f} ms)"
    )
    print(f"offer to first byte  {found['offer_to_first_byte_ms']:7.2f} ms   aiortc {found['aiortc_ms']:7.2f} ms")
    for count in ADDRESSES:
        ours, theirs = found[f"cpu_ms_{count}"], found[f"aioice_cpu_ms_{count}"]
        print(f"CPU, {count:2} addresses    {ours:7.2f} ms   aioice {theirs:7.2f} ms")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
