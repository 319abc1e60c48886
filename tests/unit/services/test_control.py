from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.services.control import (
    ErrorCode,
    JsonValue,
    ServiceError,
    as_int,
    as_list,
    as_object,
    as_text,
    command,
    decode_control,
    encode_control,
    parse_error,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"eof":true}', {"eof": True}),
        (' {"resize" : [ 80 , 24 ] } ', {"resize": [80, 24]}),
        ('{"a":"[[[[[[[[[[[[[[[[[[[[[\\"{{{{"}', {"a": '[[[[[[[[[[[[[[[[[[[[["{{{{'}),
        ('{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"a":' * 15 + "[]" + "}" * 15, None),
        ("{}", {}),
    ],
)
def test_accepts(text: str, value: object) -> None:
    assert decode_control(text) == (json.loads(text) if value is None else value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "control-json"),
        ("{", "control-json"),
        ('{"a":1}x', "control-json"),
        ("[]", "control-type"),
        ("1", "control-type"),
        ("null", "control-type"),
        ('{"a":1,"a":1}', "control-json"),
        ('{"a":{"b":1,"b":2}}', "control-json"),
        ('{"a":NaN}', "control-json"),
        ('{"a":-Infinity}', "control-json"),
        ('{"a":1e999}', "control-json"),
        ('{"a":' + "9" * 5000 + "}", "control-json"),
        ('{"a":["\\ud800"]}', "control-json"),
        ('{"\\uDC00":1}', "control-json"),
        ('{"a":"\udc80"}', "control-json"),
        ('{"a":' * 16 + "[]" + "}" * 16, "control-depth"),
        ("[" * 16_000, "control-depth"),
        ('{"a":"' + "x" * 16_384 + '"}', "control-size"),
        ('{"a":"' + "é" * 8_192 + '"}', "control-size"),
        ("\ufeff{}", "control-json"),
    ],
)
def test_refuses(text: str, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_control(text)
    assert caught.value.reason == reason


def test_size_limit_is_inclusive_both_ways() -> None:
    message = {"a": "x" * (16_384 - len('{"a":""}'))}
    assert decode_control(encode_control(message)) == message
    with pytest.raises(LocalProtocolError):
        encode_control({"a": message["a"] + "x"})


@settings(deadline=None)
@given(st.text() | st.text(alphabet='{}[]":,\\ud8019e.-+tfn'))
def test_total_on_any_text(text: str) -> None:
    with contextlib.suppress(DecodeError):
        decode_control(text)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1, 1)))
def test_round_trip(message: dict[str, object]) -> None:
    assert decode_control(encode_control(message)) == message


def test_command_wants_exactly_one_known_member() -> None:
    assert command({"eof": True, "later": 1}, ("eof", "signal")) == ("eof", True)
    for text in ("{}", '{"later":1}', '{"eof":true,"signal":"INT"}'):
        with pytest.raises(DecodeError, match="command"):
            command(decode_control(text), ("eof", "signal"))


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [], -1, 10])
def test_as_int_takes_no_lookalikes(value: JsonValue) -> None:
    with pytest.raises(DecodeError):
        as_int(value, "n", 0, 9)


def test_other_types_are_checked() -> None:
    for check in (as_text, as_list, as_object):
        with pytest.raises(DecodeError, match="name"):
            check(1, "name")


def test_errors_travel() -> None:
    for code in ErrorCode:
        told = decode_control(encode_control(ServiceError(code, "why").message()))
        error = parse_error(told["error"])
        assert (error.code, error.reason) == (code, "why")


def test_a_peers_error_is_safe_to_print() -> None:
    error = parse_error({"code": "un\x1b[known", "reason": "\x1b]0;title\x07" + "x" * 1000})
    assert error.code is ErrorCode.INTERNAL
    assert str(error).isprintable()
    assert len(str(error)) < 600
    for bad in ("null", "[]", "{}", '{"code":1}', '{"code":"limit","reason":2}'):
        with pytest.raises(DecodeError):
            parse_error(decode_control(f'{{"error":{bad}}}')["error"])
