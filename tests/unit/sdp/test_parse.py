"""What the parser accepts, refuses and caps (checklist SDP-04, -05, -07, -09, SDP-20; HOST-17)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.sdp import SessionDescription, parse

UFRAG, PWD = "a=ice-ufrag:abcd", "a=ice-pwd:" + "p" * 22
FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["0A"] * 32)
SESSION = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0"]
DATA = [
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 0.0.0.0",
    "a=mid:0",
    UFRAG,
    PWD,
    FINGERPRINT,
    "a=setup:actpass",
    "a=sctp-port:5000",
]


def text_of(lines: list[str]) -> str:
    return "".join(f"{line}\r\n" for line in lines)


def with_line(old: str | None, new: str | None, *, session: bool = False) -> str:
    """The plain description with a line replaced (by prefix), left out or added at a level's end."""
    top, data = list(SESSION), list(DATA)
    for level in (top, data):
        level[:] = [line for line in level if old is None or not line.startswith(old)]
    if new is not None:
        (top if session else data).append(new)
    return text_of(top + data)


def reason_of(text: str) -> str | None:
    try:
        parse(text)
    except DecodeError as error:
        return error.reason
    return None


def test_sdp_plain_description() -> None:
    assert parse(with_line(None, None)) == SessionDescription(
        ufrag="abcd",
        pwd="p" * 22,
        fingerprints=(("sha-256", ":".join(["0A"] * 32)),),
        setup="actpass",
        options=(),
        session_id=1,
        session_version=2,
    )


@pytest.mark.parametrize(("length", "allowed"), [(0, False), (3, False), (4, True), (256, True), (257, False)], ids=str)
def test_sdp_04_ufrag_bounds(length: int, allowed: bool) -> None:
    assert reason_of(with_line(UFRAG, "a=ice-ufrag:" + "u" * length)) == (None if allowed else "ufrag")


@pytest.mark.parametrize(("length", "allowed"), [(21, False), (22, True), (256, True), (257, False)], ids=str)
def test_sdp_04_pwd_bounds(length: int, allowed: bool) -> None:
    assert reason_of(with_line(PWD, "a=ice-pwd:" + "p" * length)) == (None if allowed else "pwd")


@pytest.mark.parametrize("ufrag", ["", "a:cd", "peer:own", "u" * 257])
def test_host_15_ufrags_that_would_confuse_whose_check_is_whose(ufrag: str) -> None:
    assert reason_of(with_line(UFRAG, f"a=ice-ufrag:{ufrag}")) == "ufrag"


@pytest.mark.parametrize("pwd", ["", " " * 22, "p" * 21 + ":", "p" * 257])
def test_host_15_passwords_that_prove_nothing(pwd: str) -> None:
    assert reason_of(with_line(PWD, f"a=ice-pwd:{pwd}")) == "pwd"


@pytest.mark.parametrize("ufrag", ["ab-d", "ab d", "abc=", "abc\u00e9", "abc\u0661"])
def test_sdp_04_ufrag_characters(ufrag: str) -> None:
    assert reason_of(with_line(UFRAG, f"a=ice-ufrag:{ufrag}")) == "ufrag"


@pytest.mark.parametrize(
    ("line", "field", "session_value", "media_value"),
    [
        ("a=ice-ufrag:", "ufrag", "sess", "abcd"),
        ("a=ice-pwd:", "pwd", "s" * 22, "p" * 22),
        ("a=setup:", "setup", "passive", "actpass"),
    ],
)
def test_sdp_04_media_level_beats_session_level(line: str, field: str, session_value: str, media_value: str) -> None:
    both = with_line(None, line + session_value, session=True)
    assert getattr(parse(both), field) == media_value
    moved = with_line(line, line + session_value, session=True)
    assert getattr(parse(moved), field) == session_value


