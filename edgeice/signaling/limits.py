"""Rate limits on what a peer can make this side do."""

from __future__ import annotations

import attrs

__all__ = ["RejectLimiter", "TokenBucket"]

#: Most keys remembered; beyond it nobody is answered until a second has passed.
_KEYS = 1024


class RejectLimiter:
    """At most one reject a second per key (contract §5)."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def allow(self, kid: str, *, now: float) -> bool:
        """Whether a reject to this key may go now; if so, it is noted as sent."""
        last = self._last.get(kid)
        if last is not None and now < last + 1.0:
            return False
        if len(self._last) >= _KEYS:
            self._last = {key: at for key, at in self._last.items() if now < at + 1.0}
            if len(self._last) >= _KEYS:
                return False
        self._last[kid] = now
        return True


@attrs.define
class TokenBucket:
    """So many at once, then `rate` a second."""

    burst: float
    rate: float
    _tokens: float = attrs.field(init=False)
    _at: float = attrs.field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, *, now: float) -> bool:
        """Take one; False where there is none."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def next(self, *, now: float) -> float:
        """When there is one to take."""
        missing = 1.0 - min(self.burst, self._tokens + (now - self._at) * self.rate)
        return now + max(0.0, missing / self.rate)
