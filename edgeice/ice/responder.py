"""Answers to the peer's checks (RFC 8445 §7.3)."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice import stun
from edgeice.addresses import Path
from edgeice.errors import DecodeError
from edgeice.ice.config import Role
from edgeice.ice.generation import Generation
from edgeice.ice.incoming import PeerCheck
from edgeice.ice.pacer import TokenBucket
from edgeice.ice.shared import Shared
from edgeice.ice.slots import Slots
from edgeice.stun import Attribute, AuthenticatedMessage, AuthenticationError, Message, RefusalBudget

__all__ = ["Accepted", "Responder"]

_UNSIGNED_ERRORS: Final = frozenset({400, 401})


@attrs.frozen
class Accepted:
    """A check that was answered with success, to be acted on."""

    generation: Generation
    check: PeerCheck
    #: The role that this side has from now on (RFC 8445 §7.3.1.1).
    role: Role


class Responder:
    """Authenticates requests by the credentials of the session's generations and answers them.

    Answers are bounded in number per second; requests beyond are dropped and counted.  The budget of refusals may be
    one that all sessions of a host share.
    """

    __slots__ = ("_refusals", "_replies", "_shared", "_slots")

    def __init__(self, shared: Shared, slots: Slots, refusals: RefusalBudget, *, now: float) -> None:
        self._shared = shared
        self._slots = slots
        self._refusals = refusals
        self._replies = TokenBucket(shared.config.replies_per_second, now)

    def receive(self, message: Message, path: Path, *, now: float) -> Accepted | None:
        """Answer a request; None if there is nothing more to do about it.

        Raises:
            DecodeError: Nothing follows from it, for this reason.
        """
        if not message.has_fingerprint:
            raise DecodeError("fingerprint_missing")  # RFC 8445 §7.3
        try:
            request = stun.authenticate_request(message, self._key_of)
        except AuthenticationError as error:
            self._refuse(message, error.code, path, now)
            raise
        check = PeerCheck.of(request, path)
        generation = self._slots.by_local(check.local_ufrag)
        if generation is None or not self._replies.take(now):
            raise DecodeError("reply_rate")
        key = generation.local.key
        if request.unknown_required:
            self._answer(path, stun.unknown_attributes_response(request, key=key))
            return None
        if not generation.is_of_peer(check):
            # RFC 8445 §7.3: this side's ufrag is what makes the request valid.  It belongs to another exchange of the
            # peer's, so checking back under the credentials of this one would be in vain.
            self._answer(path, stun.success_response(request, path.remote, key=key))
            raise DecodeError("check_ufrag")
        role = self._settle_roles(request)
        if role is None:
            self._answer(path, stun.error_response(request, 487, key=key))
            return None
        self._answer(path, stun.success_response(request, path.remote, key=key))
        return Accepted(generation, check, role)

    def _answer(self, path: Path, data: bytes | None) -> None:
        if data is not None:
            self._shared.transmit(path, data)

    def _refuse(self, message: Message, code: int | None, path: Path, now: float) -> None:
        """RFC 8489 §9.1.3, at a bounded rate: an error that nobody signed is a reflector."""
        if code not in _UNSIGNED_ERRORS:
            return
        if self._refusals.take(path.remote, now):
            self._answer(path, stun.error_response(message, code))
        else:
            self._shared.drops.count("refusal_rate")

    def _key_of(self, username: str) -> bytes | None:
        generation = self._slots.by_local(username.partition(":")[0])
        return None if generation is None else generation.local.key

    def _settle_roles(self, request: AuthenticatedMessage) -> Role | None:
        """RFC 8445 §7.3.1.1: the role that this side has; None if the peer is to change its own."""
        shared = self._shared
        claim = Attribute.ICE_CONTROLLING if shared.role is Role.CONTROLLING else Attribute.ICE_CONTROLLED
        theirs = request.get(claim)
        if not isinstance(theirs, int):
            return shared.role
        # The larger tie-breaker controls, equal ones let the one keep its role that is asked.
        wins = shared.tie_breaker >= theirs
        return None if wins == (shared.role is Role.CONTROLLING) else shared.role.opposite
