"""What a session's trace says of its pairs and timers; only sessions that are traced load this."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias

from edgeice.ice.pair import CandidatePair, PairKey
from edgeice.trace import Record, Tracer

__all__ = ["PairTrace", "Traced"]

#: What is told of a pair whenever it changes, and the values of that.
_NAMES: Final = (
    "local", "remote", "priority", "foundation", "state", "sent", "received", "answered", "rtt", "result", "mapped",
    "consent_until", "nominating", "nominated",
)  # fmt: skip
_Values: TypeAlias = tuple[object, ...]


class Traced(Protocol):
    """A generation, as far as it is traced."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def checklist(self) -> Iterable[CandidatePair]:
        """Its pairs."""

    def deadlines(self) -> Iterable[tuple[str, float | None]]:
        """What comes when."""


class PairTrace:
    """Compares the pairs of a session with what was told of them last.

    So no change is missed, whatever brought it about, and sessions that are not traced pay nothing.  Numbers of
    requests and responses are told as totals: one more request sent in the state `in_progress` is a check or its
    repetition, in the state `succeeded` consent that is asked for; one received is a check of the peer.

    Args:
        tracer: Hears the changes.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._told: dict[tuple[int, PairKey], _Values] = {}

    def note(self, generations: Iterable[Traced], *, now: float) -> None:
        """Tell what became of each pair since the last call."""
        present: dict[tuple[int, PairKey], _Values] = {}
        for generation in generations:
            for pair in generation.checklist:
                key = generation.number, pair.key
                values = present[key] = _values(pair)
                known = self._told.get(key)
                if known is None:
                    self._tell("pair_formed", *key, dict(zip(_NAMES, values, strict=True)), now)
                elif known != values:
                    told = zip(_NAMES, values, known, strict=True)
                    changes = {name: value for name, value, before in told if value != before}
                    self._tell("pair_changed", *key, changes, now)
        for number, pair_key in self._told.keys() - present.keys():
            self._tell("pair_dropped", number, pair_key, {}, now)
        self._told = present

    def due(self, generations: Iterable[Traced], *, now: float) -> None:
        """Tell which timers have fired."""
        for generation in generations:
            for timer, at in generation.deadlines():
                if at is not None and at <= now:
                    fields = {"timer": timer, "generation": generation.number, "late": now - at}
                    self._tracer(Record(now, "ice", "timer", fields))

    def _tell(self, name: str, generation: int, key: PairKey, changes: dict[str, object], now: float) -> None:
        told = {"generation": generation, "path": f"{key[0]}->{key[1]}", **changes}
        until = told.pop("consent_until", None)
        if isinstance(until, float):
            told["consent_left"] = until - now  # whoever reads it need not know when this clock began
        self._tracer(Record(now, "ice", name, told))


def _values(pair: CandidatePair) -> _Values:
    return (
        pair.local.type,
        pair.remote.type,
        pair.priority,
        pair.foundation,
        pair.state,
        pair.requests_sent,
        pair.requests_received,
        pair.responses_received,
        pair.rtt,
        pair.result,
        None if pair.valid_local is None else pair.valid_local.address,
        None if pair.consent is None else pair.consent.expires_at,
        pair.nominate_next,
        pair.nominated,
    )
