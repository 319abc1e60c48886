from __future__ import annotations

import random

import pytest

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

STAT = b"""cpu  100 10 50 800 40 0 5 0 7 7
cpu0 60 5 25 400 20 0 5 0 0 0
cpu1 40 5 25 400 20 0 0 0 0 0
intr 12345 0 0
ctxt 1
"""
DEV = b"""Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compr
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0     0
  eth0: 1000 11 1 2 0 0 0 0 2000 22 3 4 0 0 0 0
wlan0:123456789 5 0 0 0 0 0 0 7 6 0 0 0 0 0 0
  br:1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
"""
WIRELESS = b"""Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
 wlan0: 0000   58.  -52.  -256        0      0      0      0      0        0
 wlan1: 0000   58.  58.  -256        0      0      0      0      0        0
"""


def test_processors() -> None:
    assert parse_cpu_times(STAT) == {
        "cpu": CpuTimes(1005, 840),
        "cpu0": CpuTimes(515, 420),
        "cpu1": CpuTimes(490, 420),
    }


@pytest.mark.parametrize(
    ("before", "now", "busy"),
    [
        (CpuTimes(100, 50), CpuTimes(200, 75), 75.0),
        (CpuTimes(100, 50), CpuTimes(400, 350), 0.0),
        (CpuTimes(100, 50), CpuTimes(400, 149), 67.0),
        (CpuTimes(100, 50), CpuTimes(100, 50), None),
        (CpuTimes(100, 50), CpuTimes(90, 40), None),
        # idle and iowait go back now and then (proc(5))
        (CpuTimes(100, 50), CpuTimes(110, 49), None),
        (CpuTimes(100, 50), CpuTimes(110, 61), None),
    ],
)
def test_how_busy_a_processor_was(before: CpuTimes, now: CpuTimes, busy: float | None) -> None:
    assert now.busy_since(before) == busy


def test_load_memory_and_numbers() -> None:
    assert parse_load(b"0.52 0.58 0.59 1/467 12345\n") == (0.52, 0.58, 0.59)
    assert parse_memory(b"MemTotal:        3884332 kB\nHugePages_Total:       0\nMemFree:\nx: y kB\n") == {
        "MemTotal": 3884332 * 1024
    }
    assert parse_memory(b"MemTotal: " + b"9" * 5000 + b" kB\nMemFree: 1 kB\n") == {"MemFree": 1024}
    assert parse_number(b"48312\n") == 48312
    assert parse_number(b"-5000\n") == -5000
    for nothing in (b"", b"\n", b"x", b"nan", b"inf", b"1e400", b"\xff"):
        assert parse_number(nothing) is None
    for nothing in (b"", b"0.5 0.5", b"0.5 x 0.5"):
        assert parse_load(nothing) == ()


def test_interfaces_but_loopback() -> None:
    found = parse_interfaces(DEV, 64)
    assert list(found) == ["eth0", "wlan0", "br:1"]
    assert found["eth0"] == {
        "rx_bytes": 1000,
        "rx_packets": 11,
        "rx_errors": 1,
        "rx_drops": 2,
        "tx_bytes": 2000,
        "tx_packets": 22,
        "tx_errors": 3,
        "tx_drops": 4,
    }
    assert found["wlan0"]["rx_bytes"] == 123456789
    assert list(parse_interfaces(DEV, 1)) == ["eth0"]


def test_signal_where_the_driver_gives_decibels() -> None:
    assert parse_wifi(WIRELESS, 64) == {"wlan0": -52.0}
    assert parse_wifi(WIRELESS, 0) == {}


def test_a_name_is_safe_to_print() -> None:
    line = b"\n\n\x1b[2J\xff: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
    assert list(parse_interfaces(line, 64)) == ["?[2J\ufffd"]


@pytest.mark.parametrize(
    ("text", "now", "since_boot"),
    [
        (b"0x0\n", set(), set()),
        (b"50005\n", {"under_voltage", "throttled"}, {"under_voltage", "throttled"}),
        (b"0x80000\n", set(), {"soft_temperature_limit"}),
        (b"2\n", {"frequency_capped"}, set()),
    ],
)
def test_throttling(text: bytes, now: set[str], since_boot: set[str]) -> None:
    found = parse_throttled(text)
    assert len(found) == 8
    assert {name for name, holds in found.items() if holds} == now | {f"{name}_since_boot" for name in since_boot}


def test_throttling_that_is_no_number() -> None:
    for nothing in (b"", b"throttled=0x0", b"\xff", b"0x"):
        assert parse_throttled(nothing) == {}


def test_mounts() -> None:
    mounts = (
        b"proc /proc proc rw 0 0\n/dev/sda1 /mnt/a\\040b ext4 rw 0 0\nx /caf\xc3\xa9 nfs4 rw\n"
        b"autofs /m autofs\nn /m nfs\nbad\n"
    )
    assert parse_mounts(mounts) == {"/proc": "proc", "/mnt/a b": "ext4", "/café": "nfs4", "/m": "nfs"}
    assert parse_mounts(b"x /a\\ ext4\nx \\x\\777 ext4\n") == {"/a\\": "ext4", "\\x\udcff": "ext4"}


def test_nothing_raises_whatever_a_file_holds() -> None:
    dice = random.Random(11)
    pieces = [STAT, DEV, WIRELESS, b"MemTotal: 5 kB\n", b"/dev/x /y\\ z\n", b"\\u12 \\N{x} y\n", b"0x1"]
    for _ in range(3000):
        data = bytearray(dice.choice(pieces))
        for _ in range(dice.randrange(8)):
            at = dice.randrange(len(data) + 1)
            data[at : at + dice.randrange(6)] = dice.randbytes(dice.randrange(6))
        junk = bytes(data)
        parse_cpu_times(junk)
        parse_load(junk)
        parse_memory(junk)
        parse_number(junk)
        parse_interfaces(junk, 3)
        parse_wifi(junk, 3)
        parse_throttled(junk)
        parse_mounts(junk)
