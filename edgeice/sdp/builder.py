"""Writing session descriptions that browsers take unchanged (RFC 8829 §5.2.1, RFC 8839, RFC 8841)."""

from __future__ import annotations

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sdp.description import OtherSection, SessionDescription
from edgeice.sdp.parser import parse

__all__ = ["build"]


def build(description: SessionDescription) -> str:
    """Write an offer or answer, lines ended by CRLF.

    Raises LocalProtocolError if the description holds what SDP cannot say, so that nothing that came from elsewhere
    can add a line.
    """
    lines = _session_lines(description)
    sections = [
        _leading_lines(other, description) if other.leads else _rejected_lines(other) for other in description.others
    ]
    sections.insert(description.index, _data_lines(description))
    for section in sections:
        lines += section
    text = "".join(f"{line}\r\n" for line in lines)
    try:
        is_faithful = parse(text) == description
    except DecodeError as error:
        raise LocalProtocolError(f"not a session description: {error}") from error
    if not is_faithful:
        raise LocalProtocolError("not a session description: a value would be read back differently")
    return text


def _session_lines(description: SessionDescription) -> list[str]:
    lines = [
        "v=0",
        # RFC 8829 §5.2.1: the address says nothing on purpose.
        f"o=- {description.session_id} {description.session_version} IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
    ]
    if description.bundle:
        lines.append(f"a=group:BUNDLE {' '.join(description.bundle)}")
    if description.lite:
        lines.append("a=ice-lite")
    if description.pacing is not None:
        lines.append(f"a=ice-pacing:{description.pacing}")
    return lines


def _data_lines(description: SessionDescription) -> list[str]:
    port = description.sctp_port
    is_old = description.proto == "DTLS/SCTP"
    lines = [
        # RFC 8840 §4.1.1: port 9 and 0.0.0.0, as the candidates say where to.
        f"m=application 9 {description.proto} {port if is_old else 'webrtc-datachannel'}",
        "c=IN IP4 0.0.0.0",
    ]
    if description.mid:
        lines.append(f"a=mid:{description.mid}")
    lines += _transport_lines(description)
    lines.append(f"a=sctpmap:{port} webrtc-datachannel 65535" if is_old else f"a=sctp-port:{port}")
    lines.append(f"a=max-message-size:{description.max_message_size}")
    if not any(other.leads for other in description.others):
        lines += _candidate_lines(description)
    return lines


def _leading_lines(other: OtherSection, description: SessionDescription) -> list[str]:
    """RFC 9143 §7.1.3: the bundle's first section has the transport's candidates."""
    return [
        f"m={other.media} 9 {other.proto} {' '.join(other.formats)}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{other.mid}",
        *_transport_lines(description),
        "a=rtcp-mux",  # RFC 9143 §9.3
        *(f"a={line}" for line in other.codec),
        "a=inactive",
        *_candidate_lines(description),
    ]


def _transport_lines(description: SessionDescription) -> list[str]:
    """What every section of the bundle says alike, as browsers have it."""
    lines = [f"a=ice-ufrag:{description.ufrag}", f"a=ice-pwd:{description.pwd}"]
    if description.options:
        lines.append(f"a=ice-options:{' '.join(description.options)}")
    lines += [f"a=fingerprint:{algorithm} {value}" for algorithm, value in description.fingerprints]
    lines.append(f"a=setup:{description.setup}")
    if description.tls_id:
        lines.append(f"a=tls-id:{description.tls_id}")
    return lines


def _candidate_lines(description: SessionDescription) -> list[str]:
    lines = [f"a={candidate}" for candidate in description.candidates]
    if description.end_of_candidates:
        lines.append("a=end-of-candidates")
    return lines


def _rejected_lines(other: OtherSection) -> list[str]:
    """RFC 3264 §6: a rejected section keeps its place, with port 0."""
    lines = [
        f"m={other.media} 0 {other.proto} {' '.join(other.formats)}",
        "c=IN IP4 0.0.0.0",
    ]
    if other.mid:
        lines.append(f"a=mid:{other.mid}")
    lines.append("a=inactive")
    return lines
