"""What can be configured about ICE, and what the peer announces."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Final

import attrs

from edgeice.ice.credentials import IceCredentials

if TYPE_CHECKING:
    from edgeice.ice.destinations import Destinations, Network

__all__ = ["DEFAULT_PACING", "CandidatePolicy", "IceConfig", "RemoteParameters", "Role"]

#: The Ta, in seconds, of a peer that announces none (RFC 8445 §14.2).
DEFAULT_PACING: Final = 0.050


class Role(Enum):
    """Who nominates (RFC 8445 §6.1.1)."""

    CONTROLLING = "controlling"
    CONTROLLED = "controlled"

    @property
    def opposite(self) -> Role:
        """The role that the other end has."""
        return Role.CONTROLLED if self is Role.CONTROLLING else Role.CONTROLLING


class CandidatePolicy(Enum):
    """Which local candidates there are, and which of them the peer is told."""

    ALL = "all"
    #: Host candidates are checked from and not told; those that are told do not say what address is behind them.
    NO_HOST = "no-host"
    #: Only relayed ones, which do not say either: the peer learns no address of this host.
    RELAY = "relay"


@attrs.frozen(kw_only=True)
class IceConfig:
    """Timings (seconds) and limits of a session; the defaults suit a device on a mobile network."""

    #: This side's Ta, to be announced by `a=ice-pacing`; the larger of both sides' is used (RFC 8445 §14.2).
    pacing: float = attrs.field(default=0.020, validator=attrs.validators.ge(0.005))
    #: Lower bound of a check's first retransmission timeout (RFC 8445 §14.3 allows no less).
    rto: float = attrs.field(default=0.5, validator=attrs.validators.ge(0.5))
    #: How often a check is sent before it fails (RFC 8489 §6.2.1, Rc).
    check_transmissions: int = attrs.field(default=7, validator=attrs.validators.ge(1))
    #: Pairs in a checklist (RFC 8445 §6.1.2.5).
    max_pairs: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    #: Remote candidates that a generation ever accepts, peer-reflexive ones included.
    max_remote_candidates: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    #: Local candidates of a generation, peer-reflexive ones included.
    max_local_candidates: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    #: From the first valid pair to nomination, while a better pair is still possible.
    nomination_wait: float = 0.3
    #: The same where a relayed candidate is the best that answered.
    relay_nomination_wait: float = 2.0
    #: The same where checks of the peer arrive on a direct pair meanwhile: it works one way at least.
    promising_nomination_wait: float = 5.0
    #: Nominate again when a pair that is better than a relayed one becomes valid later, opposite peers that announce
    #: the same.
    renomination: bool = True
    #: Opposite peers that announce the same, and renomination: tell candidates that come and go after nomination, keep
    #: pairs on other interfaces alive, and move to them without signaling.
    mobility: bool = True
    #: A pair on a link that costs less must have answered for this long before data moves there.
    better_link_wait: float = 3.0
    #: No failure is declared before this much time with the peer's parameters (RFC 8863 §4).
    patience: float = 39.5
    #: After nomination unselected pairs are still received from for this long (RFC 8445 §8.3.1).
    settle_time: float = 3.0
    #: A generation that a restart replaced still answers and receives for this long.
    retire_time: float = 10.0
    #: Mean time between consent checks; each interval is spread over 0.8 to 1.2 times this (RFC 7675 §5.1).
    consent_interval: float = attrs.field(default=5.0, validator=attrs.validators.ge(5.0))
    #: Consent ends this long after the last authentic response (RFC 7675 §5.1).
    consent_expiry: float = attrs.field(default=30.0, validator=attrs.validators.le(30.0))
    #: Consent that ends within this time without an answer is said to fade, so that a restart can begin before it does.
    consent_fading: float = 10.0
    #: Error replies per second to requests of unproven origin, of all sessions together; more are dropped.
    error_replies_per_second: float = 10.0
    #: The same for one source prefix, a /24 of IPv4 or a /56 of IPv6.
    error_replies_per_prefix: float = 5.0
    #: Replies per second to authenticated requests.
    replies_per_second: float = 200.0
    #: Interface name -> rank; 0 is best, each rank below is preferred less (RFC 8421 §3).  By cost where there is none.
    interface_ranks: Mapping[str, int] = attrs.field(factory=dict)
    #: Whether loopback addresses may be candidates and destinations: demonstrations and tests on one host.
    allow_loopback: bool = False
    #: Networks that checks and data are sent to and no others; empty for all.
    peer_networks: tuple[Network, ...] = ()
    #: Networks that nothing is sent to.
    exclude_peer_networks: tuple[Network, ...] = ()
    #: Which local candidates there are, and which of them the peer is told.
    policy: CandidatePolicy = CandidatePolicy.ALL
    #: Whether the peer's candidates with UUID names in `.local` are looked up on the local network: what browsers give
    #: while a page may not use camera or microphone.
    resolve_names: bool = False

    def destinations(self) -> Destinations:
        """Where sessions may send to by this configuration."""
        from edgeice.ice.destinations import Destinations  # noqa: PLC0415  # only sessions send to somebody

        return Destinations(
            allow_loopback=self.allow_loopback, allowed=self.peer_networks, denied=self.exclude_peer_networks
        )


@attrs.frozen(kw_only=True)
class RemoteParameters:
    """What the peer's description says about ICE as a whole (RFC 8839 §5.3-5.6)."""

    credentials: IceCredentials
    #: The peer only answers checks (RFC 8445 §2.5).
    lite: bool = False
    #: Candidates follow until the peer says that it was the last.
    trickle: bool = True
    #: The peer's Ta in seconds, None if it announces none.
    pacing: float | None = None
    #: Both sides announce the option `renomination` (draft-thatcher-ice-renomination-01): several nominations may
    #: follow each other, numbered, and the latest counts.
    renomination: bool = False
    #: The same of the option `edgeice-mobility`, which needs `renomination`.
    mobility: bool = False

    def ta(self, own: float) -> float:
        """The Ta that is kept, in seconds: the larger of both sides' (RFC 8445 §14.2), up to one second."""
        theirs = DEFAULT_PACING if self.pacing is None else self.pacing
        return max(own, min(theirs, 1.0))
