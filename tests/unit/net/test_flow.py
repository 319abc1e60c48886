"""Flows to real servers on loopback, plain and TLS."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from trio.testing import MockClock

from edgeice.addresses import TransportAddress
from edgeice.net.flow import CONNECT_TIMEOUT, FLOW_LIMIT, LINGER_TIMEOUT, SEND_BUFFER_LIMIT, FlowTable
from edgeice.net.traffic import TrafficTable
from edgeice.sansio import DropCounter, OpenFlow

Handler: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]


class Sink:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self._more = trio.Event()

    def flow_opened(self, flow_id: int, local: TransportAddress) -> None:
        self._note("opened", flow_id, local)

    def flow_failed(self, flow_id: int, reason: str) -> None:
        self._note("failed", flow_id, reason)

    def flow_closed(self, flow_id: int) -> None:
        self._note("closed", flow_id)

    def receive_stream(self, flow_id: int, data: bytes) -> None:
        self._note("data", flow_id, data)

    def _note(self, *what: object) -> None:
        self.heard.append(what)
        self._more.set()

    async def until(self, name: str) -> tuple[object, ...]:
        with trio.fail_after(5):
            while not any(what[0] == name for what in self.heard):
                self._more = trio.Event()
                await self._more.wait()
        return next(what for what in self.heard if what[0] == name)

    def data(self) -> bytes:
        return b"".join(bytes(what[2]) for what in self.heard if what[0] == "data")  # type: ignore[call-overload]

    async def until_data(self, data: bytes) -> None:
        with trio.fail_after(5):
            while self.data() != data:
                self._more = trio.Event()
                await self._more.wait()


class Setup:
    def __init__(self, nursery: trio.Nursery, trust: ssl.SSLContext | None = None) -> None:
        self.nursery = nursery
        self.sink = Sink()
        self.counters = DropCounter()
        self.traffic = TrafficTable()
        self.flows = FlowTable(nursery, self.sink, self.counters, trust, self.traffic)

    async def serve(
        self, handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> TransportAddress:
        listeners = await trio.open_tcp_listeners(0, host=host)
        ends: list[trio.abc.Listener[Any]] = list(listeners)
        if tls is not None:
            ends = [trio.SSLListener(listener, tls) for listener in listeners]
        self.nursery.start_soon(trio.serve_listeners, handler, ends)
        return TransportAddress(host, listeners[0].socket.getsockname()[1], "tcp")


async def echo(stream: trio.abc.Stream) -> None:
    async with stream:
        while data := await stream.receive_some():
            await stream.send_all(data)


async def hang_up(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"bye")
    await stream.aclose()


async def say_nothing(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_tcp_there_and_back(nursery: trio.Nursery, host: str) -> None:
    setup = Setup(nursery)
    setup.flows.open(OpenFlow(7, await setup.serve(echo, host)))
    setup.flows.send(7, b"early ")  # waits for the connection
    _, flow_id, local = await setup.sink.until("opened")
    assert isinstance(local, TransportAddress)
    assert (flow_id, local.ip, local.protocol) == (7, host, "tcp")
    setup.flows.send(7, b"late")
    await setup.sink.until_data(b"early late")
    assert setup.traffic.snapshot() == {"": (10, 10)}
    setup.flows.close(7)
    setup.flows.close(7)
    await trio.testing.wait_all_tasks_blocked()
    assert len(setup.flows) == 0
    assert "closed" not in {what[0] for what in setup.sink.heard}  # who closes a flow hears no more of it
    assert setup.counters.total == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_datagrams_there_and_back_each_for_itself(nursery: trio.Nursery, host: str) -> None:
    setup = Setup(nursery)
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as server:
        await server.bind((host, 0))
        remote = TransportAddress(host, server.getsockname()[1])
        setup.flows.open(OpenFlow(7, remote, "lo", datagrams=True))
        sent = [b"early", b"", b"x" * 1200, b"last"]
        for data in sent:
            setup.flows.send(7, data)
        _, flow_id, local = await setup.sink.until("opened")
        assert isinstance(local, TransportAddress)
        assert (flow_id, local.ip, local.protocol) == (7, host, "udp")
        with trio.fail_after(5):
            for data in sent:
                got, source = await server.recvfrom(2048)
                assert got == data
                await server.sendto(b"to " + data, source)
        await setup.sink.until_data(b"".join(b"to " + data for data in sent))
        assert [what[2] for what in setup.sink.heard if what[0] == "data"] == [b"to " + data for data in sent]
        # Whoever else sends there is not heard.
        with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as other:
            await other.sendto(b"forged", (host, local.port))
        await trio.testing.wait_all_tasks_blocked()
        assert b"forged" not in setup.sink.data()
    setup.flows.close(7)
    await trio.testing.wait_all_tasks_blocked()
    assert (len(setup.flows), setup.counters.total) == (0, 0)


async def test_what_the_network_says_of_a_datagram_ends_no_flow(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    setup.flows.open(OpenFlow(7, TransportAddress("127.0.0.1", port), datagrams=True))
    for _ in range(5):
        setup.flows.send(7, b"refused")
        await trio.testing.wait_all_tasks_blocked()
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", port))
        setup.flows.send(7, b"heard")
        with trio.fail_after(5):
            got, source = await server.recvfrom(2048)
        assert got == b"heard"
        await server.sendto(b"answer", source)
        await setup.sink.until_data(b"answer")
    assert {what[0] for what in setup.sink.heard} == {"opened", "data"}


async def test_end_by_the_server_is_told(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(hang_up)))
    await setup.sink.until("closed")
    assert [what[0] for what in setup.sink.heard] == ["opened", "data", "closed"]
    assert setup.sink.data() == b"bye"
    setup.flows.send(1, b"into the void")
    assert setup.counters.snapshot() == {"flow_unknown": 1}
    nursery.cancel_scope.cancel()


async def test_refused_connection_is_told(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    setup.flows.open(OpenFlow(1, TransportAddress("127.0.0.1", port, "tcp")))
    assert await setup.sink.until("failed") == ("failed", 1, "Connection refused")
    assert len(setup.flows) == 0


async def test_pinned_to_loopback(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    remote = await setup.serve(echo)
    setup.flows.open(OpenFlow(1, remote, interface="lo"))
    await setup.sink.until("opened")
    setup.flows.open(OpenFlow(2, remote, interface="nonesuch0"))
    assert await setup.sink.until("failed") == ("failed", 2, "No such device")
    nursery.cancel_scope.cancel()


async def test_server_that_never_answers_times_out(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """TLS to a server that says nothing; TCP alone would connect."""
    setup = Setup(nursery)
    begun = trio.current_time()
    setup.flows.open(OpenFlow(1, await setup.serve(say_nothing), tls_name="turn.example"))
    await trio.sleep(CONNECT_TIMEOUT + 1)
    assert setup.sink.heard == [("failed", 1, f"no answer within {CONNECT_TIMEOUT:g} s")]
    assert trio.current_time() == begun + CONNECT_TIMEOUT + 1
    nursery.cancel_scope.cancel()


async def test_send_buffer_is_bounded_and_loses_whole_messages(nursery: trio.Nursery) -> None:
    got = bytearray()
    go_on, ended = trio.Event(), trio.Event()

    async def slow(stream: trio.abc.Stream) -> None:
        await go_on.wait()
        while data := await stream.receive_some():
            got.extend(data)
        ended.set()

    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(slow)))
    await setup.sink.until("opened")
    size = 10_000
    sent = 0
    while setup.counters["flow_buffer"] < 3:  # first the kernel's buffers fill, then the flow's
        setup.flows.send(1, sent.to_bytes(4, "big") * (size // 4))
        sent += 1
        if sent % 16 == 0:
            await trio.testing.wait_all_tasks_blocked()
    flow = setup.flows._flows[1]
    assert SEND_BUFFER_LIMIT - size < flow.buffered <= SEND_BUFFER_LIMIT
    setup.flows.close(1)
    go_on.set()
    with trio.fail_after(5):
        await ended.wait()
    assert len(got) == (sent - 3) * size
    numbers = [got[at : at + 4] for at in range(0, len(got), size)]
    assert numbers == sorted(numbers)
    assert all(got[at : at + size] == got[at : at + 4] * (size // 4) for at in range(0, len(got), size))
    nursery.cancel_scope.cancel()


async def test_closing_writes_what_is_queued_first(nursery: trio.Nursery) -> None:
    got = bytearray()
    ended = trio.Event()

    async def keep(stream: trio.abc.Stream) -> None:
        while data := await stream.receive_some():
            got.extend(data)
        ended.set()

    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(keep)))
    setup.flows.send(1, b"refresh with lifetime 0")
    setup.flows.close(1)  # while it still connects
    with trio.fail_after(LINGER_TIMEOUT):
        await ended.wait()
    assert got == b"refresh with lifetime 0"
    assert setup.sink.heard == []
    nursery.cancel_scope.cancel()


async def test_closing_an_idle_flow_is_immediate(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(echo), tls_name="turn.example"))
    setup.flows.close(1)
    await trio.testing.wait_all_tasks_blocked()
    assert setup.sink.heard == []
    nursery.cancel_scope.cancel()


async def test_number_of_flows_is_bounded_and_ids_are_unique(nursery: trio.Nursery) -> None:
    setup = Setup(nursery)
    remote = await setup.serve(echo)
    for flow_id in range(FLOW_LIMIT):
        setup.flows.open(OpenFlow(flow_id, remote))
    setup.flows.open(OpenFlow(FLOW_LIMIT, remote))
    setup.flows.open(OpenFlow(0, remote))
    assert setup.sink.heard == []  # never from within the call
    await setup.sink.until("failed")
    await trio.testing.wait_all_tasks_blocked()
    failed = [what[1:] for what in setup.sink.heard if what[0] == "failed"]
    assert sorted(failed) == [
        (0, "too many flows, or the id is in use"),
        (FLOW_LIMIT, "too many flows, or the id is in use"),
    ]
    assert len(setup.flows) == FLOW_LIMIT
    nursery.cancel_scope.cancel()


async def test_canceling_closes_all_sockets() -> None:
    before = open_files()
    async with trio.open_nursery() as nursery:
        setup = Setup(nursery)
        remote = await setup.serve(echo)
        for flow_id in range(5):
            setup.flows.open(OpenFlow(flow_id, remote))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert open_files() == before


# TLS


class Authority:
    """A certificate authority for one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign("test authority", self._key, ca=True)

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False, days: int = 1, subject_only: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca and not subject_only:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def server(self, name: str, *, days: int = 1, subject_only: bool = False) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._folder / f"{name}.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self._sign(name, key, days=days, subject_only=subject_only).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context

    def file(self) -> Path:
        """The authority as a file, for the system's list of them."""
        path = self._folder / "authority.pem"
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def trust(self) -> ssl.SSLContext:
        text = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=text)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def tolerant_echo(stream: trio.abc.Stream) -> None:
    try:
        await echo(stream)
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)


