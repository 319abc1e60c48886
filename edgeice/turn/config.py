"""Timings and limits of an allocation."""

from __future__ import annotations

import attrs

__all__ = ["TurnConfig"]


@attrs.frozen(kw_only=True)
class TurnConfig:
    """Timings in seconds; the defaults are RFC 8656's, or what it suggests."""

    #: Lifetime to ask for; None leaves it to the server (RFC 8656 §7.1).
    lifetime: int | None = None
    #: Refresh so long before an allocation ends, or after half its life if that is shorter (RFC 8656 §8).
    refresh_margin: float = 60.0
    #: Refresh permissions and channels after so long: permissions last 300 s (RFC 8656 §9), and binding a channel
    #: renews the permission too (RFC 8656 §12).
    permission_refresh: float = attrs.field(default=240.0, validator=attrs.validators.le(250))
    #: A peer that the server refused to relay to is not asked for again before this.
    refusal_time: float = 60.0
    #: Peer addresses that may have a permission at once.
    max_permissions: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    #: Datagrams that wait for one permission; then the oldest is dropped.
    max_waiting: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    #: Datagrams in each direction that wait to be taken; then new ones are dropped.
    max_queue: int = attrs.field(default=1024, validator=attrs.validators.ge(1))
    #: Over UDP, so long after the last datagram to the server another is sent that keeps the NAT's binding
    #: (RFC 4787 §4.3 has 30 s as the least that bindings should last where they do not last longer).
    keepalive: float = 25.0
    #: How long closing waits for the server's word that the allocation is gone.
    release_time: float = 4.0
    #: How long the server may take to move an allocation to this client's new address (RFC 8016).
    move_time: float = 8.0
    #: Ask the server to set DF on what it relays (RFC 8656 §7.1); without if it cannot.
    dont_fragment: bool = False