def test_sdp_04_fingerprints_of_the_closest_level_count() -> None:
    other = "a=fingerprint:sha-256 " + ":".join(["0B"] * 32)
    both = with_line(None, other, session=True)
    assert parse(both).fingerprints == (("sha-256", ":".join(["0A"] * 32)),)
    assert parse(with_line(FINGERPRINT, other, session=True)).fingerprints == (("sha-256", ":".join(["0B"] * 32)),)


def test_sdp_fingerprints_in_any_case_are_one() -> None:
    text = with_line(None, FINGERPRINT.replace("sha-256", "SHA-256").replace("0A", "0a"))
    assert parse(text).fingerprints == (("sha-256", ":".join(["0A"] * 32)),)


FINGERPRINTS = ["", "sha-256", "sha-256 ", "sha-256 0A:0", "sha-256 0A0B", "sha-256 0A:0B:", "sha-256 0A 0B", "0A:0B"]


@pytest.mark.parametrize("value", FINGERPRINTS)
def test_host_18_malformed_fingerprints(value: str) -> None:
    assert reason_of(with_line(None, f"a=fingerprint:{value}")) == "fingerprint"


def test_host_18_fingerprints_are_required_and_capped() -> None:
    assert reason_of(with_line(FINGERPRINT, None)) == "fingerprint"
    many = [f"a=fingerprint:sha-256 {n:02X}" for n in range(17)]
    assert reason_of(text_of(SESSION + DATA[:5] + many[:16] + DATA[6:])) is None
    assert reason_of(text_of(SESSION + DATA[:5] + many + DATA[6:])) == "fingerprint"


def test_host_18_another_sections_fingerprint_does_not_count() -> None:
    """Outside a bundle, sections have nothing to do with each other."""
    audio = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:1", FINGERPRINT, UFRAG, PWD, "a=setup:actpass"]
    lines = SESSION + audio + [line for line in DATA if line != FINGERPRINT]
    assert reason_of(text_of(lines)) == "fingerprint"
    bundled = [line.replace("BUNDLE 0", "BUNDLE 1 0") for line in lines]
    assert reason_of(text_of(bundled)) is None


@pytest.mark.parametrize(("value", "allowed"), [("active", True), ("passive", True), ("holdconn", False), ("", False)])
def test_sdp_setup(value: str, allowed: bool) -> None:
    assert reason_of(with_line("a=setup", f"a=setup:{value}")) == (None if allowed else "setup")


@pytest.mark.parametrize(
    ("value", "pacing"),
    [("20", 20), ("0", 0), ("9999999999", 9999999999), ("12345678901", None), ("x", None), ("", None)],
)
@pytest.mark.parametrize("session", [True, False])
def test_sdp_05_pacing(value: str, pacing: int | None, session: bool) -> None:
    assert parse(with_line(None, f"a=ice-pacing:{value}", session=session)).pacing == pacing


def test_sdp_05_options_of_both_levels_count_once_each() -> None:
    lines = [*SESSION, "a=ice-options:ice2 renomination", *DATA, "a=ice-options:trickle  ice2"]
    description = parse(text_of(lines))
    assert description.options == ("trickle", "ice2", "renomination")
    assert description.is_trickle


def test_sdp_07_lite_stands_at_session_level_only() -> None:
    assert parse(with_line(None, "a=ice-lite", session=True)).lite
    assert not parse(with_line(None, "a=ice-lite")).lite


def test_sdp_07_ice_mismatch_refuses() -> None:
    assert reason_of(with_line(None, "a=ice-mismatch")) == "ice-mismatch"


@pytest.mark.parametrize("session", [True, False])
def test_sdp_09_end_of_candidates_at_either_level(session: bool) -> None:
    assert parse(with_line(None, "a=end-of-candidates", session=session)).end_of_candidates


@pytest.mark.parametrize(
    ("value", "port"),
    [("1", 1), ("65535", 65535), ("0", None), ("65536", None), ("-1", None), ("9" * 5000, None), ("\u0665", None)],
    ids=["1", "65535", "0", "65536", "-1", "huge", "arabic"],
)
def test_sdp_20_sctp_port(value: str, port: int | None) -> None:
    text = with_line("a=sctp-port", f"a=sctp-port:{value}")
    if port is None:
        assert reason_of(text) == "sctp-port"
    else:
        assert parse(text).sctp_port == port


