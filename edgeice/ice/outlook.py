"""What a session tells its owner of its path and its state, as its generations bring them about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice.config import Role
from edgeice.ice.events import FailureVerdict, IceFailed, IceState, IceStateChanged, SendPathChanged
from edgeice.ice.generation import Generation
from edgeice.ice.nomination import improves
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared
from edgeice.ice.slots import Slots

__all__ = ["Outlook"]


#: Causes of moves from a path that carries nothing any more.
_BREAKS: Final = frozenset({"base_gone", "silent", "consent"})

_Told: TypeAlias = tuple[CandidatePair, bool, bool, str]


class Outlook:
    """Compares what there is with what was told, and tells the difference.

    Attributes:
        state: How far the session is.
        send_path: Where data goes; None while nothing may be sent.
        sent_pair: The pair that was told last, whether it was nominated, whether its consent was fading, and the
            interface that it goes by.
    """

    def __init__(self, shared: Shared, slots: Slots, bases: Mapping[TransportAddress, Base]) -> None:
        self.state = IceState.NEW
        self.send_path: Path | None = None
        self.sent_pair: _Told | None = None
        self._shared = shared
        self._slots = slots
        self._bases = bases
        #: The generation of the pair that was told last.
        self._told_of: Generation | None = None
        self._had_path = False
        #: Of the latest restart, if it failed while no path was there.
        self._restart_verdict: FailureVerdict | None = None

    @property
    def fades_at(self) -> float | None:
        """When the path that carries data will be told as fading; None if it is already."""
        if self.sent_pair is None:
            return None
        pair, _, fading, _ = self.sent_pair
        return None if fading or pair.consent is None else pair.consent.fades_at(self._shared.config.consent_fading)

    def restart_failed(self, verdict: FailureVerdict) -> None:
        """A restart found no path; that is the session's failure where there is no other path."""
        if self._slots.current.best_pair is None:
            self._restart_verdict = verdict

    def tell(self, now: float) -> None:
        """Tell what changed since the last call."""
        self._tell_path(now)
        self._tell_state(now)

    def close(self) -> None:
        """The session is over."""
        self.send_path = None
        self.set_state(IceState.CLOSED)

    def set_state(self, state: IceState) -> None:
        """Tell a state, if it is another one."""
        if state is not self.state:
            self.state = state
            self._shared.emit(IceStateChanged(state))

    def _tell_path(self, now: float) -> None:
        current, pending = self._slots.current, self._slots.pending
        pair = current.best_pair
        if pair is None and pending is not None:
            # Better than nothing while a restart is under way.  Without one, only the selected pair carries data
            # (RFC 8445 §12.1): what the peer sends goes by it too, so its loss must show.
            pair = pending.best_pair or current.alternative
        consent = None if pair is None else pair.consent
        fading = pair is not None and (
            pair.suspect or (consent is not None and now >= consent.fades_at(self._shared.config.consent_fading))
        )
        base = None if pair is None else self._bases.get(pair.path.local)
        interface = "" if base is None else base.interface
        told = None if pair is None else (pair, pair.nominated, fading, interface)
        if told == self.sent_pair:
            return
        cause = self._cause(told)
        broke = told is not None and self._has_broken(told[0], interface, cause)
        self.sent_pair = told
        if pair is None:
            self.send_path = None
            self._shared.emit(SendPathChanged(None, None, None, nominated=False, cause=cause))
            return
        self.send_path = pair.path
        self._shared.emit(
            SendPathChanged(
                pair.path,
                pair.valid_local or pair.local,
                pair.remote,
                pair.nominated,
                fading,
                interface=interface,
                rtt=pair.rtt,
                cause=cause,
                broke=broke,
            )
        )

    def _has_broken(self, pair: CandidatePair, interface: str, cause: str) -> bool:
        """Whether the path that was told before is left because it carries nothing any more."""
        if self.sent_pair is None:
            return True
        before, _, fading, carrier = self.sent_pair
        if before is pair:
            return interface != carrier  # what its relay is reached by
        if cause == "peer_moved":
            # The controlled side moves for no other reason; the controlling one also to what is better.
            return self._shared.role is Role.CONTROLLING or not improves(pair, before)
        return fading or cause in _BREAKS

    def _cause(self, told: _Told | None) -> str:
        """Why another path is told than before, as `SendPathChanged.cause`."""
        current, before = self._slots.current, self.sent_pair
        if told is None:
            return current.cause
        carrier = current if current.checklist.get(*told[0].key) is told[0] else self._slots.pending
        known, self._told_of = self._told_of, carrier
        if not self._had_path:
            return "first"
        if known is not carrier:
            return "restart"
        if before is not None and before[0] is told[0]:
            # What carries a relayed address may go, and the address stay.
            return "base_gone" if before[3] != told[3] else "nominated" if before[1] != told[1] else "consent"
        return current.cause if current.completed else "better"

    def _tell_state(self, now: float) -> None:
        if self.send_path is not None:
            self._had_path = True
            self._restart_verdict = None
            completed = self.sent_pair is not None and self.sent_pair[1]
            self.set_state(IceState.COMPLETED if completed else IceState.CONNECTED)
            return
        verdict = self._take_verdict(now)
        if verdict is not None:
            self.set_state(IceState.FAILED)
            self._shared.emit(IceFailed(verdict))
        elif self._had_path and self.state is not IceState.FAILED:
            self.set_state(IceState.DISCONNECTED)

    def _take_verdict(self, now: float) -> FailureVerdict | None:
        """Why nothing can bring a path any more, told once; None while something can."""
        current, verdict = self._slots.current, self._restart_verdict
        if self._slots.pending is not None:
            return None
        if verdict is not None and (current.completed or current.has_failed):
            self._restart_verdict = None
            return verdict
        return current.verdict(now=now) if current.has_failed and self.state is not IceState.FAILED else None
