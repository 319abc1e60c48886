"""Sessions whose only way is a relay: whole nodes over a real coturn, by UDP, TCP and TLS."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import attrs
import pytest
import trio

from edgeice.ice import CandidatePolicy, IceConfig
from edgeice.peer import TurnServer
from edgeice.trace import Record
from edgeice.transport import IceTransport, Node, NodeConfig, open_node
from edgeice.turn import rest_credentials
from tests.support.coturn import COTURN, Coturn, coturn

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]

Way = Literal["udp", "tcp", "tls"]


def uri(server: Coturn, way: Way, *, name: str = "localhost") -> str:
    return {
        "udp": f"turn:127.0.0.1:{server.address.port}",
        "tcp": f"turn:127.0.0.1:{server.address.port}?transport=tcp",
        "tls": f"turns:{name}:{server.tls_address.port}",
    }[way]


def config(server: Coturn, *uris: str, seconds: int = 60, user: str = "dev-7", secret: str = "") -> NodeConfig:
    """A node that tells its peers of relayed candidates only."""
    login = rest_credentials(secret or server.secret, expires_at=int(time.time()) + seconds, user=user)
    base = NodeConfig.loopback_only()
    return attrs.evolve(
        base,
        turn=tuple(TurnServer(each, login.username, login.password) for each in uris),
        turn_ca=Path(server.authority.cafile),
        ice=IceConfig(allow_loopback=True, policy=CandidatePolicy.RELAY),
    )


async def trickle(sender: IceTransport, receiver: IceTransport) -> None:
    async for line in sender.candidates:
        receiver.add_candidate(line)


@contextlib.asynccontextmanager
async def meeting(here: Node, there: Node) -> AsyncIterator[tuple[IceTransport, IceTransport]]:
    """Two sessions that tell each other all they have."""
    a, b = here.ice_transport(controlling=True), there.ice_transport(controlling=False)
    a.set_remote(b.ufrag, b.pwd)
    b.set_remote(a.ufrag, a.pwd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, a, b)
        nursery.start_soon(trickle, b, a)
        with trio.fail_after(20):
            yield a, b
        nursery.cancel_scope.cancel()


async def until_logged(server: Coturn, pattern: str, times: int) -> None:
    """Wait until coturn has written a line so often."""
    with trio.fail_after(10):
        while len(re.findall(pattern, server.log())) < times:  # noqa: ASYNC110  # another process writes it
            await trio.sleep(0.01)


#: What coturn writes of an allocation that was given back.
_GIVEN_BACK = r"lifetime=0\b"
#: The same where it went with its connection (RFC 8656 §3.1).
_ENDED = r"closed \(2nd stage\)"


@pytest.mark.parametrize(("way", "name"), [("udp", ""), ("tcp", ""), ("tls", "localhost"), ("tls", "127.0.0.1")])
async def test_turn_32_a_session_over_relays_alone(tmp_path: Path, way: Way, name: str) -> None:
    async with coturn(tmp_path) as server:
        settings = config(server, uri(server, way, name=name))
        async with open_node(settings) as here, open_node(settings) as there, meeting(here, there) as (a, b):
            await a.wait_connected()
            await b.wait_connected()
            for number in range(20):
                await a.send(b"%d" % number)
                assert await b.receive() == b"%d" % number
                await b.send(bytes(1000) + b"%d" % number)
                assert await a.receive() == bytes(1000) + b"%d" % number
            assert (a.path.local_type, a.path.remote_type) == ("relay", "relay")
            # TURN-31: a channel is bound once the pair is selected, by each end for its own relay.
            await until_logged(server, "CHANNEL_BIND processed, success", 2)
            a.close()
            b.close()
        await until_logged(server, _GIVEN_BACK if way == "udp" else _ENDED, 2)
        # A check may have been under way when the other end closed.
        assert {*here.drops(), *there.drops()} <= {"endpoint.unroutable"}


async def test_turn_04_cancellation_gives_the_allocation_back(tmp_path: Path) -> None:
    async with coturn(tmp_path) as server:
        with trio.CancelScope() as scope:
            async with open_node(config(server, uri(server, "udp"))) as node:
                session = node.ice_transport(controlling=True)
                with trio.fail_after(10):
                    assert " typ relay " in await session.candidates.receive()
                scope.cancel()
                await trio.sleep_forever()
        await until_logged(server, _GIVEN_BACK, 1)


@pytest.mark.parametrize(
    ("wrong", "reason", "code"),
    [
        ("password", "unauthorized", 401),
        ("expired", "unauthorized", 401),
        ("certificate", "certificate refused: Hostname mismatch", None),
    ],
)
async def test_what_one_server_refuses_is_told_and_another_serves(
    tmp_path: Path, wrong: str, reason: str, code: int | None
) -> None:
    refused: list[Record] = []

    def hear(record: Record) -> None:
        if record.name == "RelayFailed":
            refused.append(record)

    async with coturn(tmp_path, names=("relay.example",)) as server, coturn(tmp_path) as other:
        bad = {
            "password": config(server, uri(server, "udp"), secret="guessed"),
            "expired": config(server, uri(server, "udp"), seconds=-60),
            "certificate": config(server, uri(server, "tls")),
        }[wrong]
        good = config(other, uri(other, "tls" if wrong == "certificate" else "tcp"))
        both = tmp_path / "authorities.pem"
        both.write_bytes(server.authority.cafile.read_bytes() + other.authority.cafile.read_bytes())
        settings = attrs.evolve(good, turn=bad.turn + good.turn, turn_ca=both)
        async with open_node(settings, tracer=hear) as node:
            session = node.ice_transport(controlling=True)
            with trio.fail_after(10):
                assert " typ relay " in await session.candidates.receive()
        assert [str(record.fields["reason"])[: len(reason)] for record in refused] == [reason]
        assert refused[0].fields["code"] == code
