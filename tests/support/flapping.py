"""An interface of the present network namespace that comes and goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# As a process of its own, whose time is not that of what is measured, and by ioctls, since starting ip(8) takes longer.
_FLAP = """
import fcntl, itertools, socket, struct, sys, time
fault, pause = sys.argv[1], float(sys.argv[2])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    began = time.monotonic()
    for number in itertools.count():
        on = bool(number % 2)
        if fault == "address":  # SIOCSIFADDR
            raw = socket.inet_aton("192.0.2.7" if on else "0.0.0.0")
            fcntl.ioctl(sock, 0x8916, struct.pack("16sHH4s8x", b"eth0", socket.AF_INET, 0, raw))
        else:  # SIOCGIFFLAGS, SIOCSIFFLAGS
            name = b"far-eth0" if fault == "carrier" else b"eth0"
            (flags,) = struct.unpack("16xH14x", fcntl.ioctl(sock, 0x8913, struct.pack("16s16x", name)))
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", name, flags | 1 if on else flags & ~1))
        time.sleep(max(0, began + number * pause - time.monotonic()))
"""


@contextmanager
def flapping(fault: str) -> Iterator[None]:
    """Take something of eth0 away and give it back a hundred times a second.

    `fault`: `address` (192.0.2.7), `carrier` (by its other end, far-eth0) or `down`.
    """
    process = subprocess.Popen([sys.executable, "-c", _FLAP, fault, "0.005"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
