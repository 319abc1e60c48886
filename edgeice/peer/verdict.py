"""A failed session's verdict as plain values, for logs, JSON and the wire."""

from __future__ import annotations

from edgeice.ice import FailureVerdict

__all__ = ["verdict_as_dict"]


def verdict_as_dict(verdict: FailureVerdict) -> dict[str, object]:
    """Everything in a verdict as strings, numbers, lists and dicts."""
    return {
        "reason": verdict.reason,
        "elapsed": round(verdict.elapsed, 3),
        "local_candidates": {kind.value: n for kind, n in verdict.local_candidates.items()},
        "remote_candidates": {kind.value: n for kind, n in verdict.remote_candidates.items()},
        "pairs": [
            {
                "local": f"{pair.local.value} {pair.local_address}",
                "remote": f"{pair.remote.value} {pair.remote_address}",
                "state": pair.state.name.lower(),
                "result": pair.result,
                "requests_sent": pair.requests_sent,
                "requests_received": pair.requests_received,
                "responses_received": pair.responses_received,
                "rtt": pair.rtt,
            }
            for pair in verdict.pairs
        ],
    }
