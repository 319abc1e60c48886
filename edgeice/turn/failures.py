"""What each answer that is no success means for an allocation: its name in verdicts, and when to try again."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.turn.events import AllocationFailed

__all__ = ["failed", "reason_of"]

#: RFC 8656 §7.4, RFC 8445 §5.1.1.2: the server may have room for others later.
_CAPACITY_PAUSE: Final = 60.0
#: RFC 8656 §7.4: three local ports whose allocations the server does not let go, then this pause.
_MISMATCH_TRIES: Final = 3
_MISMATCH_PAUSE: Final = 120.0
#: The network may be another one by then.
_SILENCE_PAUSE: Final = 60.0


@attrs.frozen
class _Rule:
    reason: str
    pause: float | None = None


#: RFC 8489 §14.8, RFC 8656 §19: by error code, seconds until an Allocate may be sent again; None is never.
_RULES: Final = {
    300: _Rule("redirect_unproven"),
    400: _Rule("bad_request"),
    401: _Rule("unauthorized"),
    403: _Rule("forbidden"),
    420: _Rule("unknown_attribute"),
    437: _Rule("mismatch"),
    438: _Rule("stale_nonce"),
    440: _Rule("family_unsupported"),
    441: _Rule("wrong_credentials"),
    442: _Rule("transport_unsupported"),
    443: _Rule("peer_family_mismatch"),
    486: _Rule("quota", _CAPACITY_PAUSE),
    500: _Rule("server_error", _CAPACITY_PAUSE),
    508: _Rule("capacity", _CAPACITY_PAUSE),
}
#: The same for ends without an error code.
_PAUSES: Final = {"timeout": _SILENCE_PAUSE, "transport": _SILENCE_PAUSE}


def _rule(code: int) -> _Rule:
    # RFC 8489 §6.3.4: an unknown code counts as the class that it is of.
    return _RULES.get(code) or (_RULES[500] if code >= 500 else _Rule("refused"))


def reason_of(code: int) -> str:
    """Slug of an error code."""
    return _rule(code).reason


def failed(code: int | None, reason: str | None, *, mismatches: int, now: float) -> AllocationFailed:
    """Say how an Allocate ended.

    Args:
        code: The server's error code, if it gave one.
        reason: A slug that says more than the code does.
        mismatches: How many attempts before this one ended with 437, one after the other.
        now: The present time.
    """
    if code == 437:
        # RFC 8656 §7.4: from another port at once, but not for ever.
        retry_at = now if mismatches + 1 < _MISMATCH_TRIES else now + _MISMATCH_PAUSE
        return AllocationFailed(reason="mismatch", code=code, retry_at=retry_at, new_port=True)
    pause = _rule(code).pause if code is not None else _PAUSES.get(reason or "")
    return AllocationFailed(
        reason=reason or reason_of(code or 400), code=code, retry_at=None if pause is None else now + pause
    )


def family_retry_at(code: int, *, now: float) -> float | None:
    """When a family that ADDRESS-ERROR-CODE refused may be asked for again (RFC 8656 §7.3)."""
    pause = _rule(code).pause
    return None if pause is None else now + pause
