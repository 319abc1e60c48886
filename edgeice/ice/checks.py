"""Connectivity checks as messages and transactions (RFC 8445 §7.1, §7.2; RFC 8489 §6.2.1)."""

from __future__ import annotations

import attrs

from edgeice import stun
from edgeice.ice.candidate import CandidateType
from edgeice.ice.config import RemoteParameters, Role
from edgeice.ice.credentials import IceCredentials
from edgeice.ice.pair import CandidatePair
from edgeice.ice.priority import candidate_priority
from edgeice.ice.shared import Shared
from edgeice.stun import Attribute, Due, MessageClass, Method, RetransmissionPolicy, TransactionTimers

__all__ = ["Check", "CheckTable"]


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

    def silence(self) -> None:
        """Send it no more; its answer counts until it would have timed out."""
        self.silenced = True
        self.timers.stop_retransmitting()


class CheckTable:
    """What one generation asks: encodes requests, and keeps the checks that are not answered yet.

    A pair has two open checks at most: the present one and the one that it replaced.
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
        policy = RetransmissionPolicy(rto=rto, rc=self._shared.config.check_transmissions)
        timers = TransactionTimers(now=now, policy=policy)
        check = Check(pair, transaction_id, data, priority, self._shared.role, use_candidate, now, timers)
        if pair.check is not None:
            # One replaced check at most is waited for: a peer that triggers and never answers fills no table.
            if pair.replaced_check is not None:
                self._open.pop(pair.replaced_check.transaction_id, None)
            pair.check.silence()
            pair.replaced_check = pair.check
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
            if check.pair.replaced_check is check:
                check.pair.replaced_check = None
        return check

    def forget(self, pair: CandidatePair) -> None:
        """Close the checks on a pair; their answers count no more."""
        for check in (pair.check, pair.replaced_check):
            if check is not None:
                self._open.pop(check.transaction_id, None)
        pair.check = pair.replaced_check = None

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
            if remote.renomination:
                attributes.append((Attribute.NOMINATION, pair.nomination))
        data = stun.encode(Method.BINDING, MessageClass.REQUEST, transaction_id, attributes, key=credentials.key)
        return transaction_id, priority, data

    def _transmit(self, pair: CandidatePair, data: bytes) -> None:
        pair.requests_sent += 1
        self._shared.transmit(pair.path, data)
