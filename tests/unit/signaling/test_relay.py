"""Credentials for relays that an issuer hands out (contract §7)."""

from __future__ import annotations

import attrs
import pytest

from edgeice.errors import DecodeError
from edgeice.signaling import Party
from edgeice.signaling.jws import sign
from edgeice.signaling.relay import RELAY_TYP, RelayCredentials, open_relay, sign_relay
from tests.unit.signaling.kit import ALICE, ALICE_KEY, DEVICE, DEVICE_KEY, WALL

ISSUER_KEY = ALICE_KEY
RELAY = RelayCredentials(
    iss="relay.example.org",
    iat=WALL,
    exp=WALL + 3600,
    urls=("turn:relay.example.org", "turns:relay.example.org:443"),
    username=f"{WALL + 3600}:pi17",
    credential="c2VjcmV0",
)


@pytest.mark.parametrize("party", [DEVICE, ALICE])
def test_what_the_issuer_signs_the_party_reads(party: Party) -> None:
    signed = sign_relay(party, RELAY, ISSUER_KEY)
    assert open_relay(signed, ISSUER_KEY.public, party, wall=WALL) == RELAY
    assert "c2VjcmV0" not in repr(RELAY)


def refused(data: bytes, wall: float | None = WALL) -> str:
    with pytest.raises(DecodeError) as caught:
        open_relay(data, ISSUER_KEY.public, DEVICE, wall=wall)
    return caught.value.reason


def test_host_25_only_the_issuers_word_for_this_party_counts() -> None:
    assert refused(sign_relay(ALICE, RELAY, ISSUER_KEY)) == "audience"
    assert refused(sign_relay(DEVICE, RELAY, DEVICE_KEY)) == "jws-key"
    good = sign_relay(DEVICE, RELAY, ISSUER_KEY)
    assert refused(good[:-4] + b"AAAA") in ("jws-signature", "jws-form")
    # Signed by the right key, but as another kind of thing.
    body = {"urls": [], "username": "u", "credential": "c"}
    claims = {"iss": "x", "aud": str(DEVICE), "iat": WALL, "exp": WALL + 60, "body": body}
    assert refused(sign(claims, ISSUER_KEY)) == "jws-typ"
    assert open_relay(sign(claims, ISSUER_KEY, typ=RELAY_TYP), ISSUER_KEY.public, DEVICE, wall=WALL).urls == ()


def test_turn_37_old_credentials_are_refused_where_the_time_is_known() -> None:
    signed = sign_relay(DEVICE, attrs.evolve(RELAY, exp=WALL), ISSUER_KEY)
    assert refused(signed) == "expired"
    # A device without a clock lets the relay judge.
    assert open_relay(signed, ISSUER_KEY.public, DEVICE, wall=None).exp == WALL


@pytest.mark.parametrize(
    "change",
    [
        {"exp": "soon"},
        {"body": []},
        {"body": {"urls": "turn:x", "username": "u", "credential": "c"}},
        {"body": {"urls": ["turn:x"] * 9, "username": "u", "credential": "c"}},
        {"body": {"urls": ["turn:x"], "username": "u" * 509, "credential": "c"}},
        {"body": {"urls": ["turn:x"], "username": "u"}},
    ],
)
def test_host_24_what_is_no_credential(change: dict[str, object]) -> None:
    body = {"urls": ["turn:x"], "username": "u", "credential": "c"}
    claims = {"iss": "x", "aud": str(DEVICE), "iat": WALL, "exp": WALL + 60, "body": body} | change
    assert refused(sign(claims, ISSUER_KEY, typ=RELAY_TYP)) == "claims"
