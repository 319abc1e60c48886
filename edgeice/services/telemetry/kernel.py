"""What the kernel tells in its text files, as numbers.

Each function takes a file's content and is total: what it cannot read is left out, nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from edgeice.text import printable

__all__ = [
    "CpuTimes",
    "parse_cpu_times",
    "parse_interfaces",
    "parse_load",
    "parse_memory",
    "parse_mounts",
    "parse_number",
    "parse_throttled",
    "parse_wifi",
]

#: What /proc/net/dev counts, by its column.
_COUNTERS = {
    "rx_bytes": 0,
    "rx_packets": 1,
    "rx_errors": 2,
    "rx_drops": 3,
    "tx_bytes": 8,
    "tx_packets": 9,
    "tx_errors": 10,
    "tx_drops": 11,
}
#: Bits of the Pi firmware's get_throttled; each is 16 higher for what was since the boot.
_THROTTLED = {"under_voltage": 0, "frequency_capped": 1, "throttled": 2, "soft_temperature_limit": 3}
#: Digits of what the kernel counts in 64 bits.
_LONGEST_NUMBER = 20
#: How /proc/self/mounts writes a space and the like.
_OCTAL = re.compile(rb"\\([0-7]{3})")


@attrs.frozen
class CpuTimes:
    """How long a processor has run, in the kernel's ticks."""

    total: int
    #: Of these, how long it had nothing to do, or waited for a disk.
    idle: int

    def busy_since(self, before: CpuTimes) -> float | None:
        """Per cent of the time that it was busy; None where no time has passed, or the counters went back."""
        total, idle = self.total - before.total, self.idle - before.idle
        if total <= 0 or not 0 <= idle <= total:
            return None
        return round(100 * (total - idle) / total, 1)


def _text(data: bytes) -> str:
    """A name from the kernel, safe to print and to send."""
    return printable(data.decode("utf-8", "replace"), None)


def parse_cpu_times(stat: bytes) -> dict[str, CpuTimes]:
    """From /proc/stat: the processors by name, `cpu` for all together and `cpu0`, … for each."""
    found: dict[str, CpuTimes] = {}
    for line in stat.splitlines():
        if not line.startswith(b"cpu"):
            break  # they stand first, and what follows is long
        name, *fields = line.split()
        try:
            times = [int(field) for field in fields[:8]]  # guests' time is part of the user's
        except ValueError:
            continue
        if len(times) >= 5:
            found[_text(name)] = CpuTimes(sum(times), times[3] + times[4])
    return found


def parse_memory(meminfo: bytes) -> dict[str, int]:
    """From /proc/meminfo: bytes by name."""
    found: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(b":")
        words = rest.split()
        if len(words) == 2 and words[1] == b"kB" and words[0].isdigit() and len(words[0]) <= _LONGEST_NUMBER:
            found[_text(name)] = int(words[0]) * 1024
    return found


def parse_load(loadavg: bytes) -> tuple[float, ...]:
    """From /proc/loadavg: the load over 1, 5 and 15 minutes; empty where it cannot be read."""
    words = loadavg.split()[:3]
    numbers = [number for number in map(parse_number, words) if number is not None]
    return tuple(numbers) if len(numbers) == 3 else ()


def parse_number(data: bytes) -> float | None:
    """The first word as a number that is finite, None for anything else."""
    try:
        number = float(data.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return None
    return number if abs(number) < 1e18 else None  # false for NaN as well


def parse_interfaces(dev: bytes, most: int) -> dict[str, Mapping[str, int]]:
    """From /proc/net/dev: counters by interface, without loopback; at most `most` interfaces."""
    found: dict[str, Mapping[str, int]] = {}
    for line in dev.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")
        fields = rest.split()
        if not colon or name.strip() == b"lo" or len(fields) < 16 or len(found) >= most:
            continue
        try:
            found[_text(name.strip())] = {counter: int(fields[column]) for counter, column in _COUNTERS.items()}
        except ValueError:
            continue
    return found


def parse_wifi(wireless: bytes, most: int) -> dict[str, float]:
    """From /proc/net/wireless: signal in dBm by interface; at most `most`."""
    found: dict[str, float] = {}
    for line in wireless.splitlines()[2:]:
        name, colon, rest = line.partition(b":")
        fields = rest.split()
        level = parse_number(fields[2]) if colon and len(fields) >= 3 else None
        if level is not None and -200 <= level < 0 and len(found) < most:  # some drivers give no dBm
            found[_text(name.strip())] = level
    return found


def parse_throttled(text: bytes) -> dict[str, bool]:
    """From a Pi's get_throttled: what holds now, and as `…_since_boot` what has held; empty where it is no number."""
    try:
        bits = int(text.strip(), 16)
    except ValueError:
        return {}
    found: dict[str, bool] = {}
    for name, bit in _THROTTLED.items():
        found[name] = bool(bits >> bit & 1)
        found[f"{name}_since_boot"] = bool(bits >> bit + 16 & 1)
    return found


def parse_mounts(mounts: bytes) -> dict[str, str]:
    """From /proc/self/mounts: the kind of file system by mount point; the one mounted last is on top."""
    found: dict[str, str] = {}
    for line in mounts.splitlines():
        words = line.split(b" ")
        if len(words) >= 3:
            point = _OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), words[1])
            found[point.decode("utf-8", "surrogateescape")] = _text(words[2])
    return found
