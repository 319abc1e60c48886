"""Holds back what comes and goes too often, so that sessions do not run after it.

A loss always counts at once.  What went away `_TIMES` times within `_WINDOW` seconds is then not used again before it
has stayed for some seconds, more each time that this happens: 8, 16, 32, 64.  Where there is nothing else to use, a
path that breaks now and then is better than none: there, `_FIRM` seconds must do.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final

import attrs

from edgeice.net.interfaces import Held

__all__ = ["FlapGuard"]

_TIMES: Final = 5
_WINDOW: Final = 30.0
_HOLDS: Final = (8.0, 16.0, 32.0, 64.0)
_FIRM: Final = 1.0
#: Seconds without a loss after which earlier ones no longer count.
_FORGET: Final = 300.0
#: Interfaces and addresses remembered; what went away longest ago is forgotten first.
_LIMIT: Final = 256


@attrs.define
class _History:
    """When something went away lately, and how it is held back."""

    losses: deque[float] = attrs.field(factory=lambda: deque(maxlen=_TIMES))
    #: How often it was held back before.
    holds: int = 0
    held: Held | None = None
    until: float = -math.inf


class FlapGuard:
    """Counts losses; keys are (interface name, IP), or (interface name, "") for its link."""

    def __init__(self) -> None:
        self._histories: OrderedDict[tuple[str, str], _History] = OrderedDict()

    def lost(self, interface: str, ip: str = "", *, now: float) -> None:
        """Something went away; while it is held back, the time begins anew."""
        key = (interface, ip)
        history = self._histories.pop(key, None)
        if history is None or now - history.losses[-1] > _FORGET:
            history = _History()
        self._histories[key] = history
        if len(self._histories) > _LIMIT:
            self._histories.popitem(last=False)
        history.losses.append(now)
        if history.until > now:
            history.until = now + self._hold(history)
        elif len(history.losses) == _TIMES and now - history.losses[0] <= _WINDOW:
            history.holds += 1
            seconds = self._hold(history)
            history.until = now + seconds
            history.held = Held(f"{seconds:g} s: went away {_TIMES} times within {_WINDOW:g} s")

    @staticmethod
    def _hold(history: _History) -> float:
        return _HOLDS[min(history.holds, len(_HOLDS)) - 1]

    def held(self, *, now: float) -> dict[tuple[str, str], Held]:
        """What is held back now; of an interface that is, its addresses are not named."""
        found = {
            key: attrs.evolve(history.held, is_firm=now < history.losses[-1] + _FIRM)
            for key, history in self._histories.items()
            if history.held is not None and now < history.until
        }
        return {key: held for key, held in found.items() if not key[1] or (key[0], "") not in found}

    def next_timeout(self, *, now: float) -> float:
        """When `held` tells something else although nothing went away; infinity for never."""
        times = (
            at
            for history in self._histories.values()
            if now < history.until
            for at in (history.losses[-1] + _FIRM, history.until)
            if now < at
        )
        return min(times, default=math.inf)
