"""The stream `system`: one reading of the kernel's files, and the rows that it makes.

A reading costs what tests/bench/telemetry.py measures, so subscribers share one that is fresh.  Files are opened, read
in one go and closed: to keep them open would save a fifth of that, and cost a descriptor each, also while a subscriber
is content with one sample a minute.

Units are part of the names: `_bytes`, `_percent`, `_celsius`, `_dbm`, `_seconds`; what is without one is a count, a
load or a yes or no.  What a device does not have, or tells garbage about, is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from edgeice.services.telemetry.kernel import (
    CpuTimes,
    parse_cpu_times,
    parse_interfaces,
    parse_load,
    parse_memory,
    parse_mounts,
    parse_number,
    parse_throttled,
    parse_wifi,
)
from edgeice.text import printable

__all__ = ["Reading", "SystemReader", "Value", "rows_between"]

Value: TypeAlias = "float | int | bool | str"
#: (name, value, tags)
Fact: TypeAlias = "tuple[str, Value, Mapping[str, str]]"

#: Most of a file that is read, bytes; /proc/stat of a machine with hundreds of processors has its first lines within.
_FILE_LIMIT: Final = 65536
_MOST_INTERFACES: Final = 64
_MOST_SENSORS: Final = 64
_MOST_CORES: Final = 256
#: Seconds after which sensors and mounts are looked for again.
_LOOK_AGAIN: Final = 60.0
#: Seconds for which a reading is fresh: half the shortest interval.
_FRESH: Final = 0.05
#: Asking one of these how full it is may wait for a server or mount something: it would hold up the whole agent.
_REMOTE: Final = frozenset(
    {"9p", "afs", "autofs", "ceph", "cifs", "coda", "davfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_NO_TAGS: Final[Mapping[str, str]] = {}


@attrs.frozen
class Reading:
    """What was read at one time."""

    #: Processors by their names in /proc/stat.
    cpus: Mapping[str, CpuTimes]
    #: All that stands for itself.
    facts: tuple[Fact, ...]


def rows_between(before: Reading, now: Reading) -> list[Fact]:
    """A sample: what `now` tells, and how busy the processors were since `before`."""
    rows: list[Fact] = []
    for name, times in list(now.cpus.items())[:_MOST_CORES]:
        earlier = before.cpus.get(name)
        busy = None if earlier is None else times.busy_since(earlier)
        if busy is None:
            continue
        if name == "cpu":
            rows.append(("cpu.busy_percent", busy, _NO_TAGS))
        else:
            rows.append(("cpu.core_busy_percent", busy, {"core": name.removeprefix("cpu")}))
    rows.extend(now.facts)
    return rows


class SystemReader:
    """Reads the kernel's files.

    Args:
        root: Folder with `proc` and `sys`.
        mounts: Mount points to tell about.
        clock: Monotonic seconds.
    """

    def __init__(self, root: Path, mounts: tuple[Path, ...], clock: Callable[[], float]) -> None:
        self._root = str(root).rstrip("/")
        self._mounts = tuple(str(mount) for mount in mounts)
        self._clock = clock
        self._places: _Places | None = None
        self._looked_at = 0.0
        self._last: tuple[float, Reading] | None = None

    def read(self) -> Reading:
        """What holds now, or did less than 50 ms ago; never raises."""
        now = self._clock()
        if self._last is not None and now - self._last[0] < _FRESH:
            return self._last[1]
        if self._places is None or now - self._looked_at >= _LOOK_AGAIN:
            self._places, self._looked_at = _look(self._root, self._mounts), now
        reading = self._read(self._places)
        self._last = now, reading
        return reading

    def _read(self, places: _Places) -> Reading:
        facts: list[Fact] = []
        root = self._root
        cpus = parse_cpu_times(_read_file(f"{root}/proc/stat"))
        for minutes, load in zip((1, 5, 15), parse_load(_read_file(f"{root}/proc/loadavg")), strict=False):
            facts.append((f"load.{minutes}m", load, _NO_TAGS))
        uptime = parse_number(_read_file(f"{root}/proc/uptime"))
        if uptime is not None:
            facts.append(("uptime_seconds", uptime, _NO_TAGS))
        _add_memory(facts, parse_memory(_read_file(f"{root}/proc/meminfo")))
        for mount in places.mounts:
            _add_disk(facts, mount)
        for path, tags in places.temperatures:
            millidegrees = parse_number(_read_file(path))
            if millidegrees is not None:
                facts.append(("temperature_celsius", round(millidegrees / 1000, 1), tags))
        for name, counters in parse_interfaces(_read_file(f"{root}/proc/net/dev"), _MOST_INTERFACES).items():
            tags = {"interface": name}
            facts.extend((f"net.{counter}", value, tags) for counter, value in counters.items())
        if places.wifi:
            signals = parse_wifi(_read_file(f"{root}/proc/net/wireless"), _MOST_INTERFACES)
            facts.extend(("wifi.signal_dbm", level, {"interface": name}) for name, level in signals.items())
        _add_power(facts, places)
        return Reading(cpus, tuple(facts))


def _add_memory(facts: list[Fact], memory: Mapping[str, int]) -> None:
    for name, key in (("total", "MemTotal"), ("available", "MemAvailable")):
        if key in memory:
            facts.append((f"memory.{name}_bytes", memory[key], _NO_TAGS))
    if memory.get("MemTotal") and "MemAvailable" in memory:
        used = 100 * (1 - memory["MemAvailable"] / memory["MemTotal"])
        facts.append(("memory.used_percent", round(used, 1), _NO_TAGS))
    if memory.get("SwapTotal") and "SwapFree" in memory:
        facts.append(("swap.total_bytes", memory["SwapTotal"], _NO_TAGS))
        facts.append(("swap.used_bytes", max(memory["SwapTotal"] - memory["SwapFree"], 0), _NO_TAGS))


def _add_disk(facts: list[Fact], mount: str) -> None:
    try:
        found = os.statvfs(mount)
    except (OSError, ValueError):
        return
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    if used + free <= 0:
        return  # a file system that has no size
    tags = {"mount": mount}
    facts.append(("disk.total_bytes", total, tags))
    facts.append(("disk.free_bytes", free, tags))
    # As df has it: of what can be used, root's reserve aside.
    facts.append(("disk.used_percent", round(100 * used / (used + free), 1), tags))


def _add_power(facts: list[Fact], places: _Places) -> None:
    if places.throttled is not None:
        states = parse_throttled(_read_file(places.throttled))
        facts.extend((f"power.{name}", holds, _NO_TAGS) for name, holds in states.items())
    elif places.under_voltage is not None:
        alarm = parse_number(_read_file(places.under_voltage))
        if alarm is not None:
            facts.append(("power.under_voltage", alarm != 0, _NO_TAGS))


# What is where


@attrs.frozen
class _Places:
    """What this device has besides what every Linux has."""

    #: Files with thousandths of degrees, and what is told of each.
    temperatures: tuple[tuple[str, Mapping[str, str]], ...]
    #: The Pi firmware's file, None elsewhere.
    throttled: str | None
    #: The alarm of a Pi's voltage sensor, where only that is there.
    under_voltage: str | None
    mounts: tuple[str, ...]
    wifi: bool


def _look(root: str, mounts: tuple[str, ...]) -> _Places:
    zones = _zones(f"{root}/sys/class/thermal")
    chips = {f"{root}/sys/class/hwmon/{name}": "" for name in _names(f"{root}/sys/class/hwmon")}
    chips = {folder: _label(f"{folder}/name") for folder in chips}
    known = {tags["sensor"].replace("-", "_") for _path, tags in zones}
    # The kernel shows its thermal zones as chips too.
    others = [
        found
        for folder, chip in chips.items()
        if chip and chip.replace("-", "_") not in known
        for found in _chip_temperatures(folder, chip)
    ]
    throttled = f"{root}/sys/devices/platform/soc/soc:firmware/get_throttled"
    alarms = [f"{folder}/in0_lcrit_alarm" for folder, chip in chips.items() if chip == "rpi_volt"]
    kinds = parse_mounts(_read_file(f"{root}/proc/self/mounts"))
    return _Places(
        temperatures=tuple([*zones, *others][:_MOST_SENSORS]),
        throttled=throttled if _exists(throttled) else None,
        under_voltage=alarms[0] if alarms else None,
        mounts=tuple(mount for mount in mounts if not _is_remote(mount, kinds)),
        wifi=_exists(f"{root}/proc/net/wireless"),
    )


def _zones(folder: str) -> list[tuple[str, Mapping[str, str]]]:
    return [
        (f"{folder}/{name}/temp", {"sensor": _label(f"{folder}/{name}/type") or name})
        for name in _names(folder)
        if name.startswith("thermal_zone")
    ]


def _chip_temperatures(folder: str, chip: str) -> list[tuple[str, Mapping[str, str]]]:
    found: list[tuple[str, Mapping[str, str]]] = []
    for name in _names(folder):
        if name.startswith("temp") and name.endswith("_input"):
            stem = name.removesuffix("_input")
            found.append((f"{folder}/{name}", {"sensor": f"{chip} {_label(f'{folder}/{stem}_label') or stem}"}))
    return found


def _is_remote(mount: str, kinds: Mapping[str, str]) -> bool:
    inside = [point for point in kinds if mount == point or mount.startswith(f"{point.rstrip('/')}/")]
    kind = kinds[max(inside, key=len)] if inside else ""
    return kind in _REMOTE or kind.startswith("fuse")


def _names(folder: str) -> list[str]:
    """What a folder holds, in an order that stays."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  # names are what is wanted
    except OSError:
        return []


def _label(path: str) -> str:
    """A name that a driver gives, safe to print."""
    return printable(_read_file(path).decode("utf-8", "replace").strip(), 64)


def _exists(path: str) -> bool:
    return os.access(path, os.R_OK)


def _read_file(path: str) -> bytes:
    """What one read of a file gives, b"" where that fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, _FILE_LIMIT)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
