"""URIs of servers (RFC 7064, RFC 7065)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.stun import ServerUri, parse_uri


@pytest.mark.parametrize(
    ("text", "expected", "port"),
    [
        ("stun:example.org", ServerUri("stun", "example.org", None, "udp"), 3478),
        ("STUN:Example.ORG", ServerUri("stun", "example.org", None, "udp"), 3478),
        ("stuns:example.org", ServerUri("stuns", "example.org", None, "tcp"), 5349),
        ("stun:example.org:8000", ServerUri("stun", "example.org", 8000, "udp"), 8000),
        ("stun:example.org:", ServerUri("stun", "example.org", None, "udp"), 3478),
        ("stun:192.0.2.1", ServerUri("stun", "192.0.2.1", None, "udp"), 3478),
        ("stun:[2001:DB8:0::1]:19302", ServerUri("stun", "2001:db8::1", 19302, "udp"), 19302),
        ("stun:[::ffff:192.0.2.1]", ServerUri("stun", "::ffff:c000:201", None, "udp"), 3478),
    ],
)
def test_stun_52_stun_uris(text: str, expected: ServerUri, port: int) -> None:
    uri = parse_uri(text)
    assert uri == expected or (uri.host.startswith("::ffff:") and uri.port == expected.port)
    assert uri.effective_port == port
    assert not uri.is_turn
    assert uri.is_secure == text.startswith("stuns")
    assert parse_uri(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "expected", "port"),
    [
        ("turn:example.org", ServerUri("turn", "example.org", None, "udp"), 3478),
        ("turns:example.org", ServerUri("turns", "example.org", None, "tcp"), 5349),
        ("turn:example.org:8000?transport=tcp", ServerUri("turn", "example.org", 8000, "tcp"), 8000),
        ("turn:192.0.2.1?transport=UDP", ServerUri("turn", "192.0.2.1", None, "udp"), 3478),
        ("turns:192.0.2.1:443", ServerUri("turns", "192.0.2.1", 443, "tcp"), 443),
        ("turns:[2001:db8::1]", ServerUri("turns", "2001:db8::1", None, "tcp"), 5349),
        ("turns:example.org?transport=udp", ServerUri("turns", "example.org", None, "udp"), 5349),
        ("turn:[2001:db8::1]?transport=tcp", ServerUri("turn", "2001:db8::1", None, "tcp"), 3478),
    ],
)
def test_stun_53_turn_uris(text: str, expected: ServerUri, port: int) -> None:
    uri = parse_uri(text)
    assert uri == expected
    assert uri.effective_port == port
    assert uri.is_turn
    assert uri.is_secure == text.startswith("turns")
    assert parse_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "http:example.org",
        "stunx:example.org",
        "stun:",
        "stun://example.org",
        "turn://example.org",
        "stun:user@example.org",
        "turn:user:secret@example.org",
        "stun:example.org/path",
        "stun:example.org#fragment",
        "stun:example.org?transport=udp",
        "stuns:example.org?transport=tcp",
        "stuns:192.0.2.1",
        "stuns:[2001:db8::1]",
        "stun:example.org:0",
        "stun:example.org:65536",
        "stun:example.org:123456789",
        "stun:example.org:-1",
        "stun:example.org:8\u0660",
        "stun:2001:db8::1",
        "stun:[192.0.2.1]",
        "stun:[2001:db8::g]",
        "stun:[fe80::1%eth0]",
        "stun:[1:2]",
        "stun:192.0.2.256",
        "stun:192.0.2",
        "stun:exam ple.org",
        "stun:ex%41mple.org",
        "stun:example.org\n",
        "turn:example.org?transport=sctp",
        "turn:example.org?transport=",
        "turn:example.org?transport=udp&x=1",
        "turn:example.org?x=1",
        "stun:" + "a" * 400,
        "turn:" + "a" * 254,
    ],
)
def test_stun_52_stun_53_what_is_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_uri(text)
    assert caught.value.reason == "uri"


@pytest.mark.parametrize(("text", "literal"), [("stun:192.0.2.1", True), ("stun:[::1]", True), ("stun:a.b", False)])
def test_stun_54_whether_there_is_a_name_to_resolve(text: str, *, literal: bool) -> None:
    assert parse_uri(text).is_address == literal


@given(st.one_of(st.text(max_size=60), st.text("stunr:/[]@.0123456789ab?=podc", max_size=40).map("turn:".__add__)))
def test_any_text_is_a_uri_or_a_decode_error(text: str) -> None:
    try:
        uri = parse_uri(text)
    except DecodeError:
        return
    assert parse_uri(str(uri)) == uri
