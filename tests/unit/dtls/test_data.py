"""Records after the handshake: data, replays, garbage, ends (checklist DTLS-06, DTLS-10; HOST-19)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from edgeice.dtls import RECORD_OVERHEAD, DtlsClosed, DtlsConnection, DtlsState
from edgeice.dtls.record import split_records
from edgeice.errors import LocalProtocolError
from tests.support.dtls_pair import CLIENT, SERVER, DtlsPair, bare_context, bare_pump, events


def test_dtls_data_flows_both_ways_one_record_a_datagram() -> None:
    pair = DtlsPair().connect()
    pair.log.clear()
    sizes = [1, 100, pair.client.max_payload, 16384]
    for end in (pair.client, pair.server):
        for size in sizes:
            assert end.send(b"x" * size, now=0)
    pair.pump()
    for end in (pair.client, pair.server):
        assert [len(end.poll_data() or b"") for _ in sizes] == sizes
        assert end.poll_data() is None
    assert [len(datagram) for _, datagram in pair.log] == [size + RECORD_OVERHEAD for size in sizes] * 2


def test_dtls_10_max_payload_fills_the_mtu() -> None:
    pair = DtlsPair().connect()
    pair.client.send(bytes(pair.client.max_payload), now=0)
    assert len(pair.client.poll_transmit() or b"") == 1200


def test_dtls_several_records_in_one_datagram() -> None:
    pair = DtlsPair().connect()
    for number in range(3):
        pair.client.send(b"%d" % number, now=0)
    records = [pair.client.poll_transmit() or b"" for _ in range(3)]
    pair.server.receive_datagram(b"".join(records), now=0)
    assert [pair.server.poll_data() for _ in range(4)] == [b"0", b"1", b"2", None]
    assert pair.server.drops.total == 0


def test_dtls_06_replays_are_dropped_and_reordering_is_not() -> None:
    pair = DtlsPair().connect()
    for number in range(70):
        pair.client.send(b"%d" % number, now=0)
    records = [pair.client.poll_transmit() or b"" for _ in range(70)]
    for record in (records[69], records[40], records[40], records[0]):  # the last has left the window of 64
        pair.server.receive_datagram(record, now=0)
    assert [pair.server.poll_data() for _ in range(3)] == [b"69", b"40", None]
    assert pair.server.drops.snapshot() == {"record-invalid": 2}


@pytest.mark.parametrize("cipher", [b"ECDHE-ECDSA-AES128-GCM-SHA256", b"ECDHE-ECDSA-CHACHA20-POLY1305"])
@pytest.mark.parametrize("following", [False, True])
def test_dtls_06_records_of_every_length_are_dropped(cipher: bytes, following: bool) -> None:
    """Also those that are too short for the cipher, alone and before a good one."""
    context = bare_context()
    context.set_cipher_list(cipher)
    bare = SSL.Connection(context, None)
    bare.set_connect_state()
    bare.set_ciphertext_mtu(1200)
    server = DtlsConnection(SERVER, "server")
    server.start(now=0)
    assert bare_pump(bare, server) is None
    certificate = bare.get_certificate()
    assert certificate is not None
    server.set_remote_fingerprints([("sha-256", certificate.digest("sha256").decode())], now=0)
    for length in range(60):
        bare.send(b"%d" % length)
        good = bare.bio_read(2048)
        bad = good[:11] + length.to_bytes(2) + bytes(length)
        server.receive_datagram(bad + (good if following else b""), now=0)
        # Nothing after a record without a body is looked at.
        assert server.poll_data() == (b"%d" % length if following and length else None)
        if not following or not length:
            server.receive_datagram(good, now=0)
            assert server.poll_data() == b"%d" % length
    assert server.state is DtlsState.ESTABLISHED


def test_dtls_06_every_flipped_bit_of_a_record_drops_it() -> None:
    pair = DtlsPair().connect()
    pair.client.send(b"secret", now=0)
    record = pair.client.poll_transmit() or b""
    for bit in range(8 * len(record)):
        forged = bytearray(record)
        forged[bit // 8] ^= 1 << bit % 8
        pair.server.receive_datagram(bytes(forged), now=0)
        assert pair.server.poll_data() is None
    assert events(pair.server) == []
    assert pair.server.drops.total > 0
    pair.server.receive_datagram(record, now=0)
    assert pair.server.poll_data() == b"secret"


def test_dtls_06_records_that_openssl_drops_in_silence_are_counted() -> None:
    pair = DtlsPair().connect()
    for _ in range(2):
        pair.client.send(b"data", now=0)
    good, other = pair.client.poll_transmit() or b"", pair.client.poll_transmit() or b""
    bad = good[:-1] + bytes((good[-1] ^ 1,))
    pair.server.receive_datagram(bad + bad, now=0)
    assert pair.server.drops.snapshot() == {"record-invalid": 1}
    pair.server.receive_datagram(bad + good, now=0)
    assert pair.server.drops.snapshot() == {"record-invalid": 1}
    pair.server.receive_datagram(good + good, now=0)  # replayed
    assert pair.server.drops.snapshot() == {"record-invalid": 2}
    pair.server.receive_datagram(bytes((21,)) + bad[1:], now=0)
    assert pair.server.drops.snapshot() == {"record-invalid": 3}
    pair.server.receive_datagram(other, now=0)
    assert [pair.server.poll_data(), pair.server.poll_data()] == [b"data", b"data"]


RECORDS = st.builds(
    lambda kind, version, epoch, sequence, body: (
        bytes([kind, *version]) + epoch.to_bytes(2) + sequence.to_bytes(6) + len(body).to_bytes(2) + body
    ),
    kind=st.integers(19, 25),
    version=st.sampled_from([b"\xfe\xfd", b"\xfe\xff", b"\x03\x03"]),
    epoch=st.integers(0, 3),
    sequence=st.integers(0, 2**48 - 1),
    body=st.binary(max_size=60),
)


@settings(max_examples=500, deadline=None)
@given(datagram=st.one_of(RECORDS, st.lists(RECORDS, max_size=3).map(b"".join), st.binary(max_size=80)))
def test_dtls_06_garbage_after_the_handshake_changes_nothing(datagram: bytes) -> None:
    for end in (SHARED.client, SHARED.server):
        dropped = end.drops.total
        end.receive_datagram(datagram, now=0)
        assert end.state is DtlsState.ESTABLISHED
        assert end.poll_data() is None
        assert end.poll_transmit() is None
        assert end.drops.total > dropped or not datagram


SHARED = DtlsPair().connect()


@settings(max_examples=100, deadline=None)
@given(datagrams=st.lists(st.binary(max_size=60), max_size=4))
def test_dtls_06_garbage_never_raises_in_any_state(datagrams: list[bytes]) -> None:
    for connection in (DtlsConnection(CLIENT, "client"), DtlsConnection(SERVER, "server")):
        for datagram in datagrams:
            connection.receive_datagram(datagram, now=0)
        connection.start(now=0)
        for datagram in datagrams:
            connection.receive_datagram(datagram, now=0)
        connection.close(now=0)
        for datagram in datagrams:
            connection.receive_datagram(datagram, now=0)


@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_dtls_06_mutated_handshakes_never_raise(target: int) -> None:
    """One datagram of the handshake arrives with a few bytes changed: it may fail, but only by event."""
    random = Random(target)
    for _ in range(40):
        pair = DtlsPair()
        pair.start()
        for _ in range(12):
            for end in (pair.client, pair.server):
                while (datagram := end.poll_transmit()) is not None:
                    if len(pair.log) == target:
                        changed = bytearray(datagram)
                        for _ in range(3):
                            changed[random.randrange(len(changed))] = random.randrange(256)
                        datagram = bytes(changed)
                    pair.log.append((end.role, datagram))
                    pair.other(end).receive_datagram(datagram, now=0)
        for end in (pair.client, pair.server):
            assert (end.state in (DtlsState.FAILED, DtlsState.ESTABLISHED)) == bool(events(end))


PLAINTEXT_ALERTS = {"close_notify": "0100", "handshake_failure": "0228"}


@pytest.mark.parametrize("alert", PLAINTEXT_ALERTS.values(), ids=PLAINTEXT_ALERTS.keys())
def test_host_19_plaintext_alerts_after_the_handshake_are_dropped(alert: str) -> None:
    pair = DtlsPair().connect()
    for end in (pair.client, pair.server):
        for sequence in ("000000000009", "00000000ffff"):
            end.receive_datagram(bytes.fromhex(f"15 fefd 0000 {sequence} 0002 {alert}"), now=0)
        assert end.state is DtlsState.ESTABLISHED
        assert events(end) == []


def handshake_record(header: str, body: bytes, sequence: int = 1) -> bytes:
    fragment = bytes.fromhex(header) + body
    return b"\x16\xfe\xff\0\0" + sequence.to_bytes(6, "big") + len(fragment).to_bytes(2, "big") + fragment


FRAGMENTS = {
    "length 2^24 - 1": handshake_record("01 ffffff 0000 000000 000004", b"abcd"),
    "beyond its message": handshake_record("01 000004 0000 000004 000004", b"abcd"),
    "beyond its record": handshake_record("01 000100 0000 000000 000080", b"abcd"),
    "empty": handshake_record("01 000100 0000 000000 000000", b""),
    "half a header": handshake_record("01 000100 0000", b""),
    "unknown message": handshake_record("63 000004 0000 000000 000004", b"abcd"),
}


@pytest.mark.parametrize("fragment", FRAGMENTS.values(), ids=FRAGMENTS.keys())
def test_host_19_absurd_fragments_do_not_end_a_handshake(fragment: bytes) -> None:
    pair = DtlsPair()
    pair.start()
    for end in (pair.client, pair.server):
        end.receive_datagram(fragment, now=0)
        assert end.drops.snapshot() == {"handshake-fragment": 1}
    pair.pump()
    assert pair.client.state is pair.server.state is DtlsState.ESTABLISHED


def test_dtls_07_fragments_in_any_order_with_overlaps_are_reassembled() -> None:
    pair = DtlsPair()
    pair.start()
    hello = pair.client.poll_transmit() or b""
    message = hello[13:]
    length, body = message[1:4], message[12:]
    pieces = [(100, len(body)), (40, 120), (0, 60)]
    for sequence, (start, end) in enumerate(pieces, 40):  # numbers that the client itself does not use later on
        header = message[:1].hex() + length.hex() + message[4:6].hex()
        header += start.to_bytes(3, "big").hex() + (end - start).to_bytes(3, "big").hex()
        pair.server.receive_datagram(handshake_record(header, body[start:end], sequence), now=0)
    pair.pump()
    assert pair.client.state is pair.server.state is DtlsState.ESTABLISHED


@pytest.mark.parametrize(
    ("fetched", "datagrams"),
    [
        (False, [("client", [23, 21]), ("server", [21])]),
        (True, [("client", [21]), ("server", [21])]),
    ],
    ids=["in one datagram with the last data", "after it"],
)
def test_dtls_ends_both_ways(fetched: bool, datagrams: list[tuple[str, list[int]]]) -> None:
    pair = DtlsPair().connect()
    pair.client.send(b"last", now=0)
    if fetched:
        pair.server.receive_datagram(pair.client.poll_transmit() or b"", now=0)
    pair.client.close(now=0)
    pair.client.close(now=0)
    pair.log.clear()
    pair.pump()
    assert [(role, [record[0] for record in split_records(sent)]) for role, sent in pair.log] == datagrams
    assert pair.server.poll_data() == b"last"
    assert events(pair.server) == [DtlsClosed()]
    assert events(pair.client) == []
    assert pair.client.state is pair.server.state is DtlsState.CLOSED
    assert pair.client.drops.snapshot() == {"received-after-end": 1}
    assert pair.server.send(b"x", now=0) is False
    assert pair.server.poll_transmit() is None
    assert pair.server.drops.snapshot() == {"sent-after-end": 1}


@pytest.mark.parametrize("started", [False, True])
def test_dtls_close_before_the_handshake_is_done_is_silent(started: bool) -> None:
    client = DtlsConnection(CLIENT, "client")
    if started:
        client.start(now=0)
        assert client.poll_transmit()
    client.close(now=0)
    assert client.poll_transmit() is None
    assert client.next_timeout() is None
    assert client.state is DtlsState.CLOSED
    with pytest.raises(LocalProtocolError, match="START"):
        client.start(now=0)


@pytest.mark.parametrize("size", [0, 16385])
def test_dtls_refuses_sizes_that_no_record_has(size: int) -> None:
    pair = DtlsPair().connect()
    with pytest.raises(LocalProtocolError, match=str(size)):
        pair.client.send(bytes(size), now=0)


def test_dtls_refuses_to_send_before_the_handshake() -> None:
    pair = DtlsPair()
    with pytest.raises(LocalProtocolError, match="NEW"):
        pair.client.send(b"x", now=0)


def test_dtls_what_is_not_fetched_is_bounded() -> None:
    pair = DtlsPair().connect()
    sent = sum(pair.client.send(bytes(16000), now=0) for _ in range(100))
    assert sent == 66
    assert pair.client.drops.snapshot() == {"transmit-full": 34}
    while (datagram := pair.client.poll_transmit()) is not None:
        pair.server.receive_datagram(datagram, now=0)
    for _ in range(1000):
        pair.client.send(b"x", now=0)
        pair.server.receive_datagram(pair.client.poll_transmit() or b"", now=0)
    assert pair.server.drops.snapshot() == {"data-full": sent + 1000 - 1024}
