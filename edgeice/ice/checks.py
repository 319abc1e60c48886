"""Connectivity checks as messages and transactions (RFC 8445 §7.1, §7.2; RFC 8489 §6.2.1)."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.ice.config import Role
from edgeice.ice.credentials import IceCredentials
from edgeice.ice.pair import CandidatePair
from edgeice.stun import Attribute, MessageClass, Method, encode

__all__ = ["Check", "Retransmission", "encode_check", "encode_error", "encode_success"]

#: RFC 8489 §6.2.1, Rm: how many initial timeouts the last transmission is waited for.
_LAST_WAIT: Final = 16


class Retransmission:
    """When to send a request again, and when to give up (RFC 8489 §6.2.1).

    The first transmission is at the time of making; each wait is twice the one before, the last is 16 times the first.
    """

    __slots__ = ("_left", "_rto", "_wait", "at", "sent_at", "transmissions")

    def __init__(self, *, rto: float, transmissions: int, now: float) -> None:
        self._rto = rto
        self._wait = rto
        self._left = transmissions - 1
        self.transmissions = 1
        self.sent_at = now
        #: When `expire` has something to do.
        self.at = now + (self._wait if self._left else rto * _LAST_WAIT)

    @property
    def gives_up_at(self) -> float:
        """When the transaction ends if nothing answers it."""
        # Waits still to come before the last transmission: w, 2w, 4w, … one less than are left to send.
        between = self._wait * 2 * (2 ** (self._left - 1) - 1) if self._left else 0.0
        return self.at + between + (self._rto * _LAST_WAIT if self._left else 0.0)

    def expire(self, now: float) -> bool:
        """At the deadline: True if the request is to be sent again, False if the transaction has failed."""
        if not self._left:
            return False
        self._left -= 1
        self.transmissions += 1
        self._wait *= 2
        self.at = now + (self._wait if self._left else self._rto * _LAST_WAIT)
        return True


@attrs.define(eq=False)
class Check:
    """One transaction on a pair."""

    pair: CandidatePair
    transaction_id: bytes
    data: bytes
    #: The PRIORITY that it carries: a peer-reflexive candidate found by it has this priority.
    priority: int
    #: The role that it claims, against which a 487 is read.
    role: Role
    use_candidate: bool
    timer: Retransmission
    #: No more retransmissions: a trigger replaced it or it has failed, and only a late answer is waited for.
    silenced: bool = False
    #: When it ends if nothing answers it, once it is silenced.
    ends_at: float = 0.0

    def silence(self) -> None:
        """Send it no more; its answer counts until it would have timed out."""
        if not self.silenced:
            self.silenced = True
            self.ends_at = self.timer.gives_up_at

    @property
    def deadline(self) -> float:
        """When something is to be done about it."""
        return self.ends_at if self.silenced else self.timer.at


def encode_check(
    transaction_id: bytes,
    *,
    local: IceCredentials,
    remote: IceCredentials,
    priority: int,
    role: Role,
    tie_breaker: int,
    use_candidate: bool,
) -> bytes:
    """A Binding request (RFC 8445 §7.1)."""
    claim = Attribute.ICE_CONTROLLING if role is Role.CONTROLLING else Attribute.ICE_CONTROLLED
    attributes: list[tuple[int, object]] = [
        (Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (claim, tie_breaker),
        (Attribute.PRIORITY, priority),
    ]
    if use_candidate:
        attributes.append((Attribute.USE_CANDIDATE, True))
    return encode(Method.BINDING, MessageClass.REQUEST, transaction_id, attributes, key=remote.key)


def encode_success(transaction_id: bytes, source: TransportAddress, key: bytes, *, sha256: bool = False) -> bytes:
    """The answer to a check that came from `source`, with the request's form of integrity (RFC 8489 §9.1.3)."""
    return encode(
        Method.BINDING,
        MessageClass.SUCCESS,
        transaction_id,
        [(Attribute.XOR_MAPPED_ADDRESS, source)],
        key=key,
        integrity="sha256" if sha256 else "sha1",
    )


def encode_error(
    transaction_id: bytes,
    code: int,
    *,
    key: bytes | None = None,
    sha256: bool = False,
    unknown: tuple[int, ...] = (),
) -> bytes:
    """An error answer without a phrase, so that it is smaller than what it answers; signed if `key` is given."""
    attributes: list[tuple[int, object]] = [(Attribute.ERROR_CODE, (code, ""))]
    if unknown:
        attributes.append((Attribute.UNKNOWN_ATTRIBUTES, unknown))
    return encode(
        Method.BINDING,
        MessageClass.ERROR,
        transaction_id,
        attributes,
        key=key,
        integrity="sha256" if sha256 else "sha1",
    )
