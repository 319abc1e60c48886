"""What an agent takes of its device while nobody uses it, and with each session.

    python tests/bench/footprint.py [--json] [--python FILE] [--rounds N] [--sessions N] [--seconds N]

A real `edgeice-agent run` on a local mosquitto over TLS, with one operator, logging as a device in service does.

- `ready_ms`: from before the process is started to the line `announced` in its log: connected, subscribed, and its
  state and birth document at the broker.  The broker knows the device from before; one that it does not know waits
  another half second for the document that it might have there.
- `idle_rss_mib`: VmRSS of the agent, pages that it shares with others included, a moment after it was announced.
- `session_rss_mib`: the same with one open session: its own channel and one of `edgeice.ping.1` that has answered.
- `per_session_mib`: what each further session such as that adds: the slope of a line through VmRSS at one session and
  at each of several more, all open together.
- `wakeups_per_min`: how often the idle process went to sleep by itself (voluntary context switches in /proc/PID/status,
  of all its threads), over some time from a moment after it was announced on.
- `idle_modules`: modules that it has imported when it ends, never used, where only what a device needs is installed.

`--python` is the interpreter of the agent.  With the one of this development environment paho finds dnspython and more;
a device has neither.  `python3 -m venv lean && lean/bin/pip install .` makes one with a device's wheels, for
`--python lean/bin/python`; a venv of Debian's python3 with `--system-site-packages`, after `apt-get install
python3-cryptography python3-openssl`, one with Debian's builds of what is large.

The first four are medians over rounds; each starts the agent anew.  The others are measured once, before.  The kernel's
caches are warm, and so are Python's compiled files.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.operator.config import load_config
from edgeice.operator.interface import Step
from edgeice.operator.session import open_session
from edgeice.services import PING_PROTOCOL, PingClient
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator
from tests.architecture.test_idle import _AGENT, absent_modules
from tests.support.brokers import MOSQUITTO, mosquitto_sync

#: Seconds for what the start or a session leaves to be done, before anything is read.
_REST = 1.0
_FIGURES = ("ready_ms", "idle_rss_mib", "session_rss_mib", "per_session_mib")


class LeanDevice(Device):
    """A device on which only what it needs can be imported, and that writes the modules' names when it ends."""

    @property
    def modules(self) -> Path:
        return self.folder / "modules"

    def command(self, *arguments: str) -> list[str]:
        code = _AGENT.format(absent=absent_modules(), to=str(self.modules))
        return [sys.executable, "-c", code, *arguments, "--config", str(self.config)]


class InstalledDevice(Device):
    """A device whose agent runs on the interpreter that was asked for."""

    python = sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [self.python, *super().command(*arguments)[1:]]


class Fleet:
    """A broker that speaks TLS, and an operator whom its devices trust."""

    def __init__(self, folder: Path, url: str, ca: Path) -> None:
        self.folder, self._url, self._ca = folder, url, ca
        self.operator = Operator(folder / "alice", url, ca=ca)

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[Fleet]:
        if MOSQUITTO is None:
            raise SystemExit("footprint.py needs mosquitto: apt-get install mosquitto")
        with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as name:
            folder = Path(name)
            with mosquitto_sync(folder, tls=True) as broker:
                assert broker.authority is not None
                yield cls(folder, f"mqtts://localhost:{broker.tls_port}", broker.authority.cafile)

    def device(self, name: str, kind: type[Device] = Device) -> Device:
        device = kind(self.folder / name, self._url, name, ca=self._ca)
        device.config.write_text(device.config.read_text().replace('level = "debug"', 'level = "info"'))
        device.trust(self.operator)
        self.operator.pin(device)
        return device