async def test_tls_there_and_back(nursery: trio.Nursery, authority: Authority) -> None:
    setup = Setup(nursery, authority.trust())
    remote = await setup.serve(tolerant_echo, tls=authority.server("turn.example"))
    setup.flows.open(OpenFlow(1, remote, tls_name="turn.example"))
    await setup.sink.until("opened")
    data = bytes(range(256)) * 800  # many records
    setup.flows.send(1, data)
    await setup.sink.until_data(data)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "days", "trusted", "reason"),
    [
        ("other.example", 1, True, "certificate refused: Hostname mismatch"),
        ("turn.example", -1, True, "certificate refused: certificate has expired"),
        ("turn.example", 1, False, "certificate refused: unable to get local issuer certificate"),
    ],
)
async def test_stun_55_a_certificate_is_verified_before_anything_is_sent(
    nursery: trio.Nursery, authority: Authority, name: str, days: int, reason: str, *, trusted: bool
) -> None:
    read: list[bytes] = []

    async def listen(stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            read.append(bytes(await stream.receive_some()))
        await trio.aclose_forcefully(stream)

    setup = Setup(nursery, authority.trust() if trusted else None)
    remote = await setup.serve(listen, tls=authority.server(name, days=days))
    setup.flows.open(OpenFlow(1, remote, tls_name="turn.example"))
    setup.flows.send(1, b"credentials")
    _, _, why = await setup.sink.until("failed")
    assert str(why).startswith(reason)
    assert [what[0] for what in setup.sink.heard] == ["failed"]
    await trio.testing.wait_all_tasks_blocked()
    assert b"".join(read) == b""
    nursery.cancel_scope.cancel()


async def test_stun_55_a_name_in_the_subject_proves_nothing(
    nursery: trio.Nursery, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file()))
    setup = Setup(nursery)
    named = await setup.serve(tolerant_echo, tls=authority.server("turn.example"))
    setup.flows.open(OpenFlow(1, named, tls_name="turn.example"))
    await setup.sink.until("opened")
    only_subject = await setup.serve(tolerant_echo, tls=authority.server("turn.example", subject_only=True))
    setup.flows.open(OpenFlow(2, only_subject, tls_name="turn.example"))
    _, flow_id, why = await setup.sink.until("failed")
    assert (flow_id, str(why)[:38]) == (2, "certificate refused: Hostname mismatch")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_stun_55_keys_are_forward_secret_and_nothing_is_compressed(
    nursery: trio.Nursery, authority: Authority, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file()))
    agreed: list[tuple[str, str | None]] = []

    async def note(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        agreed.append((stream.cipher()[0], stream.compression()))
        await tolerant_echo(stream)

    server = authority.server("turn.example")
    # The server takes what the client prefers, and knows keys without forward secrecy too.
    server.minimum_version = server.maximum_version = version
    server.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE & ~ssl.OP_NO_COMPRESSION
    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(note, tls=server), tls_name="turn.example"))
    await setup.sink.until("opened")
    await trio.testing.wait_all_tasks_blocked()
    [(cipher, compression)] = agreed
    assert cipher.startswith(("ECDHE-", "TLS_"))  # those of TLS 1.3 always are
    assert compression is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_stun_55_old_versions_are_refused(
    nursery: trio.Nursery, authority: Authority, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file()))
    server = authority.server("turn.example")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = server.maximum_version = version
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    setup = Setup(nursery)
    setup.flows.open(OpenFlow(1, await setup.serve(tolerant_echo, tls=server), tls_name="turn.example"))
    _, _, why = await setup.sink.until("failed")
    assert str(why).startswith("TLS failed: ")
    nursery.cancel_scope.cancel()


async def test_tls_to_a_server_that_speaks_something_else_fails(nursery: trio.Nursery, authority: Authority) -> None:
    setup = Setup(nursery, authority.trust())
    setup.flows.open(OpenFlow(1, await setup.serve(tolerant_echo), tls_name="turn.example"))
    _, _, why = await setup.sink.until("failed")
    assert str(why).startswith("TLS failed: ")
    nursery.cancel_scope.cancel()


async def test_tls_server_that_leaves_without_a_word_is_told_as_closed(
    nursery: trio.Nursery, authority: Authority
) -> None:
    async def vanish(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await trio.aclose_forcefully(stream)

    setup = Setup(nursery, authority.trust())
    setup.flows.open(
        OpenFlow(1, await setup.serve(vanish, tls=authority.server("turn.example")), tls_name="turn.example")
    )
    setup.flows.send(1, b"hello")
    await setup.sink.until("closed")
    assert [what[0] for what in setup.sink.heard] == ["opened", "closed"]
    nursery.cancel_scope.cancel()
