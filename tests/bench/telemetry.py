"""What telemetry takes of a device's processor.

    python tests/bench/telemetry.py [--json] [--rounds N] [--samples N] [--seconds N]

- `system_us`: microseconds of CPU that one sample of the stream `system` takes on this machine, the kernel's time
  included: reading its files, and making the message of them.  `system_rows` is how many rows that has.
- `local_us`: microseconds of CPU for one datagram of one line, taken from the socket into the ring, while a process
  writes as many as it can.
- `local_per_s`: how many a second get through then: the agent gives a quarter of a processor to that.

Medians over rounds.  A subscriber's channel is not part of it; see datachannel.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.sansio import DropCounter, Entropy
from edgeice.services.telemetry.local import LocalStream, Ring
from edgeice.services.telemetry.system import SystemReader, rows_between
from edgeice.services.telemetry.wire import SYSTEM, Cursor, encode_row, encode_samples, pack

_WRITER = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
    writer.connect(sys.argv[1])
    try:
        while True:
            writer.send(b'{"name":"door.open","value":true,"tags":{"door":"shed"}}')
    except OSError:
        pass  # the socket is gone
"""


def system(samples: int) -> tuple[float, int]:
    """Microseconds of CPU for a sample, and its rows."""
    clock = itertools.count()
    reader = SystemReader(Path("/"), (Path("/"),), lambda: next(clock))
    before = reader.read()
    rows = 0
    begun = time.process_time()
    for number in range(samples):
        now = reader.read()
        encoded = [encode_row(1.0, *row) for row in rows_between(before, now)]
        for group in pack((row, len(row.encode())) for row in encoded):
            encode_samples(Cursor(SYSTEM, "0" * 8, number), group)
        rows = max(rows, len(encoded))
        before = now
    return (time.process_time() - begun) / samples * 1e6, rows


def local(seconds: float) -> tuple[float, float]:
    """Microseconds of CPU for a datagram, and datagrams a second."""
    with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as folder:
        path = Path(folder) / "telemetry.sock"
        stream = LocalStream(path, time.time, Entropy(), DropCounter())
        ring = stream.open()
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)]) as writer:
            try:
                return trio.run(_take, stream, ring, seconds)
            finally:
                writer.kill()
                stream.close()


async def _take(stream: LocalStream, ring: Ring, seconds: float) -> tuple[float, float]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.read)
        await ring.wait_beyond(0)
        first, cpu, begun = ring.newest, time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        taken = ring.newest - first
        cpu, passed = time.process_time() - cpu, time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    return cpu / taken * 1e6, taken / passed


def measure(rounds: int, samples: int, seconds: float) -> dict[str, float]:
    """Values by figure."""
    systems = [system(samples) for _ in range(rounds)]
    locals_ = [local(seconds) for _ in range(rounds)]
    return {
        "system_us": round(statistics.median(cost for cost, _rows in systems), 1),
        "system_rows": systems[0][1],
        "local_us": round(statistics.median(cost for cost, _rate in locals_), 2),
        "local_per_s": round(statistics.median(rate for _cost, rate in locals_)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--samples", type=int, default=500, help="samples of the system a round (default 500)")
    parser.add_argument("--seconds", type=float, default=2, help="how long datagrams are written a round (default 2)")
    options = parser.parse_args()
    found = measure(options.rounds, options.samples, options.seconds)
    print(f"system  {found['system_us']:8.1f} µs   {found['system_rows']} rows")
    print(f"local   {found['local_us']:8.2f} µs   {found['local_per_s']} /s get through")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
