"""How `edgeice forward` listens, and what it says of connections that fail, in virtual time."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.cli.common import Options
from edgeice.cli.forward import _Failures, _listen
from edgeice.cli.targets import parse_forward
from edgeice.operator.config import load_config
from edgeice.services import ErrorCode, ForwardTarget, ServiceError

WEB = ForwardTarget("localhost", 80)
DATABASE = ForwardTarget("fd00::5", 5432)


def options(tmp_path: Path, *, as_json: bool) -> Options:
    path = tmp_path / "operator.toml"
    path.write_text('fleet = "home"\noperator = "alice"\n[broker]\nurl = "mqtts://broker.example"\n')
    return Options(load_config(path), as_json, 10, None, quiet=False, verbose=False, share=True)


def refused(reason: str = "Connection refused") -> ServiceError:
    return ServiceError(ErrorCode.REFUSED, reason)


async def test_a_burst_of_connections_finds_room_before_any_is_accepted() -> None:
    """What the kernel has no room for has to ask again after a second."""
    burst = min(300, int(await trio.Path("/proc/sys/net/core/somaxconn").read_text()))
    (listener,) = await _listen(parse_forward("127.0.0.1:0:localhost:80"))
    async with listener:
        with ExitStack() as opened, trio.fail_after(10):  # those for which there is no room wait in vain
            clients = [opened.enter_context(socket.socket()) for _ in range(burst)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(listener.socket.getsockname())
            for client in clients:
                await trio.lowlevel.wait_writable(client)
            # Of a socket that listens, the kernel tells how many wait to be accepted, where it counts unacknowledged
            # segments of others (struct tcp_info in linux/tcp.h).
            info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
            assert int.from_bytes(info[24:28], sys.byteorder) == burst


async def test_the_first_of_a_kind_at_once_and_then_their_number_once_a_second(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        failures = _Failures(options(tmp_path, as_json=False), nursery)
        failures.add(WEB, refused())
        assert capsys.readouterr().err == "edgeice: localhost:80: refused: Connection refused\n"
        failures.add(DATABASE, refused())
        failures.add(WEB, trio.EndOfChannel())
        assert capsys.readouterr().err.splitlines() == [
            "edgeice: [fd00::5]:5432: refused: Connection refused",
            "edgeice: localhost:80: the session is gone",
        ]
        for _ in range(500):
            failures.add(WEB, refused())
        failures.add(WEB, refused("the last reason"))
        await trio.sleep(0.99)
        assert capsys.readouterr().err == ""
        await trio.sleep(0.02)
        assert capsys.readouterr().err == "edgeice: localhost:80: refused: the last reason (501 connections)\n"
        failures.add(WEB, refused())
        await trio.sleep(0.9)
        assert capsys.readouterr().err == ""
        await trio.sleep(5)
        assert capsys.readouterr().err == "edgeice: localhost:80: refused: Connection refused\n"
        assert failures._held == {}
        failures.add(WEB, refused())
        assert capsys.readouterr().err == "edgeice: localhost:80: refused: Connection refused\n"


async def test_what_was_not_said_yet_is_said_at_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        failures = _Failures(options(tmp_path, as_json=True), nursery)
        for _ in range(3):
            failures.add(WEB, refused())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    facts = {"event": "failed", "target": "localhost:80", "code": "refused", "error": "refused: Connection refused"}
    assert said == [facts | {"connections": 1}, facts | {"connections": 2}]
