"""Connectivity checks as messages and transactions (RFC 8445 §7.1, §7.2; RFC 8489 §6.2.1)."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice.candidate import CandidateType
from edgeice.ice.config import RemoteParameters, Role
from edgeice.ice.credentials import IceCredentials
from edgeice.ice.pair import CandidatePair
from edgeice.ice.priority import candidate_priority
from edgeice.ice.shared import Shared
from edgeice.stun import (
    Attribute,
    AuthenticatedMessage,
    Due,
    MessageClass,
    Method,
    RetransmissionPolicy,
    TransactionTimers,
)

__all__ = ["Answer", "Check", "CheckTable"]

#: The error of RFC 8445 §7.3.1.1: both ends claim one role.
_ROLE_CONFLICT: Final = 487
#: How often a check is sent that only finds out whether what failed works by now.
_RETRY_TRANSMISSIONS: Final = 2
#: Several checks of the peer may come by one path within a round trip, as a NAT maps a base to several addresses, and
#: each triggers one (RFC 8445 §7.3.1.4).  If none lasted until its answer, both ends would trigger each other for ever.
_MAX_REPLACED: Final = 16


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
    sent_at: float
    timers: TransactionTimers
    #: No more retransmissions: a trigger replaced it, and only a late answer is waited for.
    silenced: bool = False
    #: How often it had been sent when the network first refused it; 0 if it never did.
    refused: int = 0

    def silence(self) -> None:
        """Send it no more; its answer counts until it would have timed out."""
        self.silenced = True
        self.timers.stop_retransmitting()

    def note_refusal(self) -> bool:
        """The network refuses it (ICMP, or no route); True if it did so before, and the check was repeated since.

        RFC 8445 §7.2.5.2.2: anybody can forge that, and a firewall that waits for its own side to send says it too.
        """
        self.refused = self.refused or self.timers.sent
        return self.refused < self.timers.sent


@attrs.frozen
class Answer:
    """What an authenticated response says about the check that it answers."""

    check: Check
    #: As what the peer saw this side, where the check succeeded.
    mapped: TransportAddress | None = None
    #: Why the pair is no way, as a slug; empty where it is one, and where the roles are to be settled first.
    failure: str = ""


class CheckTable:
    """What one generation asks: encodes requests, and keeps the checks that are not answered yet.

    A pair has the present check open and the last 16 that it replaced.
    """

    def __init__(self, shared: Shared, local: IceCredentials) -> None:
        self._shared = shared
        self._local = local
        self._open: dict[bytes, Check] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._open

    def get(self, transaction_id: bytes) -> Check | None:
        """The open check with this id."""
        return self._open.get(transaction_id)

    def send(
        self, pair: CandidatePair, remote: RemoteParameters, *, use_candidate: bool, rto: float, now: float
    ) -> None:
        """Send a check and repeat it until it is answered; the one that was open on the pair is silenced."""
        transaction_id, priority, data = self._encode(pair, remote, use_candidate=use_candidate)
        rc = _RETRY_TRANSMISSIONS if pair.retried else self._shared.config.check_transmissions
        policy = RetransmissionPolicy(rto=rto, rc=rc)
        timers = TransactionTimers(now=now, policy=policy)
        check = Check(pair, transaction_id, data, priority, self._shared.role, use_candidate, now, timers)
        if pair.check is not None:
            pair.check.silence()
            pair.replaced_checks.append(pair.check)
            # So many are waited for: a peer that triggers and never answers fills no table.
            if len(pair.replaced_checks) > _MAX_REPLACED:
                self._open.pop(pair.replaced_checks.pop(0).transaction_id, None)
        pair.check = check
        self._open[transaction_id] = check
        self._transmit(pair, data)

    def send_once(self, pair: CandidatePair, remote: RemoteParameters, *, use_candidate: bool) -> bytes:
        """Send a request that is never repeated, as consent asks; gives its transaction id (RFC 7675 §5.1)."""
        transaction_id, _, data = self._encode(pair, remote, use_candidate=use_candidate)
        self._transmit(pair, data)
        return transaction_id

    def take(self, transaction_id: bytes) -> Check | None:
        """Close and give the check with this id."""
        check = self._open.pop(transaction_id, None)
        if check is not None:
            if check.pair.check is check:
                check.pair.check = None
            if check in check.pair.replaced_checks:
                check.pair.replaced_checks.remove(check)
        return check

    def answer(self, response: AuthenticatedMessage, path: Path, *, now: float) -> Answer | None:
        """Judge a response that came on `path`, and close its check; None if nothing follows from it.

        No answer to a check that another one replaced ends a pair, or tells of a conflict of roles that is settled: its
        successor decides.
        """
        check = self._open.get(response.transaction_id)
        if check is None:
            return None
        pair = check.pair
        pair.responses_received += 1
        error = response.get(Attribute.ERROR_CODE) if response.message_class is MessageClass.ERROR else None
        code = error.code if error is not None else 0
        # RFC 8445 §7.2.5.1 comes first: a conflict of roles is no matter of paths, and the peer that tells of one does
        # not check back, so behind some NATs no answer to a check would ever come from where it was asked.
        if path != pair.path and code != _ROLE_CONFLICT:
            # RFC 8445 §7.2.5.2.1.  Somebody may have replayed the answer from elsewhere: the check is still repeated,
            # its true answer still counts, and what is valid stays so.
            self._shared.drops.count("asymmetric_response")
            return None if check.silenced or pair.is_valid else Answer(check, failure="asymmetric")
        self.take(response.transaction_id)
        if check.timers.sent == 1:
            pair.rtt = now - check.sent_at
        if response.message_class is MessageClass.SUCCESS:
            mapped = response.get(Attribute.XOR_MAPPED_ADDRESS)
            # RFC 8489 §6.3.3: an attribute that must be understood and is not fails the transaction.
            failure = "malformed" if mapped is None or response.unknown_required else ""
        else:
            mapped, failure = None, "" if code == _ROLE_CONFLICT else f"error_{code}"
        settled = mapped is None and check.role is not self._shared.role
        return None if check.silenced and (failure or settled) else Answer(check, mapped, failure)

    def forget(self, pair: CandidatePair) -> None:
        """Close the checks on a pair; their answers count no more."""
        for check in (pair.check, *pair.replaced_checks):
            if check is not None:
                self._open.pop(check.transaction_id, None)
        pair.check = None
        pair.replaced_checks.clear()

    def clear(self) -> None:
        """Close all."""
        self._open.clear()

    def handle_timeout(self, *, now: float) -> list[Check]:
        """Repeat what is due; gives the checks that have failed for want of an answer."""
        failed = []
        for check in list(self._open.values()):
            due = check.timers.handle_timeout(now=now)
            if due is Due.RETRANSMIT:
                self._transmit(check.pair, check.data)
            elif due is Due.TIMED_OUT:
                was_current = check.pair.check is check
                self.take(check.transaction_id)
                if was_current and not check.silenced:
                    failed.append(check)
        return failed

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        times = [check.timers.next_timeout() for check in self._open.values()]
        return min((at for at in times if at is not None), default=None)

    def _encode(
        self, pair: CandidatePair, remote: RemoteParameters, *, use_candidate: bool
    ) -> tuple[bytes, int, bytes]:
        """A Binding request (RFC 8445 §7.1): its transaction id, its PRIORITY and its bytes."""
        shared, credentials = self._shared, remote.credentials
        transaction_id = stun.new_transaction_id(shared.entropy)
        # RFC 8445 §7.1.1: the priority of the candidate that this check would teach the peer.
        priority = candidate_priority(CandidateType.PEER_REFLEXIVE, pair.local.priority >> 8 & 0xFFFF)
        claim = Attribute.ICE_CONTROLLING if shared.role is Role.CONTROLLING else Attribute.ICE_CONTROLLED
        attributes: list[tuple[int, object]] = [
            (Attribute.USERNAME, f"{credentials.ufrag}:{self._local.ufrag}"),
            (claim, shared.tie_breaker),
            (Attribute.PRIORITY, priority),
        ]
        if use_candidate:
            attributes.append((Attribute.USE_CANDIDATE, True))
        number = pair.nomination if use_candidate else pair.move
        if remote.renomination and number:
            attributes.append((Attribute.NOMINATION, number))
        if remote.mobility:
            attributes.append((Attribute.NETWORK_INFO, pair.local.network << 16 | pair.local.cost))
        data = stun.encode(Method.BINDING, MessageClass.REQUEST, transaction_id, attributes, key=credentials.key)
        return transaction_id, priority, data

    def _transmit(self, pair: CandidatePair, data: bytes) -> None:
        pair.requests_sent += 1
        self._shared.transmit(pair.path, data)
