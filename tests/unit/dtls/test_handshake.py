"""Handshakes: both roles, fingerprints in time and late, refusals (checklist DTLS-02, -03, -04, -08, -10; HOST-18)."""

from __future__ import annotations

import hashlib

import pytest
from OpenSSL import SSL

from edgeice.dtls import DtlsClosed, DtlsConnection, DtlsFailed, DtlsState, HandshakeCompleted
from edgeice.errors import LocalProtocolError
from tests.support.dtls_pair import (
    CLIENT,
    SERVER,
    DtlsPair,
    bare_context,
    bare_pump,
    events,
    fingerprint_of,
)

PREFERRED = "ECDHE-ECDSA-AES128-GCM-SHA256"
WRONG = ":".join(["00"] * 32)
BAD_CERTIFICATE = b"\x02\x2a"


def test_dtls_04_handshake_prefers_the_mandatory_cipher_and_takes_four_datagrams() -> None:
    pair = DtlsPair()
    pair.start()
    pair.pump()
    assert events(pair.client) == [HandshakeCompleted(PREFERRED, SERVER.fingerprint)]
    assert events(pair.server) == [HandshakeCompleted(PREFERRED, CLIENT.fingerprint)]
    assert [role for role, _ in pair.log] == ["client", "server", "client", "server"]
    assert all(len(datagram) <= 1200 for _, datagram in pair.log)
    assert pair.client.next_timeout() is None
    assert pair.server.next_timeout() is None


def test_dtls_server_takes_what_came_before_start() -> None:
    pair = DtlsPair()
    pair.client.start(now=0)
    pair.pump()
    assert [role for role, _ in pair.log] == ["client"]
    pair.server.start(now=0)
    pair.pump()
    assert pair.client.state is pair.server.state is DtlsState.ESTABLISHED


def test_dtls_early_datagrams_are_bounded() -> None:
    server = DtlsConnection(SERVER, "server")
    for _ in range(10):
        server.receive_datagram(b"\x16" * 20, now=0)
    assert server.drops.snapshot() == {"early-full": 6}


@pytest.mark.parametrize("mtu", [256, 320, 576, 1200])
def test_dtls_10_flights_keep_to_the_mtu(mtu: int) -> None:
    pair = DtlsPair(mtu=mtu)
    pair.start()
    pair.pump()
    assert pair.client.state is pair.server.state is DtlsState.ESTABLISHED
    assert max(len(datagram) for _, datagram in pair.log) <= mtu


@pytest.mark.parametrize("mtu", [0, 255, 16385])
def test_dtls_refuses_an_absurd_mtu(mtu: int) -> None:
    with pytest.raises(LocalProtocolError, match="mtu"):
        DtlsConnection(CLIENT, "client", mtu)


@pytest.mark.parametrize("mismatched", ["client", "server"])
def test_dtls_03_mismatch_is_answered_with_bad_certificate(mismatched: str) -> None:
    pair = DtlsPair()
    wrong, right = (pair.client, pair.server) if mismatched == "client" else (pair.server, pair.client)
    wrong.set_remote_fingerprints([("sha-256", WRONG)], now=0)
    pair.start()
    pair.pump()
    (failure,) = events(wrong)
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == "fingerprint-mismatch"
    assert wrong.state is right.state is DtlsState.FAILED
    (failure,) = events(right)
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == "alert"
    assert "bad certificate" in failure.detail
    role, alert = pair.log[-1]
    assert (role, alert[0], alert[13:]) == (wrong.role, 21, BAD_CERTIFICATE)


