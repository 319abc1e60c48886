"""Candidate lines as browsers and libraries write them, and the edges of their grammar (RFC 8839 §5.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceCredentials,
    NamedCandidate,
    decode_candidate,
    encode_candidate,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp" / "candidates.json"
ROWS: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))
TAKEN = [row for row in ROWS if "ignored" not in row]
IGNORED = [row for row in ROWS if "ignored" in row]

UNSUPPORTED = {"candidate_transport", "candidate_name", "address"}


def name_of(row: dict[str, Any]) -> str:
    return str(row["from"])


def related_of(found: Candidate) -> str | None:
    return None if found.related is None else str(found.related)


@pytest.mark.parametrize("row", TAKEN, ids=name_of)
def test_sdp_01_sdp_02_lines_that_are_taken(row: dict[str, Any]) -> None:
    found = decode_candidate(row["line"])
    named = isinstance(found, NamedCandidate)
    assert named is row["host"].endswith(".local")
    candidate = found.template if isinstance(found, NamedCandidate) else found
    place = (found.name, found.port) if isinstance(found, NamedCandidate) else (found.address.ip, found.address.port)
    assert place == (row["host"], row["port"])
    assert (candidate.foundation, candidate.component, candidate.priority) == (
        row["foundation"],
        row["component"],
        row["priority"],
    )
    assert (candidate.type.value, related_of(candidate)) == (row["type"], row["related"])


@pytest.mark.parametrize("row", [row for row in IGNORED if row["ignored"] not in UNSUPPORTED], ids=name_of)
def test_sdp_01_lines_against_the_grammar_are_ignored(row: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_candidate(row["line"])
    assert caught.value.reason == row["ignored"]


@pytest.mark.parametrize("row", [row for row in IGNORED if row["ignored"] in UNSUPPORTED], ids=name_of)
def test_sdp_03_addresses_and_transports_that_are_not_supported_are_ignored(row: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_candidate(row["line"])
    assert caught.value.reason == row["ignored"]


HERE, THERE = TransportAddress("192.0.2.1", 4000), TransportAddress("203.0.113.5", 50000)
HERE6, THERE6 = TransportAddress("2001:db8::1", 4000), TransportAddress("2001:db8:5::5", 50000)


@pytest.mark.parametrize(
    ("kind", "address", "related", "end"),
    [
        (CandidateType.HOST, HERE, None, "192.0.2.1 4000 typ host"),
        (CandidateType.HOST, HERE6, None, "2001:db8::1 4000 typ host"),
        (CandidateType.HOST, HERE, THERE, "192.0.2.1 4000 typ host"),
        (CandidateType.SERVER_REFLEXIVE, THERE, HERE, "203.0.113.5 50000 typ srflx raddr 192.0.2.1 rport 4000"),
        (CandidateType.PEER_REFLEXIVE, THERE, HERE, "203.0.113.5 50000 typ prflx raddr 192.0.2.1 rport 4000"),
        (CandidateType.RELAYED, THERE6, HERE6, "2001:db8:5::5 50000 typ relay raddr 2001:db8::1 rport 4000"),
        (CandidateType.RELAYED, THERE6, HERE, "2001:db8:5::5 50000 typ relay raddr 192.0.2.1 rport 4000"),
        (CandidateType.SERVER_REFLEXIVE, THERE, None, "203.0.113.5 50000 typ srflx raddr 0.0.0.0 rport 9"),
        (CandidateType.RELAYED, THERE6, None, "2001:db8:5::5 50000 typ relay raddr :: rport 9"),
    ],
)
def test_sdp_02_related_addresses_are_written_and_hidden_ones_are_placeholders(
    kind: CandidateType, address: TransportAddress, related: TransportAddress | None, end: str
) -> None:
    line = encode_candidate(Candidate("f", 1, address, kind, related=related))
    assert line == f"candidate:f 1 udp 1 {end}"


@pytest.mark.parametrize("row", TAKEN, ids=name_of)
def test_sdp_03_no_name_is_ever_written(row: dict[str, Any]) -> None:
    found = decode_candidate(row["line"])
    candidate = found.at("192.0.2.9") if isinstance(found, NamedCandidate) else found
    line = encode_candidate(candidate)
    assert ".local" not in line
    assert decode_candidate(line) == candidate


@pytest.mark.parametrize(
    ("ufrag", "pwd", "reason"),
    [
        ("abc", "p" * 22, "ice_ufrag"),
        ("u" * 257, "p" * 22, "ice_ufrag"),
        ("", "p" * 22, "ice_ufrag"),
        ("a:bcd", "p" * 22, "ice_ufrag"),
        ("abcd\n", "p" * 22, "ice_ufrag"),
        ("abcd", "", "ice_pwd"),
        ("abcd", "p" * 21, "ice_pwd"),
        ("abcd", "p" * 257, "ice_pwd"),
        ("abcd", "p" * 21 + "\u00e9", "ice_pwd"),
    ],
)
def test_host_15_sdp_04_credentials_out_of_bounds_are_refused(ufrag: str, pwd: str, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        IceCredentials.parse(ufrag, pwd)
    assert caught.value.reason == reason
    assert IceCredentials.parse("u" * 256, "p" * 256).key == b"p" * 256
