"""ICE: candidates, checks, nomination, consent, restarts (RFC 8445, RFC 8838, RFC 8863, RFC 7675, RFC 8421).

Not supported: more than one component, ICE-TCP (RFC 6544), being a lite agent, aggressive nomination, relayed
candidates (their allocations come with `turn`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.ice.candidate import Candidate, CandidateType, NamedCandidate, decode_candidate, encode_candidate
    from edgeice.ice.config import DEFAULT_PACING, CandidatePolicy, IceConfig, RemoteParameters, Role
    from edgeice.ice.credentials import IceCredentials, generate_credentials
    from edgeice.ice.destinations import Destinations
    from edgeice.ice.events import (
        ConsentExpired,
        FailureVerdict,
        IceFailed,
        IceState,
        IceStateChanged,
        LocalCandidateGathered,
        LocalCandidatesEnded,
        LocalCandidateWithdrawn,
        PairNominated,
        PairReport,
        RestartFailed,
        RestartSucceeded,
        RoleSwitched,
        SelectedPathLost,
        SendPathChanged,
        ServerNameUnknown,
        ServerReflexiveLearned,
        ServerUnanswered,
    )
    from edgeice.ice.pacer import Pacer, SharedTurn, Turn
    from edgeice.ice.pair import CandidatePair, PairInput, PairState
    from edgeice.ice.session import IceSession
else:
    __getattr__ = names_of(
        __name__,
        candidate="Candidate CandidateType NamedCandidate decode_candidate encode_candidate",
        config="DEFAULT_PACING CandidatePolicy IceConfig RemoteParameters Role",
        credentials="IceCredentials generate_credentials",
        destinations="Destinations",
        events="ConsentExpired FailureVerdict IceFailed IceState IceStateChanged"
        " LocalCandidateGathered LocalCandidateWithdrawn LocalCandidatesEnded PairNominated PairReport RestartFailed"
        " RestartSucceeded RoleSwitched SelectedPathLost SendPathChanged ServerNameUnknown ServerReflexiveLearned"
        " ServerUnanswered",
        pacer="Pacer SharedTurn Turn",
        pair="CandidatePair PairInput PairState",
        session="IceSession",
    )

__all__ = [
    "DEFAULT_PACING",
    "Candidate",
    "CandidatePair",
    "CandidatePolicy",
    "CandidateType",
    "ConsentExpired",
    "Destinations",
    "FailureVerdict",
    "IceConfig",
    "IceCredentials",
    "IceFailed",
    "IceSession",
    "IceState",
    "IceStateChanged",
    "LocalCandidateGathered",
    "LocalCandidateWithdrawn",
    "LocalCandidatesEnded",
    "NamedCandidate",
    "Pacer",
    "PairInput",
    "PairNominated",
    "PairReport",
    "PairState",
    "RemoteParameters",
    "RestartFailed",
    "RestartSucceeded",
    "Role",
    "RoleSwitched",
    "SelectedPathLost",
    "SendPathChanged",
    "ServerNameUnknown",
    "ServerReflexiveLearned",
    "ServerUnanswered",
    "SharedTurn",
    "Turn",
    "decode_candidate",
    "encode_candidate",
    "generate_credentials",
]
