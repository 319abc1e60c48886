"""Descriptions as browsers and libraries write them (checklist SDP-04, -05, -07, -09, SDP-20)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from edgeice.sdp import OtherSection, SessionDescription, answer, build, parse

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"
NAMES = sorted(path.stem for path in VECTORS.glob("*.sdp"))


def read(name: str) -> str:
    return (VECTORS / f"{name}.sdp").read_bytes().decode()


# What differs from the plain case, by name: fields of the result.
EXPECTED: dict[str, dict[str, Any]] = {
    "aiortc-offer": {"ufrag": "Kq2x", "options": (), "max_message_size": 65536, "end_of_candidates": True, "n": (3, 2)},
    "bundle-only-offer": {"ufrag": "Rz1c", "mid": "2", "bundle": ("0", "1", "2"), "index": 2, "n": (1, 1)},
    "chromium-answer": {"ufrag": "R8Gs", "setup": "active", "n": (1, 2)},
    "chromium-offer": {"ufrag": "+vN3", "pwd": "ySmGO4VvFJlNF7Ux9Ot0p/Wm", "n": (1, 3)},
    "chromium-offer-media": {"ufrag": "Rz1c", "mid": "2", "bundle": ("0", "1", "2"), "index": 2, "n": (1, 1)},
    "edgeice-answer-to-media": {
        "ufrag": "Zk3v",
        "setup": "active",
        "options": ("trickle", "ice2"),
        "pacing": 20,
        "mid": "2",
        "bundle": ("0", "2"),
        "index": 2,
        "n": (1, 1),
    },
    "edgeice-offer": {
        "ufrag": "Zk3v",
        "options": ("trickle", "ice2"),
        "pacing": 20,
        "end_of_candidates": True,
        "n": (1, 2),
    },
    "firefox-answer": {
        "ufrag": "e3a9c07d",
        "setup": "active",
        "mid": "data",
        "bundle": ("data",),
        "max_message_size": 1073741823,
        "n": (1, 0),
    },
    "firefox-offer": {"ufrag": "7a1d2f0b", "max_message_size": 1073741823, "end_of_candidates": True, "n": (1, 3)},
    "libdatachannel-offer": {"ufrag": "mX2r", "options": ("ice2", "trickle"), "end_of_candidates": True, "n": (1, 2)},
    "old-offer": {
        "ufrag": "x0Ua",
        "options": (),
        "mid": "data",
        "bundle": ("data",),
        "proto": "DTLS/SCTP",
        "max_message_size": 65536,
        "n": (1, 0),
    },
    "pion-answer": {
        "ufrag": "QkVtBdRpLvYhGzNs",
        "setup": "active",
        "options": (),
        "lite": True,
        "max_message_size": 1073741823,
        "end_of_candidates": True,
        "n": (1, 2),
    },
    "safari-offer": {"ufrag": "hE5P", "n": (1, 0)},
}
PLAIN: dict[str, Any] = {
    "setup": "actpass",
    "options": ("trickle",),
    "pacing": None,
    "lite": False,
    "tls_id": "",
    "sctp_port": 5000,
    "max_message_size": 262144,
    "end_of_candidates": False,
    "mid": "0",
    "bundle": ("0",),
    "proto": "UDP/DTLS/SCTP",
    "index": 0,
}


@pytest.mark.parametrize("name", NAMES)
def test_sdp_corpus(name: str) -> None:
    expected = PLAIN | EXPECTED[name]
    fingerprints, candidates = expected.pop("n")
    description = parse(read(name))
    assert {field: getattr(description, field) for field in expected} == expected
    assert (len(description.fingerprints), len(description.candidates)) == (fingerprints, candidates)
    assert all(candidate.startswith("candidate:") for candidate in description.candidates)
    assert [section.media for section in description.others] == (["audio", "video"] if description.index else [])


@pytest.mark.parametrize("name", NAMES)
def test_sdp_corpus_round_trip(name: str) -> None:
    description = parse(read(name))
    assert parse(build(description)) == description


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_sdp_line_ends_do_not_matter(name: str, end: str) -> None:
    text = read(name)
    assert parse(text.replace("\r\n", end).removesuffix(end)) == parse(text)


def test_sdp_chromium_candidates_are_kept_word_for_word() -> None:
    assert parse(read("chromium-offer")).candidates[2] == (
        "candidate:1853887674 1 udp 1686052607 203.0.113.77 46243 typ srflx raddr 0.0.0.0 rport 0 "
        "generation 0 network-id 1"
    )


def test_sdp_secrets_stay_out_of_repr() -> None:
    description = parse(read("chromium-offer"))
    assert description.pwd not in repr(description)


OURS: dict[str, Any] = {
    "ufrag": "Zk3v",
    "pwd": "4oYq0T7mJr2wPzXcVbNlGd",
    "fingerprints": parse(read("edgeice-offer")).fingerprints,
    "setup": "actpass",
    "pacing": 20,
    "max_message_size": 262144,
    "session_id": 4611686018427387905,
    "session_version": 1,
}


def test_sdp_offer_is_written_to_the_letter() -> None:
    candidates = (
        "candidate:1 1 udp 2130706431 192.0.2.10 40000 typ host",
        "candidate:2 1 udp 1694498815 203.0.113.10 40000 typ srflx raddr 192.0.2.10 rport 40000",
    )
    description = SessionDescription(**OURS, candidates=candidates, end_of_candidates=True)
    assert build(description) == read("edgeice-offer")


def test_sdp_answer_to_an_offer_with_media_is_written_to_the_letter() -> None:
    offer = parse(read("chromium-offer-media"))
    ours = SessionDescription(**OURS, candidates=("candidate:1 1 udp 2130706431 192.0.2.10 40000 typ host",))
    assert build(answer(offer, ours)) == read("edgeice-answer-to-media")


def test_sdp_the_transport_is_that_of_the_section_that_leads() -> None:
    offer = parse(read("chromium-offer-media"))
    assert [other.leads for other in offer.others] == [True, False]
    assert offer.others[0].codec == ("rtpmap:111 opus/48000/2", "fmtp:111 minptime=10;useinbandfec=1")
    assert [candidate.split()[5] for candidate in offer.candidates] == ["40111"]  # not the data section's own


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BUNDLE 0 1 2", "BUNDLE 2 0 1"),
        ("BUNDLE 0 1 2", "BUNDLE 0 1"),
        ("m=audio 9 ", "m=audio 0 "),
        ("m=audio 9 UDP/TLS/RTP/SAVPF", "m=audio 9 TCP/BFCP"),
    ],
    ids=["the data section leads", "outside the bundle", "rejected by the offer", "no RTP"],
)
def test_sdp_only_a_leading_section_is_kept(old: str, new: str) -> None:
    text = read("chromium-offer-media")
    assert old in text
    offer = parse(text.replace(old, new))
    assert [other.leads for other in offer.others] == [False, False]
    assert [other.codec for other in offer.others] == [(), ()]
    assert [candidate.split()[5] for candidate in offer.candidates] == ["40113"]
    made = build(answer(offer, SessionDescription(**OURS)))
    assert parse(made).bundle == (("2",) if "2" in offer.bundle else ())
    assert made.count("a=ice-ufrag:") == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("offer")])
def test_sdp_answers_mirror_the_offer(name: str) -> None:
    offer = parse(read(name))
    text = build(answer(offer, SessionDescription(**OURS)))
    made = parse(text)
    assert (made.mid, made.index, made.proto, made.setup) == (offer.mid, offer.index, offer.proto, "active")
    leading = [other.mid for other in offer.others if other.leads]
    assert made.bundle == (*leading, offer.mid)
    assert [other.mid for other in made.others] == [other.mid for other in offer.others]
    media = [line.split(" ")[:2] for line in text.split("\r\n") if line.startswith("m=")]
    accepted = [other.mid in made.bundle for other in made.others]
    accepted.insert(offer.index, True)
    assert [port for _, port in media] == ["9" if each else "0" for each in accepted]


def test_sdp_answer_keeps_a_rejected_second_data_section_as_it_was() -> None:
    offer = attrs.evolve(
        parse(read("chromium-offer")),
        others=(OtherSection("application", "UDP/DTLS/SCTP", ("webrtc-datachannel",), "1"),),
    )
    lines = build(answer(offer, SessionDescription(**OURS))).split("\r\n")
    assert "m=application 0 UDP/DTLS/SCTP webrtc-datachannel" in lines
