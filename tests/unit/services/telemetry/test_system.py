"""One sample, on trees of files as devices have them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edgeice.services.telemetry.system import SystemReader, Value, rows_between
from tests.support.telemetry import plant
from tests.unit.services.telemetry.test_kernel import DEV, STAT, WIRELESS

MEMORY = "MemTotal:        3884332 kB\nMemFree:         1000000 kB\nMemAvailable:    2913249 kB\n"
SWAP = "SwapTotal:        102396 kB\nSwapFree:          51198 kB\n"

#: Raspberry Pi OS on a Pi 4: the firmware's file, its voltage sensor, and the CPU's zone shown as a chip as well.
PI_4: dict[str, str | bytes] = {
    "proc/stat": STAT,
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "proc/uptime": "350735.47 234388.90\n",
    "proc/meminfo": MEMORY + SWAP,
    "proc/net/dev": DEV,
    "proc/net/wireless": WIRELESS,
    "proc/self/mounts": "/dev/root / ext4 rw 0 0\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "48312\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
    "sys/class/hwmon/hwmon2/name": "nvme\n",
    "sys/class/hwmon/hwmon2/temp1_input": "35850\n",
    "sys/class/hwmon/hwmon2/temp1_label": "Composite\n",
    "sys/class/hwmon/hwmon2/temp2_input": "36000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}
#: Debian on a Zero 2: no swap, no firmware's file, no /proc/net/wireless, one interface.
ZERO_2: dict[str, str | bytes] = {
    "proc/stat": STAT,
    "proc/loadavg": "0.00 0.01 0.05 1/90 400\n",
    "proc/uptime": "60.00 200.00\n",
    "proc/meminfo": "MemTotal:         437000 kB\nMemAvailable:     218500 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
    "proc/net/dev": "\n\nwlan0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "41000\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "41000\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
}


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sample(root: Path, mounts: tuple[Path, ...] = (), later: str = "") -> dict[str, Value]:
    """Two readings of a tree, the second with /proc/stat as in `later`; values by name and tags."""
    clock = Clock()
    reader = SystemReader(root, mounts, clock)
    before = reader.read()
    if later:
        plant(root, {"proc/stat": later})
    clock.now += 1
    rows = rows_between(before, reader.read())
    return {" ".join((name, *tags.values())): value for name, value, tags in rows}


def test_a_pi_4(tmp_path: Path) -> None:
    later = "cpu 200 10 50 800 140 0 5 0 0 0\ncpu0 60 5 25 500 20 0 5 0\ncpu2 1 1 1 1 1 1 1 1\n"
    found = sample(plant(tmp_path, PI_4), (tmp_path,), later)
    (total, free, used) = (
        found.pop(f"disk.{name} {tmp_path}") for name in ("total_bytes", "free_bytes", "used_percent")
    )
    disk = os.statvfs(tmp_path)
    assert total == disk.f_blocks * disk.f_frsize
    assert isinstance(free, int)
    assert isinstance(used, float)
    assert 0 < free < total
    assert 0 < used < 100
    assert found == {
        "cpu.busy_percent": 50.0,
        "cpu.core_busy_percent 0": 0.0,  # 1 went away, and 2 was not there before
        "load.1m": 0.52,
        "load.5m": 0.58,
        "load.15m": 0.59,
        "uptime_seconds": 350735.47,
        "memory.total_bytes": 3884332 * 1024,
        "memory.available_bytes": 2913249 * 1024,
        "memory.used_percent": 25.0,
        "swap.total_bytes": 102396 * 1024,
        "swap.used_bytes": 51198 * 1024,
        "temperature_celsius cpu-thermal": 48.3,
        "temperature_celsius nvme Composite": 35.9,
        "temperature_celsius nvme temp2": 36.0,
        **{
            f"net.{way}_{what} {name}": value
            for name, values in {
                "eth0": (1000, 11, 1, 2, 2000, 22, 3, 4),
                "wlan0": (123456789, 5, 0, 0, 7, 6, 0, 0),
                "br:1": (1, 2, 3, 4, 5, 6, 7, 8),
            }.items()
            for (way, what), value in zip(
                ((way, what) for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "drops")),
                values,
                strict=True,
            )
        },
        "wifi.signal_dbm wlan0": -52.0,
        "power.under_voltage": True,
        "power.under_voltage_since_boot": True,
        "power.frequency_capped": False,
        "power.frequency_capped_since_boot": False,
        "power.throttled": True,
        "power.throttled_since_boot": True,
        "power.soft_temperature_limit": False,
        "power.soft_temperature_limit_since_boot": False,
    }


def test_a_zero_2(tmp_path: Path) -> None:
    found = sample(plant(tmp_path, ZERO_2), later=STAT.decode().replace("800", "900").replace("400", "500"))
    assert {name: value for name, value in found.items() if not name.startswith("net.")} == {
        "cpu.busy_percent": 0.0,
        "cpu.core_busy_percent 0": 0.0,
        "cpu.core_busy_percent 1": 0.0,
        "load.1m": 0.0,
        "load.5m": 0.01,
        "load.15m": 0.05,
        "uptime_seconds": 60.0,
        "memory.total_bytes": 437000 * 1024,
        "memory.available_bytes": 218500 * 1024,
        "memory.used_percent": 50.0,
        "temperature_celsius cpu-thermal": 41.0,
        "power.under_voltage": True,
    }
    assert len([name for name in found if name.startswith("net.")]) == 8


def test_nothing_there_is_an_empty_sample(tmp_path: Path) -> None:
    assert sample(tmp_path, (tmp_path / "no such mount", Path("/\0"))) == {}


@pytest.mark.parametrize("name", sorted(PI_4))
def test_a_file_that_is_missing_takes_away_its_own_rows_only(tmp_path: Path, name: str) -> None:
    whole = sample(plant(tmp_path / "whole", PI_4), later=STAT.decode().replace("800", "900"))
    part = sample(plant(tmp_path / "part", {each: text for each, text in PI_4.items() if each != name}))
    gone = {
        "proc/stat": "cpu.",
        "proc/loadavg": "load.",
        "proc/uptime": "uptime_",
        "proc/net/dev": "net.",
        "proc/net/wireless": "wifi.",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "power.",
        "sys/class/hwmon/hwmon2/name": "temperature_celsius nvme",
        "sys/class/hwmon/hwmon2/temp2_input": "temperature_celsius nvme temp2",
    }.get(name)
    if gone is not None:
        assert not [each for each in part if each.startswith(gone) and each != "power.under_voltage"]
    kept = {each for each in whole if not each.startswith(("cpu.", "memory.", "swap.", "temp", gone or "\0"))}
    assert kept <= set(part)


def test_garbage_in_any_file_raises_nothing(tmp_path: Path) -> None:
    dice = random.Random(3)
    junk = [b"", b"\n", b"\xff\xfe", b"-1", b"nan", b"1e999", b"9" * 5000, b"a:b:c\n" * 9, b"\0" * 99]
    for turn in range(60):
        root = plant(
            tmp_path / str(turn), {name: dice.choice([text, dice.choice(junk)]) for name, text in PI_4.items()}
        )
        for name, value in sample(root).items():
            assert name.isprintable()
            assert isinstance(value, int | float)


def test_a_folder_in_the_place_of_a_file_is_left_out(tmp_path: Path) -> None:
    root = plant(tmp_path, {f"{name}/x": "" for name in ("proc/stat", "proc/uptime", "proc/self/mounts")})
    assert sample(root) == {}


def test_a_fifo_does_not_hold_up_the_agent(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc" / "uptime")
    assert sample(tmp_path) == {}


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "autofs"])
def test_file_systems_behind_a_server_are_left_out(tmp_path: Path, kind: str) -> None:
    mount = tmp_path / "mnt" / "a b"
    mount.mkdir(parents=True)
    point = str(mount).replace(" ", "\\040")
    root = plant(tmp_path, {"proc/self/mounts": f"/dev/root / ext4 rw 0 0\nserver:/x {point} {kind} rw 0 0\n"})
    assert sample(root, (mount, mount / "below")) == {}
    assert len(sample(root, (tmp_path,))) == 3


def test_a_fresh_reading_is_shared(tmp_path: Path) -> None:
    clock = Clock()
    reader = SystemReader(plant(tmp_path, PI_4), (), clock)
    first = reader.read()
    clock.now += 0.049
    assert reader.read() is first
    clock.now += 0.002
    assert reader.read() is not first


def test_sensors_are_looked_for_again_after_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    reader = SystemReader(plant(tmp_path, ZERO_2), (), clock)
    reader.read()
    plant(tmp_path, {"sys/class/hwmon/hwmon5/name": "ds18b20", "sys/class/hwmon/hwmon5/temp1_input": "20000"})
    sensors = []
    for _ in range(3):
        clock.now += 30.0
        reading = reader.read()
        sensors.append([tags["sensor"] for name, _value, tags in reading.facts if name == "temperature_celsius"])
    assert sensors == [["cpu-thermal"], ["cpu-thermal", "ds18b20 temp1"], ["cpu-thermal", "ds18b20 temp1"]]


def test_this_machine() -> None:
    found = sample(Path("/"), (Path("/"),))
    assert {"load.1m", "uptime_seconds", "memory.total_bytes", "disk.total_bytes /"} <= set(found)
