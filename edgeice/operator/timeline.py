"""What was tried on the way to a device, step by step: kept for the message of a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import trio

from edgeice.sansio import Event
from edgeice.text import printable
from edgeice.trace import Record, Tracer, entry_of, ignore, without_secrets

__all__ = ["LIMIT", "Timeline", "describe"]

#: Records kept; older ones are dropped, and counted.
LIMIT: Final = 256

#: What a record takes of an event: nothing that holds a secret, as a description does.
_FACTS: Final = ("gen", "code", "reason", "kind", "state", "ufrag", "candidate", "candidates", "succeeded")


#: Told to who watches and not kept: each change of each pair and every timer; a verdict has what they came to.
_FINE: Final = frozenset({"pair_changed", "pair_dropped", "pair_formed", "timer", "verdict"})


class Timeline:
    """The newest records of one attempt.

    Args:
        watch: Hears each record as it comes, without secrets.
    """

    def __init__(self, watch: Tracer = ignore) -> None:
        self._watch = watch
        self._began_at = trio.current_time()
        self._records: deque[Record] = deque(maxlen=LIMIT)
        #: When each step was taken first, seconds since the attempt began.
        self._steps: dict[str, float] = {}
        #: Older records that the bound cost.
        self.dropped = 0

    def take(self, record: Record) -> None:
        """Keep what a machine traced; `at` becomes seconds since the attempt began."""
        kept = without_secrets(Record(record.at - self._began_at, record.layer, record.name, record.fields))
        if record.name not in _FINE:
            self.dropped += len(self._records) == LIMIT
            self._records.append(kept)
        self._watch(kept)

    def note(self, layer: str, name: str, **fields: object) -> None:
        """Keep what happens now."""
        self.take(Record(trio.current_time(), layer, name, fields))

    def step(self, name: str, text: str) -> None:
        """Keep that the session takes a step, and when."""
        self._steps.setdefault(name, trio.current_time() - self._began_at)
        self.note("session", name, text=text)

    def seconds(self, *, before: str) -> dict[str, float]:
        """How long each step took until the next one, and the last until now; those before a step only."""
        names = list(self._steps)
        ends = [*list(self._steps.values())[1:], trio.current_time() - self._began_at]
        spent = {name: round(end - self._steps[name], 3) for name, end in zip(names, ends, strict=True)}
        return {name: spent[name] for name in names[: names.index(before) if before in names else None]}

    def event(self, layer: str, event: Event) -> None:
        """Keep that a machine told this event."""
        facts = {name: getattr(event, name) for name in _FACTS if hasattr(event, name)}
        self.note(layer, type(event).__name__, **facts)

    def entries(self) -> list[dict[str, object]]:
        """All records for a program to read, the oldest first; times in seconds since the attempt began."""
        return [entry_of(record) for record in self._records]


def describe(entry: Mapping[str, object]) -> str:
    """One entry as a line for people."""
    at = entry["at"]
    assert isinstance(at, float | int)
    facts = [f"{name}={_shown(value)}" for name, value in entry.items() if name not in ("at", "layer", "name")]
    return " ".join((f"{at:+9.3f} s", f"{entry['layer']}.{entry['name']}", *facts))


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = printable(text, 200)
    return f'"{text}"' if " " in text else text
