"""What a device's log says of a session's path."""

from __future__ import annotations

import io
from typing import cast

import attrs
import trio
import trio.testing

from edgeice.agent.log import Log
from edgeice.agent.paths import SessionPath
from edgeice.peer import PathMoved
from edgeice.transport import SignaledConnection
from tests.unit.transport.test_recovery import WLAN, WWAN, Session, on

WHO = "operator=alice sid=sid"


async def test_the_log_of_a_session_that_loses_its_network_and_moves(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session, stream, firsts = Session(WLAN), io.StringIO(), []
    path = SessionPath(
        cast("SignaledConnection", session),
        session,
        Log(stream=stream, wall=lambda: 0.0),
        operator="alice",
        sid="sid",
        patience=60,
        on_first=lambda: firsts.append(trio.current_time()),
    )
    nursery.start_soon(path.run)
    path.watch(on(WLAN))
    path.watch(on(WLAN, fading=True))  # the same pair, told again
    await trio.sleep(1)
    session.have()
    session.peer.path = on(None, "base_gone")
    for _ in range(2):
        path.watch(session.peer.path)
    await trio.sleep(20)
    session.have(WWAN)
    await trio.sleep(0.1)
    session.peer.path = after = attrs.evolve(on(WWAN, "restart"), rtt=0.0802)
    path.watch(after)
    path.watch(PathMoved(on(WLAN), after, "base_gone", 20.5))
    assert stream.getvalue().splitlines() == [
        f'path {WHO} path="host 192.0.2.1:1 -> host 192.0.2.99:2" cause=first',
        f"path {WHO} path=none cause=base_gone",
        f"no-network {WHO} patience=60",
        f"network-back {WHO} seconds=20.0",
        f"restart {WHO} why=lost",
        (
            f'path {WHO} path="host 198.51.100.1:1 -> host 192.0.2.99:2" was="wlan0 direct" way="wwan0 direct"'
            " cause=base_gone pause_ms=20500.0 rtt_ms=80.2"
        ),
    ]
    assert len(firsts) == 1
