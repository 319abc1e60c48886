"""The parts by themselves: certificate, record sieve, packing, transition table (checklist DTLS-06, DTLS-11)."""

from __future__ import annotations

import hashlib
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edgeice.dtls import Certificate
from edgeice.dtls.events import TRANSITIONS, DtlsInput, DtlsState, next_state
from edgeice.dtls.record import pack_datagrams, sift_records, split_records
from edgeice.errors import LocalProtocolError
from edgeice.sansio import DropCounter
from tests.support.dtls_pair import CLIENT, SERVER


def test_dtls_11_certificate_is_p256_and_holds_for_any_clock() -> None:
    certificate = x509.load_der_x509_certificate(CLIENT.der)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    text = CLIENT.der
    assert b"700101000000Z" in text
    assert b"491231235959Z" in text
    assert certificate.subject == certificate.issuer
    assert certificate.serial_number != x509.load_der_x509_certificate(SERVER.der).serial_number


def test_dtls_11_fingerprint_is_sha256_over_der_in_hex_pairs() -> None:
    digest = hashlib.sha256(CLIENT.der).hexdigest().upper()
    assert CLIENT.fingerprint.replace(":", "") == digest
    assert CLIENT.fingerprint.count(":") == 31


def test_dtls_certificate_keeps_its_key_out_of_repr() -> None:
    text = repr(Certificate.generate())
    assert "Context" not in text
    assert "key" not in text.lower()


@pytest.mark.parametrize(("state", "occurred"), list(product(DtlsState, DtlsInput)))
def test_dtls_every_cell_of_the_table(state: DtlsState, occurred: DtlsInput) -> None:
    if (state, occurred) in TRANSITIONS:
        assert next_state(state, occurred) is TRANSITIONS[state, occurred]
    else:
        with pytest.raises(LocalProtocolError, match=occurred.name):
            next_state(state, occurred)


def test_dtls_only_verification_establishes() -> None:
    ways = [key for key, after in TRANSITIONS.items() if after is DtlsState.ESTABLISHED]
    assert ways == [(DtlsState.VERIFYING, DtlsInput.VERIFIED)]


def record(content_type: int, size: int) -> bytes:
    return bytes([content_type]) + b"\xfe\xfd\0\1" + bytes(6) + size.to_bytes(2, "big") + bytes(size)


def test_dtls_packing_joins_flights_and_leaves_data_alone() -> None:
    stream = b"".join(
        record(*r) for r in [(22, 87), (22, 87), (22, 87), (20, 1), (23, 500), (23, 10), (21, 2), (21, 2)]
    )
    sizes = [len(datagram) for datagram in pack_datagrams(stream, 250)]
    assert sizes == [200, 114, 513, 53]


@given(
    records=st.lists(st.tuples(st.sampled_from([20, 21, 22, 23]), st.integers(0, 300)), max_size=12),
    mtu=st.integers(64, 400),
)
def test_dtls_packing_loses_nothing_and_splits_no_record(records: list[tuple[int, int]], mtu: int) -> None:
    wanted = [record(*r) for r in records]
    datagrams = list(pack_datagrams(b"".join(wanted), mtu))
    assert [found for datagram in datagrams for found in split_records(datagram)] == wanted
    assert all(len(datagram) <= mtu or len(list(split_records(datagram))) == 1 for datagram in datagrams)


GOOD = record(22, 24)
SIEVE = {
    "whole": (GOOD + GOOD, GOOD + GOOD, {}),
    "a header alone": (GOOD[:13], b"", {"record-truncated": 1}),
    "cut short": (GOOD + GOOD[:-1], GOOD, {"record-length": 1}),
    "no body": (record(22, 0) + GOOD, b"", {"record-length": 1}),
    "unknown type": (record(99, 24) + GOOD, GOOD, {"record-type": 1}),
    "TLS": (GOOD.replace(b"\xfe\xfd", b"\x03\x03") + GOOD, GOOD, {"record-version": 1}),
    "plaintext data": (b"\x17\xfe\xfd" + bytes(8) + b"\0\1x" + GOOD, GOOD, {"plaintext-data": 1}),
    "no room for a tag": (record(22, 23) + GOOD, GOOD, {"record-short": 1}),
    "too long": (record(22, 2**14 + 2049), b"", {"record-length": 1}),
}


@pytest.mark.parametrize(("datagram", "kept", "counts"), SIEVE.values(), ids=SIEVE.keys())
def test_dtls_06_sieve(datagram: bytes, kept: bytes, counts: dict[str, int]) -> None:
    drops = DropCounter()
    assert sift_records(datagram, drops) == kept
    assert drops.snapshot() == counts


@given(st.binary(max_size=200))
def test_dtls_06_sieve_keeps_whole_records_only(datagram: bytes) -> None:
    drops = DropCounter()
    kept = sift_records(datagram, drops)
    assert sift_records(kept, DropCounter()) == kept
    assert len(kept) <= len(datagram)
    assert kept == datagram or drops.total > 0