SERVERS = SERVER.fingerprint
MATRIX = {
    "as written": ([("sha-256", SERVERS)], ""),
    "lower case": ([("sha-256", SERVERS.lower())], ""),
    "algorithm in upper case": ([("SHA-256", SERVERS)], ""),
    "unknown hash ignored": ([("sha-999", WRONG), ("sha-256", SERVERS)], ""),
    "md5 ignored": ([("md5", WRONG[:47]), ("sha-256", SERVERS)], ""),
    "one of two": ([("sha-256", WRONG), ("sha-256", SERVERS)], ""),
    "none": ([], "fingerprint-unusable"),
    "md5 alone": ([("md5", WRONG[:47])], "fingerprint-unusable"),
    "sha-1 alone": ([("sha-1", WRONG[:59])], "fingerprint-unusable"),
    "another certificate": ([("sha-256", CLIENT.fingerprint)], "fingerprint-mismatch"),
    "a stronger hash that does not match": (
        [("sha-256", SERVERS), ("sha-512", ":".join(["00"] * 64))],
        "fingerprint-mismatch",
    ),
    "a stronger hash that is malformed": ([("sha-256", SERVERS), ("sha-512", "junk")], "fingerprint-mismatch"),
    "spaces": ([("sha-256", SERVERS.replace(":", " "))], "fingerprint-mismatch"),
    "no colons": ([("sha-256", SERVERS.replace(":", ""))], "fingerprint-mismatch"),
    "cut short": ([("sha-256", SERVERS[:-3])], "fingerprint-mismatch"),
    "other digits": ([("sha-256", SERVERS[:-1] + "\u0661")], "fingerprint-mismatch"),
}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("offered", "reason"), MATRIX.values(), ids=MATRIX.keys())
def test_host_18_fingerprint_matrix(offered: list[tuple[str, str]], reason: str, late: bool) -> None:
    pair = DtlsPair(told=False)
    pair.server.set_remote_fingerprints(fingerprint_of(CLIENT), now=0)
    if not late:
        pair.client.set_remote_fingerprints(offered, now=0)
    pair.start()
    pair.pump()
    if late:
        assert pair.client.state is DtlsState.VERIFYING
        assert pair.server.send(b"early", now=0)
        pair.pump()
        assert events(pair.client) == []
        assert pair.client.poll_data() is None
        pair.client.set_remote_fingerprints(offered, now=0)
    (event,) = events(pair.client)
    if reason:
        assert isinstance(event, DtlsFailed)
        assert event.reason == reason
        assert pair.client.poll_data() is None
        pair.pump()
        assert pair.server.state is (DtlsState.CLOSED if late else DtlsState.FAILED)
    else:
        assert isinstance(event, HandshakeCompleted)
        assert pair.client.poll_data() == (b"early" if late else None)


@pytest.mark.parametrize("algorithm", ["sha-384", "sha-512"])
def test_dtls_02_stronger_hashes_match(algorithm: str) -> None:
    pair = DtlsPair()
    digest = hashlib.new(algorithm.replace("-", ""), SERVER.der).hexdigest().upper()
    value = ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
    pair.client.set_remote_fingerprints([(algorithm, value), ("sha-256", WRONG)], now=0)
    pair.start()
    pair.pump()
    assert pair.client.state is DtlsState.ESTABLISHED


def test_dtls_03_data_held_for_late_fingerprints_is_bounded() -> None:
    pair = DtlsPair(told=False)
    pair.server.set_remote_fingerprints(fingerprint_of(CLIENT), now=0)
    pair.start()
    pair.pump()
    for number in range(100):
        pair.server.send(b"%d" % number, now=0)
    pair.pump()
    assert pair.client.drops.snapshot() == {"data-full": 36}
    with pytest.raises(LocalProtocolError, match="VERIFYING"):
        pair.client.send(b"x", now=0)
    pair.client.set_remote_fingerprints(fingerprint_of(SERVER), now=0)
    assert [pair.client.poll_data() for _ in range(65)] == [b"%d" % n for n in range(64)] + [None]


def test_dtls_held_data_is_forgotten_when_the_peer_closes() -> None:
    pair = DtlsPair(told=False)
    pair.server.set_remote_fingerprints(fingerprint_of(CLIENT), now=0)
    pair.start()
    pair.pump()
    pair.server.send(b"x", now=0)
    pair.server.close(now=0)
    pair.pump()
    assert events(pair.client) == [DtlsClosed()]
    pair.client.set_remote_fingerprints(fingerprint_of(SERVER), now=0)
    assert pair.client.poll_data() is None
    assert pair.client.state is DtlsState.CLOSED


def test_dtls_fingerprints_are_settled_once_verified() -> None:
    pair = DtlsPair().connect()
    with pytest.raises(LocalProtocolError, match="settled"):
        pair.client.set_remote_fingerprints(fingerprint_of(SERVER), now=0)


def test_dtls_03_a_client_without_certificate_is_refused() -> None:
    server = DtlsConnection(SERVER, "server")
    server.set_remote_fingerprints(fingerprint_of(CLIENT), now=0)
    server.start(now=0)
    bare = SSL.Connection(bare_context(certificate=False), None)
    bare.set_connect_state()
    bare.set_ciphertext_mtu(1200)
    error = bare_pump(bare, server)
    (failure,) = events(server)
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == "no-certificate"
    assert "bad certificate" in str(error)


