from __future__ import annotations

import errno
import ssl
from typing import Any

import pytest

from edgeice.errors import ConfigError, LocalProtocolError
from edgeice.signaling.broker import BrokerConfig, FailureKind, TlsConfig, check_filter, check_publish
from edgeice.signaling.failures import from_error, refusal

PLAIN = BrokerConfig(host="broker.example", port=1883, client_id="a")
TLS = BrokerConfig(host="2001:db8::1", port=8883, client_id="a", tls=TlsConfig())


def test_the_password_is_not_shown() -> None:
    config = BrokerConfig(host="h", port=1, client_id="a", username="u", password="hunter2")
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"host": ""},
        {"client_id": ""},
        {"client_id": "a\0b"},
        {"client_id": "a" * 65536},
        {"username": "\ud800"},
        {"keepalive": 0},
        {"keepalive": 65536},
        {"will_delay": -1},
        {"connect_timeout": 0.0},
    ],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"host": "h", "port": 1, "client_id": "a"} | wrong
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BrokerConfig(**arguments)


@pytest.mark.parametrize(
    ("topic", "payload", "qos", "expiry"),
    [
        ("", b"", 1, None),
        ("a/+", b"", 1, None),
        ("a/#", b"", 1, None),
        ("a\0", b"", 1, None),
        ("a\udc80", b"", 1, None),
        ("1/2/3/4/5/6/7/8", b"", 1, None),
        ("a" * 1025, b"", 1, None),
        ("a", bytes(32 * 1024 + 1), 1, None),
        ("a", b"", 2, None),
        ("a", b"", 1, 0),
        ("a", b"", 1, 1 << 32),
    ],
)
def test_publish_refuses(topic: str, payload: bytes, qos: int, expiry: int | None) -> None:
    with pytest.raises(LocalProtocolError):
        check_publish(topic, payload, qos, expiry)


def test_publish_allows_the_limits() -> None:
    check_publish("1/2/3/4/5/6/7", bytes(32 * 1024), 1, (1 << 32) - 1)
    check_publish("a", b"", 0, None)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a#", "a/b+", "+a", "1/2/3/4/5/6/7/8", "\0"])
def test_filter_refuses(topic_filter: str) -> None:
    with pytest.raises(LocalProtocolError):
        check_filter(topic_filter)


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/+/b", "a/#", "+/+", "/", "1/2/3/4/5/6/#"])
def test_filter_allows(topic_filter: str) -> None:
    check_filter(topic_filter)


def certificate_error(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.verify_code, error.verify_message = code, message
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "config", "kind", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), PLAIN, FailureKind.CONNECTION_REFUSED, "broker.example:1883"),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), TLS, FailureKind.CONNECTION_REFUSED, "[2001:db8::1]:8883"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), PLAIN, FailureKind.UNREACHABLE, "unreachable"),
        (OSError(errno.EPERM, "Operation not permitted"), PLAIN, FailureKind.UNREACHABLE, "not permitted"),
        (TimeoutError(), PLAIN, FailureKind.TIMED_OUT, "within 10 s"),
        (ssl.SSLEOFError(8, "EOF"), TLS, FailureKind.TLS, "its TLS port?"),
        (ConnectionResetError(errno.ECONNRESET, ""), TLS, FailureKind.TLS, "its TLS port?"),
        (tls_error("WRONG_VERSION_NUMBER"), TLS, FailureKind.TLS, "does not seem to speak TLS"),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), TLS, FailureKind.TLS, "alert handshake failure"),
        (certificate_error(9, "not yet valid"), TLS, FailureKind.TLS_CERTIFICATE, "clock"),
        (certificate_error(10, "expired"), TLS, FailureKind.TLS_CERTIFICATE, "renew"),
        (certificate_error(19, "self-signed"), TLS, FailureKind.TLS_CERTIFICATE, "CA file"),
        (certificate_error(62, "Hostname mismatch"), TLS, FailureKind.TLS_CERTIFICATE, "server name"),
        (certificate_error(23, "certificate revoked"), TLS, FailureKind.TLS_CERTIFICATE, "certificate revoked"),
    ],
)
def test_errors_are_sorted(error: OSError, config: BrokerConfig, kind: FailureKind, said: str) -> None:
    failure = from_error(error, config)
    assert failure.kind is kind
    assert said in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x82, FailureKind.PROTOCOL),
        (0x84, FailureKind.UNSUPPORTED_VERSION),
        (0x85, FailureKind.REFUSED_BY_BROKER),
        (0x86, FailureKind.BAD_CREDENTIALS),
        (0x87, FailureKind.NOT_AUTHORIZED),
        (0x89, FailureKind.REFUSED_BY_BROKER),
        (0x9D, FailureKind.REFUSED_BY_BROKER),
    ],
)
def test_refusals_are_sorted(code: int, kind: FailureKind) -> None:
    failure = refusal(code, "Server moved")
    assert failure.kind is kind
    assert code != 0x9D or failure.message == "the broker refuses: Server moved"