@pytest.mark.parametrize(
    ("value", "size"), [("0", 0), ("1", 1), ("9" * 19, int("9" * 19)), ("9" * 20, None), ("", None), ("1e6", None)]
)
def test_sdp_20_max_message_size(value: str, size: int | None) -> None:
    text = with_line(None, f"a=max-message-size:{value}")
    if size is None:
        assert reason_of(text) == "max-message-size"
    else:
        assert parse(text).max_message_size == size


def test_sdp_20_max_message_size_defaults_to_64_kib() -> None:
    assert parse(with_line(None, None)).max_message_size == 65536


M_LINES = {
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel": None,
    "m=application 9 TCP/DTLS/SCTP webrtc-datachannel": None,
    "m=application 9/1 UDP/DTLS/SCTP webrtc-datachannel": None,
    "m=application 0 UDP/DTLS/SCTP webrtc-datachannel": "no-data-section",
    "m=application 9 UDP/DTLS/SCTP bfcp": "no-data-section",
    "m=application 9 UDP/BFCP *": "no-data-section",
    "m=application 9 DTLS/SCTP 5000": "no-data-section",
    "m=audio 9 UDP/DTLS/SCTP webrtc-datachannel": "no-data-section",
    "m=application 70000 UDP/DTLS/SCTP webrtc-datachannel": "media",
    "m=application 9 UDP/DTLS/SCTP": "media",
    "m=application -1 UDP/DTLS/SCTP webrtc-datachannel": "media",
    "m=a\u00e9 9 UDP/DTLS/SCTP webrtc-datachannel": "media",
    "m=": "media",
}


@pytest.mark.parametrize(("line", "reason"), M_LINES.items(), ids=range(len(M_LINES)))
def test_sdp_m_lines(line: str, reason: str | None) -> None:
    assert reason_of(text_of([*SESSION, line, *DATA[1:]])) == reason


def test_sdp_20_the_old_form_needs_its_map() -> None:
    lines = [*SESSION, "m=application 9 DTLS/SCTP 4999", *DATA[1:-1], "a=sctpmap:4999 webrtc-datachannel 256"]
    description = parse(text_of(lines))
    assert (description.sctp_port, description.proto) == (4999, "DTLS/SCTP")
    lines[5] = "m=application 9 DTLS/SCTP five"
    assert reason_of(text_of(lines)) == "sctp-port"


def test_sdp_the_first_usable_data_section_counts() -> None:
    closed = ["m=application 0 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:9"]
    second = [line.replace("mid:0", "mid:1").replace("abcd", "wxyz") for line in DATA]
    description = parse(text_of(SESSION + closed + DATA + second))
    assert (description.ufrag, description.index) == ("abcd", 1)
    assert [other.mid for other in description.others] == ["9", "1"]


def test_sdp_without_mid_and_bundle() -> None:
    description = parse(text_of([line for line in SESSION + DATA if "mid" not in line and "group" not in line]))
    assert (description.mid, description.bundle) == ("", ())


DUPLICATES = {
    "a=ice-ufrag:other": "duplicate",
    "a=setup:active": "duplicate",
    "a=mid:1": "duplicate",
    "a=sctp-port:5001": "duplicate",
    UFRAG: None,
    "a=unknown:1": None,
}


@pytest.mark.parametrize(("line", "reason"), DUPLICATES.items())
def test_sdp_an_attribute_that_contradicts_itself_refuses(line: str, reason: str | None) -> None:
    assert reason_of(with_line(None, line)) == reason


