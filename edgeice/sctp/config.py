"""What can be set about an association, with defaults for data channels over DTLS."""

from __future__ import annotations

import attrs

__all__ = ["SctpConfig"]


@attrs.frozen(kw_only=True)
class SctpConfig:
    """Limits and timers of one association; durations in seconds, sizes in bytes."""

    #: SCTP port of both ends, `a=sctp-port` (RFC 8841 §5).
    local_port: int = 5000
    remote_port: int = 5000
    #: Largest SCTP packet, common header included: no path MTU discovery below DTLS (RFC 8831 §5).
    mtu: int = 1200
    #: Bytes that may wait here for order, completion or the application, over all channels; advertised as a_rwnd.
    receive_window: int = 1 << 20
    #: Largest message accepted, announced as `a=max-message-size`; a larger one ends the association.
    max_message_size: int = 262_144
    #: Bytes that may wait here to be sent or acknowledged, over all channels.
    send_buffer: int = 16 << 20
    #: A channel's BufferedAmountLow is due when its unsent bytes fall to this or below.
    buffered_amount_low: int = 65_536
    #: Channels open at once, the peer's included.
    max_channels: int = 1024
    #: RFC 9260 §16 has 1 s, 1 s and 60 s, for the open Internet without a handshake below it; the minimum stays above
    #: a peer's delayed acknowledgment (200 ms) plus a usual round trip.
    rto_initial: float = 0.5
    rto_min: float = 0.4
    rto_max: float = 10.0
    #: INIT or COOKIE ECHO is sent this often again before the association is given up (RFC 9260 §5.1.4, §16).
    max_init_retransmits: int = 8
    #: Failures in a row after which the peer is lost (Association.Max.Retrans, RFC 9260 §8.1, §16).
    max_retransmits: int = 10
    heartbeat_interval: float = 30.0
    #: Delay of an acknowledgment at most (RFC 9260 §6.2).
    sack_delay: float = 0.2
    #: Lifetime of a state cookie (RFC 9260 §16).
    cookie_lifetime: float = 60.0
    #: Congestion window at the start, in packets (RFC 6928 has the same for TCP).
    initial_window: int = 10
    #: New packets that one input may send at most (Max.Burst, RFC 9260 §6.1 rule D).
    max_burst: int = 10
