"""How soon a second command of the same operator begins, where `edgeice session` keeps a session open.

    python tests/bench/shared.py [--json] [--rounds N]

A real agent, and a real `edgeice session` of an operator that it trusts, on a local mosquitto; all on loopback.

- `second_command_first_byte_ms`: in a process that has imported what a command imports, from before it connects to the
  session's local socket to the first byte of the output of `echo` on the device.
- `exec_shared_ms`: wall time of the whole process `edgeice exec pi -- true` beside the open session.
- `exec_own_ms`: the same with `--no-share`: key, broker, ICE, DTLS and SCTP first.
- `import_ms`: wall time of a Python that imports Trio, click and attrs, on which commands are built, and ends.
- `python_ms`: wall time of `python -c pass`.

Medians; each round measures each once, in this order, and a first round warms up and does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.operator.config import load_config
from edgeice.operator.shared_client import join_shared
from edgeice.operator.shared_path import shared_socket
from edgeice.services import EXEC_PROTOCOL, STDOUT, open_exec
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, environment
from tests.support.brokers import MOSQUITTO, mosquitto_sync

_FIGURES = ("second_command_first_byte_ms", "exec_shared_ms", "exec_own_ms", "import_ms", "python_ms")


async def first_byte(socket: Path) -> float:
    """Seconds to the first byte of a command's output."""
    begun = time.perf_counter()
    shared = await join_shared(socket, "pi", ("exec",))
    async with shared.kept(None), open_exec(await shared.open(EXEC_PROTOCOL), ["echo", "x"]) as process:
        assert await process.read() == (STDOUT, b"x\n")
        seconds = time.perf_counter() - begun
        assert (await process.wait()).code == 0
    return seconds


def wall(operator: Operator, *arguments: str) -> float:
    """Seconds that a Python process takes, from its start to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment(operator.folder), stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def edgeice(operator: Operator, *arguments: str) -> float:
    """The same for `edgeice`."""
    return wall(operator, "-m", "edgeice.cli.main", *arguments)


@contextlib.contextmanager
def fleet() -> Iterator[Operator]:
    """An operator who keeps a session with the device open."""
    if MOSQUITTO is None:
        raise SystemExit("shared.py needs mosquitto: apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as name:
        folder = Path(name)
        with mosquitto_sync(folder) as broker:
            url = f"mqtt://127.0.0.1:{broker.port}"
            device, operator = Device(folder / "pi", url), Operator(folder / "alice", url)
            # Logging as a device in service does, and nothing that has to be left out is asked for.
            device.config.write_text(device.config.read_text().replace('level = "debug"', 'level = "info"'))
            device.trust(operator, can="shell,exec,forward:localhost:22,telemetry:*")
            operator.pin(device)
            with AgentProcess(device) as agent:
                agent.wait_log_sync("^announced ")
                edgeice(operator, "session", "--background", "--quiet", "--timeout", str(PATIENCE), "pi")
                try:
                    yield operator
                finally:
                    edgeice(operator, "session", "--stop", "--quiet", "pi")


def measure(rounds: int) -> dict[str, float]:
    """Milliseconds by figure."""
    with fleet() as operator:
        socket = shared_socket(load_config(operator.config), "pi", environment(operator.folder))
        samples = [
            (
                trio.run(first_byte, socket),
                edgeice(operator, "exec", "pi", "--", "true"),
                edgeice(operator, "exec", "--no-share", "--quiet", "pi", "--", "true"),
                wall(operator, "-c", "import trio, click, attrs"),
                wall(operator, "-c", "pass"),
            )
            for _ in range(rounds + 1)
        ][1:]
    columns = zip(*samples, strict=True)
    return {name: round(statistics.median(column) * 1000, 2) for name, column in zip(_FIGURES, columns, strict=True)}


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=21, help="how often each is measured (default 21)")
    options = parser.parse_args()
    found = measure(options.rounds)
    print(f"first byte      {found['second_command_first_byte_ms']:8.2f} ms over a session that is open")
    print(f"edgeice exec    {found['exec_shared_ms']:8.2f} ms with it, {found['exec_own_ms']:.2f} ms without")
    print(f"python -c pass  {found['python_ms']:8.2f} ms, with Trio, click and attrs {found['import_ms']:.2f} ms")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
