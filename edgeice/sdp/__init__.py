"""Session descriptions of WebRTC data-channel sessions, both ways (RFC 8866, RFC 8839, RFC 8841, RFC 8842).

Not supported: media sections other than data channels' (answered with port 0, but for the one that leads the bundle: it
stays, inactive, because the transport is its own), `a=remote-candidates` (ignored, and never sent), the comparison of
default destinations with the candidates (RFC 8839 §4.2.5: every peer here speaks ICE, so `a=ice-mismatch` is never sent
and refuses the description that holds it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.sdp.builder import build
    from edgeice.sdp.description import (
        DEFAULT_MAX_MESSAGE_SIZE,
        OtherSection,
        SessionDescription,
        Setup,
        answer,
        answer_setup,
        is_restart,
        keeps_dtls,
    )
    from edgeice.sdp.parser import MAX_SIZE, parse
else:
    __getattr__ = names_of(
        __name__,
        builder="build",
        description="DEFAULT_MAX_MESSAGE_SIZE OtherSection SessionDescription Setup answer answer_setup is_restart"
        " keeps_dtls",
        parser="MAX_SIZE parse",
    )

__all__ = [
    "DEFAULT_MAX_MESSAGE_SIZE",
    "MAX_SIZE",
    "OtherSection",
    "SessionDescription",
    "Setup",
    "answer",
    "answer_setup",
    "build",
    "is_restart",
    "keeps_dtls",
    "parse",
]
