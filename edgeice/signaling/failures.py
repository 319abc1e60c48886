"""Why the broker could not be reached: failures sorted into kinds, each with one line for people."""

from __future__ import annotations

import errno
import ssl

from edgeice.signaling.broker import BrokerConfig, FailureKind, MqttError

__all__ = ["ConnectError", "closed", "from_error", "not_resolved", "refusal", "timed_out", "unanswered"]

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})

# X509_V_ERR_* of OpenSSL: what to do about it.
_CERTIFICATE_ADVICE = {
    9: "check this machine's clock",
    10: "check this machine's clock, or renew the broker's certificate",
    18: "give the broker's authority as the TLS CA file",
    19: "give the broker's authority as the TLS CA file",
    20: "give the broker's authority as the TLS CA file",
    21: "give the broker's authority as the TLS CA file",
    62: "use the name that the certificate carries, or set the TLS server name",
    64: "use the name that the certificate carries, or set the TLS server name",
}

# CONNACK reason codes (MQTT 5 §3.2.2.2).  Brokers are shy about which of name and password was wrong, and mosquitto
# says "not authorized" for both.
_REFUSALS = {
    0x81: (FailureKind.PROTOCOL, "the broker could not read our CONNECT"),
    0x82: (FailureKind.PROTOCOL, "the broker says that our CONNECT breaks the protocol"),
    0x84: (FailureKind.UNSUPPORTED_VERSION, "the broker does not speak this version of MQTT"),
    0x85: (FailureKind.REFUSED_BY_BROKER, "the broker does not accept our client id"),
    0x86: (FailureKind.BAD_CREDENTIALS, "wrong user name or password for the broker"),
    0x87: (FailureKind.NOT_AUTHORIZED, "the broker refuses this user name and password, or does not allow this user"),
    0x88: (FailureKind.REFUSED_BY_BROKER, "the broker is not available"),
    0x89: (FailureKind.REFUSED_BY_BROKER, "the broker is too busy"),
    0x8A: (FailureKind.NOT_AUTHORIZED, "the broker has banned this client"),
    0x8C: (FailureKind.BAD_CREDENTIALS, "the broker wants another way of authentication"),
    0x97: (FailureKind.REFUSED_BY_BROKER, "a quota at the broker is exceeded"),
    0x9F: (FailureKind.REFUSED_BY_BROKER, "the broker accepts no more connections at this rate"),
}


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"})


class ConnectError(MqttError):
    """One failed attempt: its kind, and one line for people."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def from_error(error: OSError, config: BrokerConfig) -> ConnectError:
    """Sort what connecting or the TLS handshake raised."""
    where = _where(config)
    if isinstance(error, ssl.SSLError):
        return _from_tls_error(error, where)
    if isinstance(error, ConnectionResetError) and config.tls is not None:
        return ConnectError(
            FailureKind.TLS, f"{where} closed the connection in the TLS handshake; is this its TLS port?"
        )
    if isinstance(error, TimeoutError):
        return timed_out(config, "did not answer")
    if isinstance(error, ConnectionRefusedError):
        message = f"{where} refuses connections; is the broker running, and is this its port?"
        return ConnectError(FailureKind.CONNECTION_REFUSED, message)
    if error.errno in _UNREACHABLE:
        return ConnectError(
            FailureKind.UNREACHABLE, f"no way to {where}: {error.strerror}; check this machine's network"
        )
    message = f"connecting to {where} failed: {error.strerror or type(error).__name__}"
    return ConnectError(FailureKind.UNREACHABLE, message)


def _from_tls_error(error: ssl.SSLError, where: str) -> ConnectError:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _CERTIFICATE_ADVICE.get(error.verify_code, "check the broker's certificate")
        message = f"the certificate of {where} does not hold: {error.verify_message}; {advice}"
        return ConnectError(FailureKind.TLS_CERTIFICATE, message)
    if isinstance(error, ssl.SSLEOFError):
        return ConnectError(
            FailureKind.TLS, f"{where} closed the connection in the TLS handshake; is this its TLS port?"
        )
    reason = (error.reason or "unknown reason").replace("_", " ").lower()
    hint = "; this port does not seem to speak TLS" if error.reason in _NOT_TLS else ""
    return ConnectError(FailureKind.TLS, f"TLS with {where} failed: {reason}{hint}")


def not_resolved(config: BrokerConfig, reason: str) -> ConnectError:
    """The host's name has no address."""
    message = f"the broker's name {config.host!r} cannot be resolved: {reason}; check its spelling and the network"
    return ConnectError(FailureKind.NAME_NOT_RESOLVED, message)


def timed_out(config: BrokerConfig, what: str) -> ConnectError:
    """An attempt took longer than `connect_timeout`."""
    return ConnectError(FailureKind.TIMED_OUT, f"{_where(config)} {what} within {config.connect_timeout:g} s")


def unanswered(config: BrokerConfig, seconds: float) -> ConnectError:
    """The broker took our CONNECT and said nothing."""
    return ConnectError(FailureKind.UNANSWERED, f"{_where(config)} did not answer our CONNECT within {seconds:.1f} s")


def refusal(code: int, text: str) -> ConnectError:
    """Sort the reason code of a CONNACK that refuses; `text` is the code's name, for codes that have no line here."""
    kind, message = _REFUSALS.get(code, (FailureKind.REFUSED_BY_BROKER, f"the broker refuses: {text}"))
    return ConnectError(kind, message)


def closed(config: BrokerConfig, reason: str) -> ConnectError:
    """The connection ended between CONNECT and CONNACK."""
    hint = "" if config.tls else "; is this a TLS port?"
    return ConnectError(
        FailureKind.CLOSED, f"{_where(config)} closed the connection before it answered: {reason}{hint}"
    )


def _where(config: BrokerConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{host}:{config.port}"
