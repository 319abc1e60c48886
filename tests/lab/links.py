"""What joins two namespaces: a TAP device in each, and a relay process between them."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.lab.namespaces import LabError, inside, ip

__all__ = ["TUN", "Carried", "Impairment", "Link", "Wire"]

#: Where the kernel gives TAP devices.
TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
#: Frames that a device keeps for a relay that is late.
_QUEUE_LENGTH = 5000
_ENDING_TIME = 2.0


@attrs.frozen(kw_only=True)
class Impairment:
    """What a link does to each frame, in either direction alike; times in seconds."""

    #: Time on the way.
    delay: float = 0.0
    #: The delay varies evenly by so much to either side; frames keep their order.
    jitter: float = 0.0
    #: Share of frames that are lost, 0 to 1, each by a throw of its own.
    loss: float = 0.0
    #: Bits a second of Ethernet payload; 0 is as fast as the relay is.
    rate: float = 0.0
    #: How long a frame waits for its turn at that rate at most; it is dropped where that would be longer.
    queue: float = 0.2


@attrs.frozen
class Carried:
    """What a link did to the frames of one direction."""

    carried: int
    #: Frames that `Impairment.loss` took.
    lost: int
    #: Frames for which there was no room.
    overflowed: int


class Wire:
    """Two TAP devices without addresses, and the process that carries frames between them.

    Args:
        ends: By end, the namespace and its device to be made.
    """

    def __init__(self, ends: Sequence[tuple[str, str]]) -> None:
        taps: list[int] = []
        try:
            for namespace, device in ends:
                taps.append(_open_tap(namespace, device))
            self._relay = subprocess.Popen(
                # isolated: it needs nothing but the standard library, and is there sooner
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py")), *map(str, taps)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=taps,
            )
        finally:
            for tap in taps:
                os.close(tap)

    def impair(self, impairment: Impairment, *, seed: int = 0) -> None:
        """Treat frames so from now on.

        Args:
            impairment: How; `Impairment()` does nothing.
            seed: Of the throws of the direction from the first end to the second; the other's is one more.
        """
        self._ask({**attrs.asdict(impairment), "seed": seed})

    def carried(self) -> tuple[Carried, Carried]:
        """What happened so far: from the first end to the second, and back."""
        there, back = self._ask({})
        return Carried(**there), Carried(**back)

    def set_carrier(self, *, on: bool) -> None:
        """Plug both devices in or out, as their drivers would tell."""
        self._ask({"carrier": on})

    def close(self) -> None:
        """End the relay; the devices are gone with it."""
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.close()
        try:
            self._relay.wait(_ENDING_TIME)
        except subprocess.TimeoutExpired:
            self._relay.kill()
            self._relay.wait()
        self._relay.stdout.close()

    def _ask(self, order: dict[str, float]) -> list[dict[str, int]]:
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        try:
            print(json.dumps(order), file=self._relay.stdin, flush=True)
        except BrokenPipeError:
            raise LabError("the relay has ended") from None
        line = self._relay.stdout.readline()
        if not line:
            raise LabError("the relay has ended")
        answer: list[dict[str, int]] = json.loads(line)
        return answer


class Link(Wire):
    """Joins two namespaces with a point-to-point link.  Made by `Lab.link`.

    Args:
        ends: By end, the namespace, its device to be made, and the device's address.
        prefix: Length of the link's IPv4 prefix.
    """

    def __init__(self, ends: Sequence[tuple[str, str, str]], prefix: int) -> None:
        #: The addresses of its ends.
        self.addresses = tuple(address for _, _, address in ends)
        super().__init__([(namespace, device) for namespace, device, _ in ends])
        try:
            for number, (namespace, device, address) in enumerate(ends):
                # Neighbors are given, so that nothing but what hosts send is on the link, and throws are repeatable.
                ip(
                    "-n",
                    namespace,
                    batch=f"link set {device} address {_hardware(number)} txqueuelen {_QUEUE_LENGTH} up\n"
                    f"address add {address}/{prefix} dev {device}\n"
                    f"neighbor add {self.addresses[1 - number]} lladdr {_hardware(1 - number)} dev {device}"
                    " nud permanent\n",
                )
            self.impair(Impairment())
        except BaseException:
            self.close()
            raise


def _hardware(number: int) -> str:
    return f"02:00:00:00:00:{number + 1:02x}"


def _open_tap(namespace: str, device: str) -> int:
    with inside(namespace):
        tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
        except BaseException:
            os.close(tap)
            raise
    return tap
