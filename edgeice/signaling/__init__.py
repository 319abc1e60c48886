"""Signaling over MQTT: who may talk to whom, and how sessions are offered, answered, restarted and ended.

The broker is a post office: it may read, drop, delay, replay and reorder.  Everything that matters is signed, and
judged here without I/O, clock or dice; only `edgeice.signaling.mqtt`, which this does not import, touches a socket.

A device drives one `DeviceSignaling`, an operator one `Connector` per session.  Not supported: the fleet authority
(device certificates, grants, revocation), `sealed` bodies.
"""

from __future__ import annotations

from edgeice.signaling.admission import (
    SdpCheck as SdpCheck,
)
from edgeice.signaling.capabilities import (
    check_capability as check_capability,
)
from edgeice.signaling.capabilities import (
    covers as covers,
)
from edgeice.signaling.capabilities import (
    first_uncovered as first_uncovered,
)
from edgeice.signaling.clock import (
    BUILD_DATE as BUILD_DATE,
)
from edgeice.signaling.clock import (
    is_expired as is_expired,
)
from edgeice.signaling.connect import (
    Connector as Connector,
)
from edgeice.signaling.connect import (
    ConnectorState as ConnectorState,
)
from edgeice.signaling.device import (
    DeviceSignaling as DeviceSignaling,
)
from edgeice.signaling.documents import (
    Audit as Audit,
)
from edgeice.signaling.documents import (
    Info as Info,
)
from edgeice.signaling.documents import (
    Limits as Limits,
)
from edgeice.signaling.documents import (
    SignedInfo as SignedInfo,
)
from edgeice.signaling.documents import (
    open_audit as open_audit,
)
from edgeice.signaling.documents import (
    open_info as open_info,
)
from edgeice.signaling.documents import (
    sign_audit as sign_audit,
)
from edgeice.signaling.documents import (
    sign_info as sign_info,
)
from edgeice.signaling.events import (
    AnswerReceived as AnswerReceived,
)
from edgeice.signaling.events import (
    ByeReceived as ByeReceived,
)
from edgeice.signaling.events import (
    CandidatesReceived as CandidatesReceived,
)
from edgeice.signaling.events import (
    DeviceBusy as DeviceBusy,
)
from edgeice.signaling.events import (
    DeviceKeyPresented as DeviceKeyPresented,
)
from edgeice.signaling.events import (
    DeviceNotSeen as DeviceNotSeen,
)
from edgeice.signaling.events import (
    DeviceSaidAway as DeviceSaidAway,
)
from edgeice.signaling.events import (
    EndOfCandidatesReceived as EndOfCandidatesReceived,
)
from edgeice.signaling.events import (
    FailureKind as FailureKind,
)
from edgeice.signaling.events import (
    LocalOfferCanceled as LocalOfferCanceled,
)
from edgeice.signaling.events import (
    NothingHeard as NothingHeard,
)
from edgeice.signaling.events import (
    OfferExpired as OfferExpired,
)
from edgeice.signaling.events import (
    OfferNeeded as OfferNeeded,
)
from edgeice.signaling.events import (
    OfferReceived as OfferReceived,
)
from edgeice.signaling.events import (
    OfferRefused as OfferRefused,
)
from edgeice.signaling.events import (
    OfferRejected as OfferRejected,
)
from edgeice.signaling.events import (
    OperatorFailed as OperatorFailed,
)
from edgeice.signaling.events import (
    PublishInfo as PublishInfo,
)
from edgeice.signaling.events import (
    Road as Road,
)
from edgeice.signaling.events import (
    SendSignal as SendSignal,
)
from edgeice.signaling.events import (
    SessionEnded as SessionEnded,
)
from edgeice.signaling.events import (
    SessionFailed as SessionFailed,
)
from edgeice.signaling.events import (
    SessionId as SessionId,
)
from edgeice.signaling.events import (
    SignalAction as SignalAction,
)
from edgeice.signaling.keys import (
    PrivateKey as PrivateKey,
)
from edgeice.signaling.keys import (
    PublicKey as PublicKey,
)
from edgeice.signaling.messages import (
    Bye as Bye,
)
from edgeice.signaling.messages import (
    ByeCode as ByeCode,
)
from edgeice.signaling.messages import (
    Reject as Reject,
)
from edgeice.signaling.messages import (
    RejectCode as RejectCode,
)
from edgeice.signaling.names import (
    DEFAULT_ROOT as DEFAULT_ROOT,
)
from edgeice.signaling.names import (
    Party as Party,
)
from edgeice.signaling.names import (
    Role as Role,
)
from edgeice.signaling.names import (
    Topic as Topic,
)
from edgeice.signaling.names import (
    TopicKind as TopicKind,
)
from edgeice.signaling.names import (
    Topics as Topics,
)
from edgeice.signaling.names import (
    check_name as check_name,
)
from edgeice.signaling.presence import (
    EpochKeeper as EpochKeeper,
)
from edgeice.signaling.presence import (
    EpochVerdict as EpochVerdict,
)
from edgeice.signaling.presence import (
    State as State,
)
from edgeice.signaling.presence import (
    Status as Status,
)
from edgeice.signaling.presence import (
    StatusKeeper as StatusKeeper,
)
from edgeice.signaling.presence import (
    own_retained_epoch as own_retained_epoch,
)
from edgeice.signaling.presence import (
    seen_state as seen_state,
)
from edgeice.signaling.session import (
    SignalingSession as SignalingSession,
)
from edgeice.signaling.trust import (
    AuthorizedOperators as AuthorizedOperators,
)
from edgeice.signaling.trust import (
    KeyVerdict as KeyVerdict,
)
from edgeice.signaling.trust import (
    KnownDevices as KnownDevices,
)
from edgeice.signaling.trust import (
    OperatorLine as OperatorLine,
)

__all__ = [
    "BUILD_DATE",
    "DEFAULT_ROOT",
    "AnswerReceived",
    "Audit",
    "AuthorizedOperators",
    "Bye",
    "ByeCode",
    "ByeReceived",
    "CandidatesReceived",
    "Connector",
    "ConnectorState",
    "DeviceBusy",
    "DeviceKeyPresented",
    "DeviceNotSeen",
    "DeviceSaidAway",
    "DeviceSignaling",
    "EndOfCandidatesReceived",
    "EpochKeeper",
    "EpochVerdict",
    "FailureKind",
    "Info",
    "KeyVerdict",
    "KnownDevices",
    "Limits",
    "LocalOfferCanceled",
    "NothingHeard",
    "OfferExpired",
    "OfferNeeded",
    "OfferReceived",
    "OfferRefused",
    "OfferRejected",
    "OperatorFailed",
    "OperatorLine",
    "Party",
    "PrivateKey",
    "PublicKey",
    "PublishInfo",
    "Reject",
    "RejectCode",
    "Road",
    "Role",
    "SdpCheck",
    "SendSignal",
    "SessionEnded",
    "SessionFailed",
    "SessionId",
    "SignalAction",
    "SignalingSession",
    "SignedInfo",
    "State",
    "Status",
    "StatusKeeper",
    "Topic",
    "TopicKind",
    "Topics",
    "check_capability",
    "check_name",
    "covers",
    "first_uncovered",
    "is_expired",
    "open_audit",
    "open_info",
    "own_retained_epoch",
    "seen_state",
    "sign_audit",
    "sign_info",
]
