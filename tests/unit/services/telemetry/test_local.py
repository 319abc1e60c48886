"""What processes write: lines and datagrams, good and bad, real sockets."""

from __future__ import annotations

import json
import random
import re
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy
from edgeice.services.telemetry.local import MAX_DATAGRAM, RING_BYTES, RING_ROWS, LocalStream, Ring, Share, parse_line
from tests.support.telemetry import NOW, write_local

README = (Path(__file__).parents[4] / "README.md").read_text()


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"name":"a","value":1}', {"t": NOW, "name": "a", "value": 1}),
        ('  {"name":"a","value":-1.5e3,"t":5.25} \r', {"t": 5.25, "name": "a", "value": -1500.0}),
        ('{"name":"a","value":true,"tags":{}}', {"t": NOW, "name": "a", "value": True}),
        ('{"name":"é","value":"\\u0000x","tags":{"k":""}}', {"t": NOW, "name": "é", "value": "\0x", "tags": {"k": ""}}),
        ('{"name":"a","value":18446744073709551615,"t":null}', {"t": NOW, "name": "a", "value": 2**64 - 1}),
        ('{"name":"a","value":1,"other":[[[]]]}', {"t": NOW, "name": "a", "value": 1}),
    ],
)
def test_a_line_is_a_row(line: str, row: dict[str, object]) -> None:
    assert json.loads(parse_line(line.encode(), NOW)) == row


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", "line-utf8"),
        (b"x", "control-json"),
        (b"[" * 4000, "control-depth"),
        (b'{"name":"a","value":' + b"9" * 4060 + b"}", "line-range"),
        (b" " * 4097, "line-size"),
        (b"[]", "control-type"),
        (b"{}", "control-type"),
        (b'{"name":"a"}', "line-type"),
        (b'{"name":"a","value":null}', "line-type"),
        (b'{"name":"a","value":[1]}', "line-type"),
        (b'{"name":"a","value":NaN}', "control-json"),
        (b'{"name":"a","value":1e999}', "control-json"),
        (b'{"name":"a","value":18446744073709551616}', "line-range"),
        (b'{"name":"a","value":"\\ud800"}', "control-json"),
        (b'{"name":"","value":1}', "line-range"),
        (b'{"name":"\\u001b[2J","value":1}', "line-range"),
        (b'{"name":5,"value":1}', "control-type"),
        (b'{"name":"' + b"x" * 129 + b'","value":1}', "line-range"),
        (b'{"name":"a","value":"' + b"x" * 1025 + b'"}', "line-range"),
        (b'{"name":"a","name":"a","value":1}', "control-json"),
        (b'{"name":"a","value":1,"t":"now"}', "line-type"),
        (b'{"name":"a","value":1,"t":true}', "line-type"),
        (b'{"name":"a","value":1,"t":1700000000000}', "line-range"),
        (b'{"name":"a","value":1,"tags":[]}', "control-type"),
        (b'{"name":"a","value":1,"tags":{"k":1}}', "control-type"),
        (b'{"name":"a","value":1,"tags":{"":"x"}}', "line-range"),
        (b'{"name":"a","value":1,"tags":{"k":"\\n"}}', "line-range"),
        (b'{"name":"a","value":1,"tags":{"k":"' + b"x" * 257 + b'"}}', "line-range"),
        (json.dumps({"name": "a", "value": 1, "tags": {str(n): "" for n in range(17)}}).encode(), "line-range"),
    ],
)
def test_a_line_that_is_none(line: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_line(line, NOW)
    assert caught.value.reason == reason


def test_nothing_but_decode_error_leaves_a_line() -> None:
    dice = random.Random(5)
    good = b'{"name":"a","value":1.5,"t":5,"tags":{"k":"v"}}'
    taken = 0
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(dice.randrange(4)):
            at = dice.randrange(len(data) + 1)
            data[at : at + dice.randrange(3)] = dice.choice([dice.randbytes(2), b'"', b"{", b"]", b"\\", b"9", b"e"])
        try:
            json.loads(parse_line(bytes(data), NOW))
        except DecodeError:
            continue
        taken += 1
    assert 0 < taken < 5000


def test_the_ring_is_bounded_in_rows_and_bytes() -> None:
    ring = Ring("0" * 8)
    for number in range(RING_ROWS + 10):
        ring.add(str(number))
    lost, rows, number = ring.take(0)
    assert (lost, rows[0], len(rows), number) == (10, "10", RING_ROWS, RING_ROWS + 10)
    for _ in range(RING_ROWS):
        ring.add('"' + "é" * 1000 + '"')
    kept = RING_BYTES // 2002
    lost, rows, number = ring.take(ring.newest - RING_ROWS)
    assert lost == RING_ROWS - kept
    assert len(rows) == 8  # as many as a message holds
    assert number == ring.newest - kept + 8


class Reader:
    """A local stream that is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drops = DropCounter()
        self.stream = LocalStream(folder / "telemetry.sock", lambda: NOW, Entropy.seeded(7), self.drops)
        self.ring = self.stream.open()

    def names(self) -> list[str]:
        """Of all rows that are held."""
        return [json.loads(row)["name"] for row in self.ring.take(0)[1]]


@pytest.fixture
async def reader(nursery: trio.Nursery, tmp_path: Path) -> Reader:
    made = Reader(tmp_path)
    nursery.start_soon(made.stream.read)
    return made


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def send(folder: Path, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.setblocking(False)
        writer.sendto(data, str(folder / "telemetry.sock"))


async def settled(reader: Reader) -> None:
    await wait_all_tasks_blocked(0.01)
    reader.stream.close()


async def test_garbage_is_dropped_by_the_line_and_counted(autojump_clock: MockClock, reader: Reader) -> None:
    write_local(reader.folder, {"name": "a", "value": 1}, b"\xff", "", "  ", "{", {"name": "b", "value": 2}, "[1]")
    send(reader.folder, b"")
    send(reader.folder, b"\0" * 100)
    await settled(reader)
    assert reader.ring.newest == 2
    assert reader.names() == ["a", "b"]
    assert reader.drops.snapshot() == {"line-utf8": 1, "control-json": 2, "control-type": 1}


async def test_datagrams_that_are_too_large_are_dropped_whole(autojump_clock: MockClock, reader: Reader) -> None:
    row = b'{"name":"a","value":1}\n'
    send(reader.folder, (row * (MAX_DATAGRAM // len(row))).ljust(MAX_DATAGRAM))
    await wait_all_tasks_blocked(0.01)
    assert reader.ring.newest == MAX_DATAGRAM // len(row)
    send(reader.folder, row.ljust(MAX_DATAGRAM + 1))
    send(reader.folder, row.ljust(150_000))
    send(reader.folder, b'{"name":"last","value":1}')
    await settled(reader)
    assert reader.drops.snapshot() == {"datagram-size": 2}
    assert reader.ring.newest == MAX_DATAGRAM // len(row) + 1


async def test_a_datagram_of_a_mebibyte_harms_nobody(autojump_clock: MockClock, reader: Reader) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.connect(str(reader.folder / "telemetry.sock"))
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        with pytest.raises(OSError, match="Message too long"):
            writer.send(b"x" * (1 << 20))
        writer.send(b'{"name":"a","value":1}')
    await settled(reader)
    assert (reader.names(), reader.drops.snapshot()) == (["a"], {})


async def test_a_datagram_of_many_lines_lets_others_have_their_turn(autojump_clock: MockClock, reader: Reader) -> None:
    send(reader.folder, b"x\n" * (MAX_DATAGRAM // 2))
    turns = 0
    while reader.drops.snapshot() != {"control-json": MAX_DATAGRAM // 2}:
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns >= MAX_DATAGRAM // 2 / 128
    reader.stream.close()


async def test_the_rest_of_a_datagram_stays_when_its_reader_leaves(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    made = Reader(tmp_path)
    send(tmp_path, b'{"name":"a","value":1}\n' * 1000)
    async with trio.open_nursery() as first:
        first.start_soon(made.stream.read)
        await made.ring.wait_beyond(0)
        first.cancel_scope.cancel()
    assert 0 < made.ring.newest < 1000
    nursery.start_soon(made.stream.read)
    await settled(made)
    assert made.ring.newest == 1000


async def test_descriptors_that_come_along_are_closed(autojump_clock: MockClock, reader: Reader) -> None:
    before = descriptors()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.connect(str(reader.folder / "telemetry.sock"))
        socket.send_fds(writer, [b'{"name":"a","value":1}'], [0, 1, 2])
    await wait_all_tasks_blocked(0.01)
    assert reader.names() == ["a"]
    assert descriptors() == before
    reader.stream.close()


def test_a_flood_gets_a_quarter_of_the_time() -> None:
    share, now, worked, rests = Share(0.0), 0.0, 0.0, 0
    while now < 100:
        rest = share.spend(now, now + 0.01)
        worked += 0.01
        rests += rest > 0
        now += 0.01 + rest
    assert worked == pytest.approx(0.25 * now, abs=0.2)
    assert rests == pytest.approx(worked / 0.01, abs=20)


def test_who_takes_less_never_rests() -> None:
    share = Share(0.0)
    assert share.spend(0.0, 0.1) == 0  # saved up before
    assert [share.spend(at, at + 0.02) for at in range(1, 100)] == [0] * 99


async def test_a_socket_that_was_left_behind_is_replaced(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    stream = LocalStream(path, lambda: NOW, Entropy.seeded(7), DropCounter())
    ring = stream.open()
    assert ring.epoch == Entropy.seeded(7).token_bytes(4).hex()
    write_local(tmp_path, {"name": "a", "value": 1})
    stream.close()
    assert not path.exists()


async def test_a_long_path_works(autojump_clock: MockClock, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    stream = LocalStream(folder / "telemetry.sock", lambda: NOW, Entropy.seeded(7), DropCounter())
    stream.open()
    assert (folder / "telemetry.sock").stat().st_mode & 0o777 == 0o666
    stream.close()


async def test_no_folder_is_an_error_of_the_system(autojump_clock: MockClock, tmp_path: Path) -> None:
    stream = LocalStream(tmp_path / "none" / "telemetry.sock", lambda: NOW, Entropy.seeded(7), DropCounter())
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            stream.open()


async def test_readmes_writer_works_whether_somebody_listens_or_not(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    program = program.replace("/etc/edgeice/telemetry.sock", f"{tmp_path}/telemetry.sock")
    exec(program, {})
    reader = Reader(tmp_path)
    nursery.start_soon(reader.stream.read)
    exec(program, {})
    await settled(reader)
    assert reader.names() == ["door.open"]
    exec(program, {})
