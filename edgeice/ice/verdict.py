"""Why a generation found no path, put together from what it tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeice.ice.candidate import CandidateType
from edgeice.ice.events import FailureVerdict, PairReport
from edgeice.ice.pair import CandidatePair

__all__ = ["explain_failure"]


def explain_failure(
    local: Mapping[CandidateType, int],
    remote: Mapping[CandidateType, int],
    pairs: Iterable[CandidatePair],
    elapsed: float,
    *,
    nomination: bool,
) -> FailureVerdict:
    """The verdict on these candidates (numbers by type) and pairs, `elapsed` seconds after checks could begin.

    `nomination`: the peer nominated a pair that does not work from here.
    """
    reports = tuple(map(_report, pairs))
    reason = _reason(local, remote, reports, nomination=nomination)
    return FailureVerdict(reason, elapsed, dict(local), dict(remote), reports)


def _report(pair: CandidatePair) -> PairReport:
    return PairReport(
        pair.local.type,
        pair.local.address,
        pair.remote.type,
        pair.remote.address,
        pair.state,
        pair.result,
        pair.requests_sent,
        pair.requests_received,
        pair.responses_received,
        pair.rtt,
    )


def _reason(
    local: Mapping[CandidateType, int],
    remote: Mapping[CandidateType, int],
    reports: tuple[PairReport, ...],
    *,
    nomination: bool,
) -> str:
    received = any(report.requests_received for report in reports)
    answered = any(report.responses_received for report in reports)
    reasons = (
        ("no_local_candidates", not local),
        ("no_remote_candidates", not remote),
        ("no_pairs", not reports),
        ("silence", not received and not answered),
        ("one_way", not answered),
        ("nomination", nomination),
    )
    return next((reason for reason, holds in reasons if holds), "checks_failed")
