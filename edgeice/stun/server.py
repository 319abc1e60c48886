"""What a server does with a request: who sent it, and the answers (RFC 8489 §6.3.1, §9.1.3).

No answer to a request that nobody proved is larger than the request, so that forged source addresses gain nothing;
`RefusalBudget` says how many of them are sent.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from edgeice.addresses import TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.stun.attributes import Attribute
from edgeice.stun.integrity import FINGERPRINT_SIZE, INTEGRITY_SIZES, AuthenticationError
from edgeice.stun.message import HEADER_SIZE, AuthenticatedMessage, Message, MessageClass, authenticate, encode
from edgeice.stun.values import ErrorCode

__all__ = [
    "RefusalBudget",
    "authenticate_request",
    "error_response",
    "success_response",
    "unknown_attributes_response",
]

_ATTRIBUTE_HEADER_SIZE: Final = 4
_BARE_ERROR_SIZE: Final = 8
#: Source prefixes that a budget remembers; of more, the one that asked longest ago starts afresh.
_PREFIX_LIMIT: Final = 256
#: Prefix lengths by family: what one subscriber is given.
_PREFIXES: Final = {4: 24, 6: 56}

#: The texts that RFC 8489 §14.8, RFC 8445 §16.2 and RFC 8656 §19 give.
_REASONS: Final = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    420: "Unknown Attribute",
    438: "Stale Nonce",
    487: "Role Conflict",
    500: "Server Error",
}


def authenticate_request(message: Message, key_of: Callable[[str], bytes | None]) -> AuthenticatedMessage:
    """Verify a request or indication with short-term credentials, in the order of RFC 8489 §9.1.3.

    Args:
        message: What `decode` gave.
        key_of: Gives the key that belongs to a USERNAME, None for a user that is not known.

    Raises:
        AuthenticationError: `code` 400 if integrity or USERNAME is missing, else 401.  A request is answered with
            that (`error_response`), an indication dropped.
    """
    username = message.get(Attribute.USERNAME)
    if username is None or not message.has_integrity:
        raise AuthenticationError("integrity_missing", 400)
    key = key_of(username)
    if key is None:
        raise AuthenticationError("unknown_user", 401)
    return authenticate(message, key)


def success_response(
    request: Message | AuthenticatedMessage, source: TransportAddress, *, key: bytes | None = None
) -> bytes:
    """Answer a Binding request: XOR-MAPPED-ADDRESS is where it came from (RFC 8489 §6.3.1.1).

    With a key, the answer has the request's form of integrity, and never a USERNAME (RFC 8489 §9.1.3).  It has
    FINGERPRINT if the request has.
    """
    return _respond(request, MessageClass.SUCCESS, ((Attribute.XOR_MAPPED_ADDRESS, source),), key)


def error_response(
    request: Message | AuthenticatedMessage,
    code: int,
    *,
    attributes: Sequence[tuple[Attribute, object]] = (),
    key: bytes | None = None,
) -> bytes | None:
    """Refuse a request.

    Args:
        request: Refusals of authentication (400, 401) answer the Message and carry no integrity (RFC 8489 §9.1.3);
            others answer the AuthenticatedMessage.
        code: 300 to 699.
        attributes: What else the code calls for.
        key: The key that verified the request.

    Returns:
        None if the answer to an unauthenticated request cannot be kept as small as the request: it gets none.
    """
    for reason in (_REASONS.get(code, ""), ""):
        error = (Attribute.ERROR_CODE, ErrorCode(code, reason))
        answer = _respond(request, MessageClass.ERROR, (error, *attributes), key)
        if len(answer) <= len(request.data):
            return answer
    return answer if isinstance(request, AuthenticatedMessage) else None


def unknown_attributes_response(request: Message | AuthenticatedMessage, *, key: bytes | None = None) -> bytes | None:
    """Refuse a request because of its `unknown_required` attributes (RFC 8489 §6.3.1).

    Lists as many of them as fit into an answer of the request's size, and at least one; otherwise `error_response`.
    """
    overhead = HEADER_SIZE + _BARE_ERROR_SIZE + _ATTRIBUTE_HEADER_SIZE
    if key is not None and isinstance(request, AuthenticatedMessage):
        overhead += INTEGRITY_SIZES[request.integrity]
    if request.has_fingerprint:
        overhead += FINGERPRINT_SIZE
    # Two bytes each; what is left over is a multiple of four, so padding has its place.
    count = max((len(request.data) - overhead) // 2, 1)
    unknown = request.unknown_required[:count]
    return error_response(request, 420, attributes=((Attribute.UNKNOWN_ATTRIBUTES, unknown),), key=key)


def _respond(
    request: Message | AuthenticatedMessage,
    message_class: MessageClass,
    attributes: Sequence[tuple[Attribute, object]],
    key: bytes | None,
) -> bytes:
    if request.message_class is not MessageClass.REQUEST:
        raise LocalProtocolError("only a request is answered")
    if key is not None and not isinstance(request, AuthenticatedMessage):
        raise LocalProtocolError("the answer to a request that was not verified carries no integrity")
    return encode(
        request.method,
        message_class,
        request.transaction_id,
        attributes,
        key=key,
        # RFC 8489 §9.1.3: the same form as in the request, and only that.
        integrity=request.integrity if isinstance(request, AuthenticatedMessage) else "sha1",
        fingerprint=request.has_fingerprint,
    )


class RefusalBudget:
    """How many requests that nobody proved may be answered, by source prefix and by all sources together.

    Refusals (400, 401) go to addresses that may be forged, so a flood of requests must not become a flood of answers
    on somebody: beyond the budget there is none.  Rates are answers per second, after a burst of as many.

    Args:
        overall: Rate for all sources together.
        per_prefix: Rate for one /24 of IPv4 or one /56 of IPv6.
    """

    __slots__ = ("_all", "_overall", "_per_prefix", "_prefixes")

    def __init__(self, *, overall: float, per_prefix: float) -> None:
        self._overall = overall
        self._per_prefix = per_prefix
        #: What is left, and when that was counted; None before the first.
        self._all: tuple[float, float] | None = None
        self._prefixes: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, source: TransportAddress, now: float) -> bool:
        """Whether a request from `source` may be answered now; if so it is counted."""
        prefix = _prefix_of(source)
        left = _left(self._prefixes.get(prefix), self._per_prefix, now)
        in_all = _left(self._all, self._overall, now)
        allowed = left >= 1 and in_all >= 1
        self._prefixes[prefix] = (left - allowed, now)
        self._prefixes.move_to_end(prefix)
        if len(self._prefixes) > _PREFIX_LIMIT:
            self._prefixes.popitem(last=False)
        self._all = (in_all - allowed, now)
        return allowed


def _left(before: tuple[float, float] | None, rate: float, now: float) -> float:
    return rate if before is None else min(rate, before[0] + (now - before[1]) * rate)


def _prefix_of(source: TransportAddress) -> bytes:
    packed = ipaddress.ip_address(source.ip).packed
    return packed[: _PREFIXES[source.family] // 8]