@pytest.mark.parametrize(
    ("version", "cipher", "expected"),
    [
        (0xFEFD, b"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (0xFEFD, b"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (0xFEFD, b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", PREFERRED),
        (0xFEFD, b"ECDHE-ECDSA-AES128-SHA", None),
        (0xFEFD, b"ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0", None),
        (0xFEFD, b"ECDHE-RSA-AES128-GCM-SHA256", None),
        (0xFEFF, b"ALL:@SECLEVEL=0", None),
    ],
    ids=["aes256", "chacha20", "server's preference", "cbc", "null", "rsa", "dtls 1.0"],
)
def test_dtls_04_variants_of_clients(version: int, cipher: bytes, expected: str | None) -> None:
    context = bare_context()
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_cipher_list(cipher)
    bare = SSL.Connection(context, None)
    bare.set_connect_state()
    bare.set_ciphertext_mtu(1200)
    server = DtlsConnection(SERVER, "server")
    server.start(now=0)
    error = bare_pump(bare, server)
    if expected is None:
        assert error is not None
        assert server.state is DtlsState.FAILED
        (failure,) = events(server)
        assert isinstance(failure, DtlsFailed)
        assert failure.reason == "handshake"
    else:
        assert error is None
        assert server.state is DtlsState.VERIFYING
        certificate = context_certificate(bare)
        server.set_remote_fingerprints([("sha-256", certificate)], now=0)
        assert events(server) == [HandshakeCompleted(expected, certificate)]


def context_certificate(bare: SSL.Connection) -> str:
    certificate = bare.get_certificate()
    assert certificate is not None
    return certificate.digest("sha256").decode()


def test_dtls_08_hello_verify_request_is_accepted_by_the_client() -> None:
    asked: list[bytes] = []

    def verify(_connection: SSL.Connection, cookie: bytes) -> bool:
        asked.append(cookie)
        return cookie == b"cookie"

    context = bare_context()
    assert SSL.OP_COOKIE_EXCHANGE is not None
    context.set_options(SSL.OP_COOKIE_EXCHANGE)
    context.set_cookie_generate_callback(lambda _connection: b"cookie")
    context.set_cookie_verify_callback(verify)
    bare = SSL.Connection(context, None)
    bare.set_accept_state()
    bare.set_ciphertext_mtu(1200)
    client = DtlsConnection(CLIENT, "client")
    client.start(now=0)
    assert bare_pump(bare, client) is None
    assert client.state is DtlsState.VERIFYING
    assert asked == [b"cookie"]


def test_dtls_04_a_servers_wish_for_renegotiation_is_ignored() -> None:
    bare = SSL.Connection(bare_context(), None)
    bare.set_accept_state()
    bare.set_ciphertext_mtu(1200)
    client = DtlsConnection(CLIENT, "client")
    connect_to_bare(bare, client)
    bare.renegotiate()
    bare_pump(bare, client)
    assert client.state is DtlsState.ESTABLISHED
    assert client.next_timeout() is None


def test_dtls_04_a_client_that_renegotiates_is_told_no() -> None:
    bare = SSL.Connection(bare_context(), None)
    bare.set_connect_state()
    bare.set_ciphertext_mtu(1200)
    server = DtlsConnection(SERVER, "server")
    connect_to_bare(bare, server)
    bare.renegotiate()
    told = str(bare_pump(bare, server))
    # OpenSSL before 3.0.8 counts the repeated warnings instead of naming them.
    assert "no renegotiation" in told or "too many warn alerts" in told
    # OpenSSL's client then gives up by a fatal alert of its own.
    (failure,) = events(server)
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == "alert"


def connect_to_bare(bare: SSL.Connection, end: DtlsConnection) -> None:
    end.start(now=0)
    assert bare_pump(bare, end) is None
    end.set_remote_fingerprints([("sha-256", context_certificate(bare))], now=0)
    assert len(events(end)) == 1
    assert end.state is DtlsState.ESTABLISHED


def test_dtls_peer_that_gives_up_during_the_handshake() -> None:
    pair = DtlsPair()
    pair.start()
    close_notify = bytes.fromhex("15 fefd 0000 000000000000 0002 0100")
    pair.client.receive_datagram(close_notify, now=0)
    (failure,) = events(pair.client)
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == "alert"
    assert pair.client.next_timeout() is None
