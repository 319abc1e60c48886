"""Servers that refuse, redirect in a circle or are not who they say: each is a line in the verdict, and no more."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeice.addresses import TransportAddress
from edgeice.ice import IceConfig
from edgeice.operator.verdict import verdict_lines
from edgeice.peer import TurnServer
from edgeice.stun import Attribute, Message, Method, parse_uri
from edgeice.transport import NodeConfig, open_node
from edgeice.turn import rest_credentials
from tests.support.coturn import COTURN, Coturn, coturn
from tests.support.turn_server import TurnServer as FakeServer

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]

LOOP_USER, LOOP_PASSWORD = "dev", "round"


@asynccontextmanager
async def circular() -> AsyncIterator[TransportAddress]:
    """A server that sends whoever proves who it is to another server, which is itself."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        address = TransportAddress("127.0.0.1", sock.getsockname()[1])
        server = FakeServer()
        server.users = {LOOP_USER: LOOP_PASSWORD}

        def redirect(request: Message) -> list[bytes] | None:
            if request.method != Method.ALLOCATE or not request.has_integrity:
                return None
            return [server.error(request, 300, (Attribute.ALTERNATE_SERVER, address))]

        server.hook = redirect

        async def serve() -> None:
            while True:
                data, client = await sock.recvfrom(2048)
                for answer in server.receive(data, trio.current_time()):
                    await sock.sendto(answer, client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield address
            nursery.cancel_scope.cancel()


def login(server: Coturn, *, secret: str = "", seconds: int = 60) -> tuple[str, str]:
    made = rest_credentials(secret or server.secret, expires_at=int(time.time()) + seconds, user="dev-7")
    return made.username, made.password


async def test_each_is_a_line_in_the_verdict_and_the_session_goes_on(tmp_path: Path) -> None:
    async with coturn(tmp_path, names=("relay.example",)) as server, circular() as loop:
        port, tls_port = server.address.port, server.tls_address.port
        servers = (
            TurnServer(f"turn:127.0.0.1:{port}", *login(server, secret="guessed")),
            TurnServer(f"turn:127.0.0.1:{port}?transport=tcp", *login(server, seconds=-60)),
            TurnServer(f"turns:localhost:{tls_port}", *login(server)),
            TurnServer(f"turn:{loop}", LOOP_USER, LOOP_PASSWORD),
            TurnServer("turn:no-such-name.invalid", "dev", "pass"),
        )
        settings = attrs.evolve(
            NodeConfig.loopback_only(),
            stun=(f"stun:127.0.0.1:{port}",),
            turn=servers,
            turn_ca=Path(server.authority.cafile),
            ice=IceConfig(allow_loopback=True, resolve_names=False),
        )
        async with open_node(settings) as here, open_node(NodeConfig.loopback_only()) as there:
            a, b = here.connection(offerer=True), there.connection()
            a.accept_answer(b.accept_offer(a.create_offer()))
            with trio.fail_after(10):
                await a.wait_connected()
                channel = await a.open_channel("echo")
                await channel.send("hello")
                assert await (await b.incoming.receive()).receive() == "hello"
                verdict: Any = here.verdict(a)
                while len([each for each in verdict["servers"] if each["result"] != "asked"]) < len(servers) + 1:
                    await trio.sleep(0.05)
                    verdict = here.verdict(a)
        uris = [str(parse_uri(each.uri)) for each in servers]  # with the transport that is meant
        (base,) = {each["base"] for each in verdict["servers"]} - {None}
        said = {each["server"]: (each["result"].partition(" (")[0], each["code"]) for each in verdict["servers"]}
        assert said == {
            f"stun:127.0.0.1:{port}": ("answered", None),
            uris[0]: ("unauthorized", 401),
            uris[1]: ("unauthorized", 401),
            uris[2]: ("certificate refused: Hostname mismatch, certificate is not valid for 'localhost'.", None),
            uris[3]: ("redirect_loop", 300),
            uris[4]: ("name_unknown", None),
        }
        assert (verdict["outcome"], verdict["path"]["local"]) == ("open", f"host {base}")
        wrong = "does not take the user name and password: they are wrong, or have expired (401)"
        words = [line for line in verdict_lines(verdict) if line.startswith("turn")]
        assert sorted(words) == sorted(
            [
                f"{uris[0]} from {base}: {wrong}",
                f"{uris[1]} from {base}: {wrong}",
                f"{uris[2]} from {base}: {said[uris[2]][0]}",
                f"{uris[3]} from {base}: sends from server to server in a circle (300)",
                f"{uris[4]}: its name cannot be looked up",
            ]
        )
        assert LOOP_PASSWORD not in str(verdict)
        assert not any(each.password in str(verdict) for each in servers if each.password != "pass")
