"""What became of a session, as plain values: for people by way of a command, for logs, JSON and the wire.

A verdict is one dict, the same whether the session failed to come about, goes on, or has ended:

- `outcome`: `failed` (it never came about), `open` or `ended`; `state`: where it stands or stood;
- `step` and `reason`: of what ended it; empty while it goes on;
- `path`: the candidate pair that carries or carried data last, None if none ever did;
- `finding`: while there never was one, what keeps ICE from it as far as can be told by now (`ice.FailureVerdict`);
- `seconds` since it was begun, and `phases`: how many of them in each state;
- `gathered`: the seconds after which all servers had answered or had their time, None while some have not;
- `role`, `generation` (how many restarts there were), `policy` (which candidates are used);
- `local_candidates` and `remote_candidates`: how many there are, by type;
- `pairs`: of every pair that was formed in the latest generation, what became of it;

and, of the host (`Endpoint.report`), `servers` (what each server answered last to each address) and `bases` (the
addresses that were sent from, with what the kernel refused); whoever has the interfaces adds `left_out`, and whoever
keeps the path `recovery` (`PathRecovery.report`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.peer.events import ConnectionEnded, ConnectionState, PathChanged

if TYPE_CHECKING:
    from edgeice.ice import FailureVerdict, PairReport

__all__ = ["Phases", "pairs_as_dict", "session_verdict"]


class Phases:
    """How long a session was in each state."""

    __slots__ = ("_entered_at", "_spent", "_state", "began_at")

    def __init__(self, now: float) -> None:
        self.began_at = self._entered_at = now
        self._state = ConnectionState.NEW
        self._spent: dict[str, float] = {}

    def enter(self, state: ConnectionState, now: float) -> None:
        """The session is in another state from now on."""
        name = self._state.value
        self._spent[name] = self._spent.get(name, 0.0) + now - self._entered_at
        self._state, self._entered_at = state, now

    def report(self, now: float) -> dict[str, float]:
        """Seconds in each state that there was, in the order in which they were entered first; none once it closed."""
        spent = dict(self._spent)
        if self._state is not ConnectionState.CLOSED:
            spent[self._state.value] = spent.get(self._state.value, 0.0) + now - self._entered_at
        return {name: round(seconds, 3) for name, seconds in spent.items()}

    @property
    def was_connected(self) -> bool:
        """Whether the session came about."""
        return ConnectionState.CONNECTED.value in self._spent or self._state is ConnectionState.CONNECTED


def session_verdict(
    *,
    report: FailureVerdict,
    phases: Phases,
    state: ConnectionState,
    path: PathChanged,
    ended: ConnectionEnded | None,
    now: float,
) -> dict[str, object]:
    """Put a session's verdict together.

    Args:
        report: What ICE tried.
        phases: Where the time went.
        state: Where the session stands, or stood when it ended.
        path: The pair that carries or carried data last; without one if none ever did.
        ended: What ended it; None while it goes on.
        now: The present time, or that of the end.
    """
    outcome = "open" if ended is None else "ended" if phases.was_connected else "failed"
    return {
        "outcome": outcome,
        "state": state.value,
        "step": "" if ended is None else ended.step,
        "reason": "" if ended is None else ended.reason,
        "path": _path_as_dict(path, report),
        "finding": report.reason if path.path is None else "",
        "seconds": round(now - phases.began_at, 3),
        "phases": phases.report(now),
        **pairs_as_dict(report),
    }


def _path_as_dict(path: PathChanged, report: FailureVerdict) -> dict[str, object] | None:
    if path.path is None:
        return None
    pair = next(
        (
            each
            for each in report.pairs
            if each.local_address == path.path.local and each.remote_address == path.path.remote
        ),
        None,
    )
    return {
        "local": f"{path.local_type} {path.path.local}",
        "remote": f"{path.remote_type} {path.path.remote}",
        "nominated": path.nominated,
        "rtt": None if pair is None or pair.rtt is None else round(pair.rtt, 4),
    }


def pairs_as_dict(report: FailureVerdict) -> dict[str, object]:
    """What ICE tried as strings, numbers, lists and dicts."""
    return {
        "local_candidates": {kind.value: n for kind, n in report.local_candidates.items()},
        "remote_candidates": {kind.value: n for kind, n in report.remote_candidates.items()},
        "pairs": [_pair_as_dict(pair) for pair in report.pairs],
    }


def _pair_as_dict(pair: PairReport) -> dict[str, object]:
    return {
        "local": f"{pair.local.value} {pair.local_address}",
        "remote": f"{pair.remote.value} {pair.remote_address}",
        "state": pair.state.name.lower(),
        "result": pair.result,
        "requests_sent": pair.requests_sent,
        "requests_received": pair.requests_received,
        "responses_received": pair.responses_received,
        "rtt": None if pair.rtt is None else round(pair.rtt, 4),
    }
