from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.signaling.encoding import b64url_decode, b64url_encode, parse_json_object


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    text = b64url_encode(data)
    assert "=" not in text
    assert b64url_decode(text) == data


@given(st.binary(max_size=8) | st.text(max_size=8))
def test_each_accepted_base64url_is_the_only_spelling(text: bytes | str) -> None:
    try:
        data = b64url_decode(text)
    except DecodeError:
        return
    assert b64url_encode(data) == (text if isinstance(text, str) else text.decode())


@pytest.mark.parametrize("text", ["AA==", "AB", "A", "A+", "A/", "A A", "AA\n", "AAB", "Ä", "\ud800"])
def test_host_24_other_spellings_of_base64url_are_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="base64"):
        b64url_decode(text)


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "json"),
        (b"[]", "json"),
        (b"1", "json"),
        (b'"x"', "json"),
        (b"null", "json"),
        (b"{", "json"),
        (b"{} x", "json"),
        (b"{}{}", "json"),
        (b"\xef\xbb\xbf{}", "json"),
        (b'{"a":\xff}', "json"),
        (b'{"a":"\xff"}', "json"),
        (b'{"a":"\xed\xa0\x80"}', "json"),
        (b'{"a":"\\ud800"}', "json"),
        (b'{"\\udc00":1}', "json"),
        (b'{"a":NaN}', "json"),
        (b'{"a":-Infinity}', "json"),
        (b'{"a":"\x00"}', "json"),
        (b"{'a':1}", "json"),
        (b'{"a":1,}', "json"),
        (b'{"a":' + b"9" * 5000 + b"}", "json"),
        (b'{"a":1,"a":1}', "json-duplicate"),
        (b'{"a":1,"\\u0061":2}', "json-duplicate"),
        (b'{"b":{"a":1,"a":2}}', "json-duplicate"),
        (nested(17), "json-depth"),
        (b'{"a":' + b"[" * 16 + b"]" * 16 + b"}", "json-depth"),
        (b"[" * 10_000, "json-depth"),
        (b'{"a":"' + b"\\" + b'"[' * 20, "json"),
        (b'{"a":"' + b"[" * 20, "json"),
        (b'{"a":"' + b"[" * 20 + b"\\", "json"),
    ],
)
def test_host_17_what_is_no_strict_json(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_json_object(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "data",
    [
        nested(16),
        b'{"a":"' + b"[{" * 50 + b'"}',
        b'{"a":"' + b'\\"[' * 50 + b'"}',
        b'{"a":[{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":"\xc3\xa4"}',
    ],
)
def test_strict_json_that_is_taken(data: bytes) -> None:
    assert parse_json_object(data) == json.loads(data)


def test_host_17_the_depth_check_takes_linear_time() -> None:
    # A quadratic scan would take a minute on these.
    for hostile in (b'{"a":"' + b'\\"' * 500_000, b'"' * 999_999 + b"[" * 17, b'"\\' * 500_000 + b"[" * 17):
        with pytest.raises(DecodeError):
            parse_json_object(b"[" * 5 + b"{" * 11 + hostile)


@given(st.binary(max_size=64) | st.text(alphabet='{}[]":,\\u0d89abe1 ', max_size=64).map(str.encode))
def test_json_is_accepted_or_a_decode_error(data: bytes) -> None:
    try:
        value = parse_json_object(data)
    except DecodeError:
        return
    assert value == json.loads(data)