class Agent:
    """An agent that was announced."""

    def __init__(self, pid: int, ready: float) -> None:
        self._proc = Path(f"/proc/{pid}")
        #: Seconds from its start.
        self.ready = ready

    @classmethod
    @contextlib.contextmanager
    def running(cls, device: Device) -> Iterator[Agent]:
        (device.folder / "log").unlink(missing_ok=True)  # what an earlier start wrote
        begun = time.perf_counter()
        with AgentProcess(device) as agent:
            while "announced " not in agent.log():
                if agent.code is not None or time.perf_counter() > begun + PATIENCE:
                    raise RuntimeError(f"the agent was not announced:\n{agent.log()}")
                time.sleep(0.001)
            ready = time.perf_counter() - begun
            assert agent._process is not None
            yield cls(agent._process.pid, ready)

    def rss(self) -> float:
        """MiB."""
        return _number(self._proc / "status", "VmRSS") / 1024

    def switches(self) -> dict[str, int]:
        """Voluntary context switches so far, by thread."""
        return {
            task.name: _number(task / "status", "voluntary_ctxt_switches") for task in (self._proc / "task").iterdir()
        }


def _number(path: Path, name: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def count_modules(fleet: Fleet) -> int:
    device = fleet.device("lean", LeanDevice)
    with Agent.running(device):
        pass
    return len(ast.literal_eval((fleet.folder / "lean" / "modules").read_text()))


def count_wakeups(device: Device, seconds: float) -> float:
    """By the minute."""
    with Agent.running(device) as agent:
        time.sleep(_REST)
        before, begun = agent.switches(), time.perf_counter()
        time.sleep(seconds)
        after, passed = agent.switches(), time.perf_counter() - begun
    return sum(count - before.get(thread, 0) for thread, count in after.items()) * 60 / passed


async def sessions_rss(fleet: Fleet, device: Device, agent: Agent, count: int) -> list[float]:
    """MiB with one session, two, and so on."""
    config = load_config(fleet.operator.config)
    key = PrivateKey.load(config.key.read_bytes(), source=str(config.key))
    pinned = PublicKey(device.key.raw)

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the device's key is pinned")

    def watch(_step: Step) -> None:
        pass

    found: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            session = await stack.enter_async_context(
                open_session(
                    config, key, device.name, pinned=pinned, want=(), confirm=confirm, watch=watch, timeout=PATIENCE
                )
            )
            await PingClient(await session.open(PING_PROTOCOL)).round_trip()
            await trio.sleep(_REST)
            found.append(agent.rss())
    return found


def one_round(fleet: Fleet, device: Device, further: int) -> tuple[float, float, float, float]:
    """The figures in their order."""
    with Agent.running(device) as agent:
        time.sleep(_REST)
        idle = agent.rss()
        found = trio.run(sessions_rss, fleet, device, agent, 1 + further)
    slope = statistics.linear_regression(range(len(found)), found).slope
    return agent.ready * 1000, idle, found[0], slope


def measure(rounds: int, sessions: int, seconds: float) -> dict[str, float]:
    """Values by figure."""
    with Fleet.running() as fleet:
        modules = count_modules(fleet)
        device = fleet.device("pi", InstalledDevice)
        wakeups = count_wakeups(device, seconds)
        samples = [one_round(fleet, device, sessions) for _ in range(rounds)]
    medians = {
        name: round(statistics.median(column), 2)
        for name, column in zip(_FIGURES, zip(*samples, strict=True), strict=True)
    }
    return {**medians, "wakeups_per_min": round(wakeups, 2), "idle_modules": modules}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="how often the agent is started (default 5)")
    parser.add_argument(
        "--sessions",
        type=int,
        default=5,
        choices=range(1, 8),
        metavar="N",
        help="sessions after the first, 1 to 7 (default 5)",
    )
    parser.add_argument("--seconds", type=float, default=120, help="how long wake-ups are counted (default 120)")
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="the agent's interpreter")
    options = parser.parse_args()
    InstalledDevice.python = options.python
    found = measure(options.rounds, options.sessions, options.seconds)
    print(f"ready     {found['ready_ms']:8.1f} ms")
    print(f"idle      {found['idle_rss_mib']:8.2f} MiB   {found['idle_modules']} modules")
    print(f"wake-ups  {found['wakeups_per_min']:8.2f} /min")
    print(f"session   {found['session_rss_mib']:8.2f} MiB   and {found['per_session_mib']:.3f} MiB for each more")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
