"""Writing, and the rules between offer and answer (checklist DTLS-01, DTLS-09, SDP-08; HOST-17)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sdp import OtherSection, SessionDescription, Setup, answer_setup, build, is_restart, keeps_dtls, parse

OFFER = SessionDescription(
    ufrag="abcd",
    pwd="p" * 22,
    fingerprints=(("sha-256", ":".join(["0A"] * 32)),),
    setup="actpass",
    pacing=20,
    session_id=1,
    candidates=("candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host",),
    end_of_candidates=True,
)

ICE_CHARS = st.text(alphabet="abcXYZ019+/", min_size=22, max_size=40)
TOKENS = st.text(alphabet="abcXYZ019-_.", min_size=1, max_size=8)


@st.composite
def descriptions(draw: st.DrawFn) -> SessionDescription:
    mids = draw(st.lists(TOKENS, min_size=1, max_size=4, unique=True))
    index = draw(st.integers(0, len(mids) - 1))
    bundle = draw(st.sampled_from([(), tuple(mids), (mids[index],)]))
    others = tuple(
        OtherSection(draw(st.sampled_from(["audio", "video", "text"])), "RTP/AVP", ("0", "8"), mid, leads, codec)
        for mid in mids[:index] + mids[index + 1 :]
        for leads in [bundle[:1] == (mid,)]
        for codec in [draw(st.sampled_from([(), ("rtpmap:0 PCMU/8000",)])) if leads else ()]
    )
    return SessionDescription(
        ufrag=draw(ICE_CHARS),
        pwd=draw(ICE_CHARS),
        fingerprints=(("sha-256", ":".join(["0A"] * 32)),),
        setup=draw(st.sampled_from(["actpass", "active", "passive"])),
        options=tuple(draw(st.lists(TOKENS, max_size=3, unique=True))),
        pacing=draw(st.none() | st.integers(0, 5000)),
        lite=draw(st.booleans()),
        tls_id=draw(st.just("") | TOKENS),
        sctp_port=draw(st.integers(1, 65535)),
        max_message_size=draw(st.integers(0, 2**31)),
        candidates=tuple(draw(st.lists(TOKENS.map("candidate:{}".format), max_size=3))),
        end_of_candidates=draw(st.booleans()),
        mid=mids[index],
        bundle=bundle,
        proto=draw(st.sampled_from(["UDP/DTLS/SCTP", "TCP/DTLS/SCTP", "DTLS/SCTP"])),
        index=index,
        others=others,
        session_id=draw(st.integers(0, 2**63 - 1)),
        session_version=draw(st.integers(0, 1000)),
    )


@given(descriptions())
def test_sdp_round_trip(description: SessionDescription) -> None:
    text = build(description)
    assert parse(text) == description
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")


INJECTIONS: dict[str, dict[str, Any]] = {
    "line in the ufrag": {"ufrag": "abcd\r\na=ice-lite"},
    "line in a candidate": {"candidates": ("candidate:1\r\na=setup:active",)},
    "line in a mid": {"mid": "0\r\na=x", "bundle": ()},
    "line in an option": {"options": ("trickle\na=x",)},
    "line in another section": {"others": (OtherSection("audio", "RTP/AVP", ("0\r\na=x",), "1"),)},
    "comma in an option": {"options": ("ice2,trickle",)},
    "space in a mid": {"mid": "a b", "bundle": ()},
    "no candidate": {"candidates": ("setup:active",)},
    "short password": {"pwd": "short"},
    "no fingerprint": {"fingerprints": ()},
    "fingerprint in lower case": {"fingerprints": (("sha-256", "0a:0b"),)},
    "port 0": {"sctp_port": 0},
    "size below 0": {"max_message_size": -1},
    "bundle without its mid": {"bundle": ("1",)},
    "index beyond the sections": {"index": 1},
    "a section leads outside the bundle": {
        "others": (OtherSection("audio", "RTP/AVP", ("0",), "1", True),),
        "index": 1,
    },
    "line in a codec": {
        "others": (OtherSection("audio", "RTP/AVP", ("0",), "1", True, ("rtpmap:0 PCMU/8000\r\na=x",)),),
        "bundle": ("1", "0"),
        "index": 1,
    },
    "codec of another format": {
        "others": (OtherSection("audio", "RTP/AVP", ("0",), "1", True, ("rtpmap:8 PCMA/8000",)),),
        "bundle": ("1", "0"),
        "index": 1,
    },
    "too many candidates": {"candidates": OFFER.candidates * 129},
}


@pytest.mark.parametrize("change", INJECTIONS.values(), ids=INJECTIONS.keys())
def test_host_17_what_cannot_be_said_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="not a session description"):
        build(attrs.evolve(OFFER, **change))


@pytest.mark.parametrize(
    ("offered", "present", "answered"),
    [
        ("actpass", None, "active"),
        ("active", None, "passive"),
        ("passive", None, "active"),
        ("actpass", "active", "active"),
        ("actpass", "passive", "passive"),
        ("active", "passive", "passive"),
        ("passive", "active", "active"),
        ("active", "active", None),
        ("passive", "passive", None),
    ],
)
def test_dtls_01_setup_matrix(offered: Setup, present: Setup | None, answered: str | None) -> None:
    if answered is None:
        with pytest.raises(DecodeError, match="setup"):
            answer_setup(offered, present)
    else:
        assert answer_setup(offered, present) == answered


def test_sdp_08_restart_is_both_values() -> None:
    new_ufrag, new_pwd = attrs.evolve(OFFER, ufrag="wxyz"), attrs.evolve(OFFER, pwd="q" * 22)
    assert not is_restart(OFFER, attrs.evolve(OFFER, candidates=()))
    assert is_restart(OFFER, attrs.evolve(new_ufrag, pwd="q" * 22))
    for half in (new_ufrag, new_pwd):
        with pytest.raises(DecodeError, match="half-restart"):
            is_restart(OFFER, half)


def test_sdp_08_moving_the_credentials_between_levels_is_no_restart() -> None:
    text = build(OFFER)
    credentials = "a=ice-ufrag:abcd\r\na=ice-pwd:" + "p" * 22 + "\r\n"
    moved = text.replace(credentials, "").replace("t=0 0\r\n", "t=0 0\r\n" + credentials)
    assert moved != text
    assert not is_restart(parse(text), parse(moved))


def test_dtls_09_same_association() -> None:
    other = ("sha-256", ":".join(["0B"] * 32))
    two = attrs.evolve(OFFER, fingerprints=(*OFFER.fingerprints, other))
    swapped = attrs.evolve(OFFER, fingerprints=(other, *OFFER.fingerprints))
    assert keeps_dtls(OFFER, attrs.evolve(OFFER, ufrag="wxyz", pwd="q" * 22, setup="active"))
    assert keeps_dtls(two, swapped)
    assert not keeps_dtls(OFFER, two)
    assert not keeps_dtls(OFFER, attrs.evolve(OFFER, tls_id="x" * 20))


def test_sdp_aiortc_reads_offers() -> None:
    aiortc_sdp = pytest.importorskip("aiortc.sdp")
    media = aiortc_sdp.SessionDescription.parse(build(OFFER)).media
    assert len(media) == 1
    data = media[0]
    assert (data.kind, data.port, data.profile, data.fmt) == ("application", 9, "UDP/DTLS/SCTP", ["webrtc-datachannel"])
    assert (data.ice.usernameFragment, data.ice.password) == ("abcd", "p" * 22)
    assert (data.dtls.role, data.sctp_port, data.sctpCapabilities.maxMessageSize) == ("auto", 5000, 65536)
    assert [(f.algorithm, f.value) for f in data.dtls.fingerprints] == [*OFFER.fingerprints]
    assert [(c.ip, c.port, c.type) for c in data.ice_candidates] == [("192.0.2.1", 5000, "host")]
    assert data.ice_candidates_complete
    assert data.rtp.muxId == "0"