@pytest.mark.parametrize(
    ("group", "reason"), [("BUNDLE 0 0", "bundle"), ("BUNDLE 0 7", "bundle"), ("LS 0 7", None), ("BUNDLE", None)]
)
def test_sdp_bundle_groups(group: str, reason: str | None) -> None:
    assert reason_of(with_line("a=group", f"a=group:{group}", session=True)) == reason


@pytest.mark.parametrize("mid", ["", "a b", "a:b", "\u00e9", "x" * 257])
def test_sdp_malformed_mids(mid: str) -> None:
    lines = [line for line in SESSION + DATA if "mid" not in line and "group" not in line]
    assert reason_of(text_of([*lines, f"a=mid:{mid}"])) == "mid"


def test_sdp_mids_are_unique() -> None:
    assert reason_of(text_of([*SESSION, *DATA, "m=audio 0 RTP/AVP 0", "a=mid:0"])) == "mid"


HOSTILE = {
    "empty": ("", "line"),
    "not SDP": ("hello", "line"),
    "JSON": ('{"sdp":"v=0"}', "line"),
    "other version": (text_of(["v=1", *SESSION[1:], *DATA]), "line"),
    "no m-section": (text_of(SESSION), "no-data-section"),
    "unknown type letter": (text_of([*SESSION, "q=1", *DATA]), "line"),
    "blank line": (text_of([*SESSION, "", *DATA]), "line"),
    "indented": (text_of([*SESSION, " a=x", *DATA]), "line"),
    "NUL": (text_of([*SESSION, "a=x\0y", *DATA]), "characters"),
    "bare CR": (text_of([*SESSION, "a=x\ra=ice-lite", *DATA]), "characters"),
    "vertical tab": (text_of([*SESSION, "a=x\x0by", *DATA]), "characters"),
    "lone surrogate": (text_of([*SESSION, "a=x\ud800", *DATA]), "characters"),
    "1 MB": ("v=0\r\n" + "a=x\r\n" * 200_000, "too-long"),
    "10^5 lines": ("v=0\n" * 100_000, "too-long"),
    "many short lines in few bytes": ("v=0\n" * 8000, "too-long"),
    "33 KiB in few characters": ("v=0\r\na=" + "\u20ac" * 11_000, "too-long"),
    "33 m-sections": (text_of(SESSION + ["m=audio 0 RTP/AVP 0"] * 33), "media"),
    "129 candidates": (text_of(SESSION + DATA + ["a=candidate:1 1 udp 1 192.0.2.1 1 typ host"] * 129), "candidates"),
    "line separator": (text_of([*SESSION, "a=x\u2028a=ice-lite", *DATA]), None),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_host_17_hostile_text(text: str, reason: str | None) -> None:
    assert reason_of(text) == reason


def test_host_17_a_line_separator_separates_no_lines() -> None:
    assert not parse(HOSTILE["line separator"][0]).lite


@given(st.text(max_size=300))
def test_sdp_any_text_is_accepted_or_refused(text: str) -> None:
    reason_of(text)
    reason_of("v=0\n" + text)


LINES = st.one_of(
    st.sampled_from(SESSION + DATA),
    st.builds(
        "a={}:{}".format, st.sampled_from(["mid", "group", "candidate", "setup", "fingerprint"]), st.text(max_size=9)
    ),
    st.builds("m={}".format, st.text(alphabet="aplicton 09/UDTLS", max_size=40)),
    st.text(max_size=20),
)


@given(st.lists(LINES, max_size=30))
def test_sdp_any_lines_are_accepted_or_refused(lines: list[str]) -> None:
    reason_of("v=0\n" + "\n".join(lines))


def test_sdp_mutations_are_accepted_or_refused() -> None:
    random = Random(8866)
    plain = with_line(None, "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host")
    refused = 0
    for _ in range(3000):
        characters = list(plain)
        for _ in range(random.randint(1, 4)):
            characters[random.randrange(len(characters))] = chr(random.choice([10, 13, 32, 45, 58, 61, 97, 49, 0x20AC]))
        refused += reason_of("".join(characters)) is not None
    assert 1000 < refused < 3000
