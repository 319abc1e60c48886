"""Reading session descriptions of WebRTC data-channel sessions (RFC 8866, 8839, 8841, 8842, 9143)."""

from __future__ import annotations

import re
from typing import Final, cast

import attrs

from edgeice.errors import DecodeError
from edgeice.sdp.description import DEFAULT_MAX_MESSAGE_SIZE, OtherSection, SessionDescription, Setup

__all__ = ["MAX_CANDIDATES", "MAX_LINES", "MAX_SECTIONS", "MAX_SIZE", "parse"]

#: Caps on what is parsed at all: bytes and lines of a description, m-sections in it.
MAX_SIZE: Final = 32 * 1024
MAX_LINES: Final = 1024
MAX_SECTIONS: Final = 32
#: Candidates beyond these, and fingerprints beyond theirs, refuse the description.
MAX_CANDIDATES: Final = 128
_MAX_FINGERPRINTS: Final = 16

_NEW_PROTOS = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"})
_OLD_PROTO = "DTLS/SCTP"

_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# RFC 8866 §5: a description with an unknown type letter is ignored as a whole.
_LINE = re.compile(r"([vosiuepcbtrzkam])=(.*)", re.ASCII)
_TOKEN = re.compile(r"[!#-'*+\-.0-9A-Z^-~]{1,256}", re.ASCII)
_PROTO = re.compile(r"[!#-'*+\-./0-9A-Z^-~]{1,64}", re.ASCII)
_MEDIA = re.compile(r"(?P<media>\S+) (?P<port>[0-9]{1,5})(?:/[0-9]{1,5})? (?P<proto>\S+) (?P<formats>\S.*)", re.ASCII)
_ORIGIN = re.compile(r"\S+ ([0-9]{1,20}) ([0-9]{1,20}) ", re.ASCII)
# RFC 8839 §5.4: ice-char.
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}", re.ASCII)
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}", re.ASCII)
_FINGERPRINT = re.compile(r"([!#-'*+\-.0-9A-Z^-~]{1,32}) +([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){0,127}) *", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


@attrs.define
class _Section:
    """The session level, or one m-section: its attributes by name, with their values in order."""

    media: str = ""
    port: int = 0
    proto: str = ""
    formats: tuple[str, ...] = ()
    attributes: dict[str, list[str]] = attrs.field(factory=dict)

    def one(self, name: str) -> str | None:
        """The value of an attribute that may occur once; DecodeError if it occurs twice with different values."""
        values = self.attributes.get(name)
        if not values:
            return None
        if any(value != values[0] for value in values):
            raise DecodeError("duplicate", f"two different a={name}")
        return values[0]

    def all(self, name: str) -> list[str]:
        """The values of an attribute that may occur many times."""
        return self.attributes.get(name, [])

    @property
    def mid(self) -> str:
        return self.one("mid") or ""

    @property
    def is_rejected(self) -> bool:
        # RFC 9143 §6: a bundle-only section has port 0 and is wanted all the same.
        return self.port == 0 and "bundle-only" not in self.attributes

    @property
    def is_data(self) -> bool:
        """Whether this is a usable section for data channels (RFC 8841 §4, or the form before it)."""
        if self.media != "application" or self.is_rejected:
            return False
        if self.proto == _OLD_PROTO:
            return any(value.split(" ")[1:2] == ["webrtc-datachannel"] for value in self.all("sctpmap"))
        return self.proto in _NEW_PROTOS and "webrtc-datachannel" in self.formats


def parse(text: str) -> SessionDescription:
    """Read an offer or answer that holds a section for WebRTC data channels.

    Lines may end in CRLF or LF.  Whatever else an offer holds (audio, video, unknown attributes) is kept only as far
    as an answer needs it.  Raises DecodeError with one of the reasons `too-long`, `characters`, `line`, `media`, `mid`,
    `bundle`, `duplicate`, `no-data-section`, `ice-mismatch`, `ufrag`, `pwd`, `fingerprint`, `setup`, `tls-id`,
    `sctp-port`, `max-message-size` and `candidates`.
    """
    session, sections = _read_sections(_split_lines(text))
    index = next((i for i, section in enumerate(sections) if section.is_data), None)
    if index is None:
        raise DecodeError("no-data-section", "no m-section for data channels")
    data = sections[index]
    bundle = _bundle_of(session, sections, data.mid)
    # RFC 9143 §7.1.3: what belongs to the transport may stand in the bundle's first section alone.
    tagged = next((section for section in sections if bundle and section.mid == bundle[0]), data)
    # An answer keeps the section that leads: the transport is that one's, not one that the data section may have too.
    leads = tagged is not data and "RTP/" in tagged.proto and not tagged.is_rejected
    levels = (tagged, data, session) if leads else (data, tagged, session)
    if "ice-mismatch" in data.attributes:
        raise DecodeError("ice-mismatch", "the peer refuses ICE")
    first, second, _ = levels
    candidates = tuple(f"candidate:{value}" for value in first.all("candidate") or second.all("candidate"))
    if len(candidates) > MAX_CANDIDATES:
        raise DecodeError("candidates", f"more than {MAX_CANDIDATES}")
    session_id, session_version = _origin(session)
    return SessionDescription(
        ufrag=_credential("ufrag", _UFRAG, levels),
        pwd=_credential("pwd", _PWD, levels),
        fingerprints=_fingerprints(levels),
        setup=_setup(levels),
        options=_options(levels),
        pacing=_pacing(levels),
        lite="ice-lite" in session.attributes,  # RFC 8839 §5.3: session level only
        tls_id=_tls_id(levels),
        sctp_port=_sctp_port(data),
        max_message_size=_max_message_size(data),
        candidates=candidates,
        end_of_candidates=any("end-of-candidates" in level.attributes for level in levels),  # RFC 8840 §8.2
        mid=data.mid,
        bundle=bundle,
        proto=data.proto,
        index=index,
        others=tuple(_other(s, leads=leads and s is tagged) for s in sections if s is not data),
        session_id=session_id,
        session_version=session_version,
    )


def _split_lines(text: str) -> list[str]:
    """Lines without their ends, after the caps and the look for characters that have no place in any."""
    if len(text) > MAX_SIZE:
        raise DecodeError("too-long", f"{len(text)} characters")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise DecodeError("characters", "a lone surrogate") from None
    if size > MAX_SIZE or text.count("\n") > MAX_LINES:
        raise DecodeError("too-long", f"{size} bytes")
    text = text.replace("\r\n", "\n")
    if _FORBIDDEN.search(text):
        raise DecodeError("characters", "a control character")
    return text.removesuffix("\n").split("\n")


def _read_sections(lines: list[str]) -> tuple[_Section, list[_Section]]:
    if lines[0] != "v=0":
        raise DecodeError("line", "does not begin with v=0")
    session = current = _Section()
    sections: list[_Section] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise DecodeError("line", f"not a line of SDP: {line[:32]!r}")
        letter, value = match.groups()
        if letter == "m":
            current = _media_section(value)
            sections.append(current)
            if len(sections) > MAX_SECTIONS:
                raise DecodeError("media", f"more than {MAX_SECTIONS} m-sections")
        elif letter == "a":
            name, _, rest = value.partition(":")
            current.attributes.setdefault(name, []).append(rest)
        elif letter == "o":
            current.attributes.setdefault("\0origin", []).append(value)  # no attribute can have this name
    _check_mids(sections)
    return session, sections


def _media_section(value: str) -> _Section:
    match = _MEDIA.fullmatch(value)
    if match is None:
        raise DecodeError("media", f"not an m-line: {value[:32]!r}")
    formats = tuple(match["formats"].split())
    if not (
        _TOKEN.fullmatch(match["media"]) and _PROTO.fullmatch(match["proto"]) and all(map(_PROTO.fullmatch, formats))
    ):
        raise DecodeError("media", "not a token")
    port = int(match["port"])
    if port > 0xFFFF:
        raise DecodeError("media", f"port {port}")
    return _Section(match["media"], port, match["proto"], formats)


def _check_mids(sections: list[_Section]) -> None:
    mids = [section.mid for section in sections if "mid" in section.attributes]
    if len(set(mids)) != len(mids) or not all(map(_TOKEN.fullmatch, mids)):
        raise DecodeError("mid", "a mid is malformed or stands twice")


def _bundle_of(session: _Section, sections: list[_Section], mid: str) -> tuple[str, ...]:
    """The members of the BUNDLE group that a section is in (RFC 9143 §5), empty for none."""
    groups = [tuple(value.split()[1:]) for value in session.all("group") if value.split()[:1] == ["BUNDLE"]]
    group = next((members for members in groups if mid and mid in members), ())
    known = {section.mid for section in sections}
    if len(set(group)) != len(group) or not known.issuperset(group):
        raise DecodeError("bundle", "a BUNDLE group names a section twice or one that is not there")
    return group


def _other(section: _Section, *, leads: bool) -> OtherSection:
    codec = [
        f"{name}:{value}"
        for name in ("rtpmap", "fmtp")
        for value in section.all(name)
        if leads and value.split(" ")[0] == section.formats[0]
    ]
    return OtherSection(section.media, section.proto, section.formats, section.mid, leads, tuple(codec))


def _first(name: str, levels: tuple[_Section, ...]) -> str | None:
    """An attribute's value at the closest level that has it."""
    return next((value for level in levels if (value := level.one(name)) is not None), None)


def _credential(name: str, grammar: re.Pattern[str], levels: tuple[_Section, ...]) -> str:
    value = _first(f"ice-{name}", levels)
    if value is None or not grammar.fullmatch(value):
        raise DecodeError(name, "missing or malformed")
    return value


def _fingerprints(levels: tuple[_Section, ...]) -> tuple[tuple[str, str], ...]:
    """The fingerprints of the closest level that has any (RFC 8122 §5), duplicates left out."""
    values = next((values for level in levels if (values := level.all("fingerprint"))), [])
    matches = [_FINGERPRINT.fullmatch(value) for value in values]
    if not 0 < len(matches) <= _MAX_FINGERPRINTS:
        raise DecodeError("fingerprint", "none, or too many")
    pairs = [(match[1].lower(), match[2].upper()) for match in matches if match is not None]
    if len(pairs) != len(matches):
        raise DecodeError("fingerprint", "malformed")
    return tuple(dict.fromkeys(pairs))


def _setup(levels: tuple[_Section, ...]) -> Setup:
    value = _first("setup", levels)
    if value not in ("actpass", "active", "passive"):  # RFC 8842 §5.1 leaves holdconn out
        raise DecodeError("setup", "missing or unknown")
    return cast("Setup", value)


def _options(levels: tuple[_Section, ...]) -> tuple[str, ...]:
    """All options, of either level: browsers differ in where they put which, and libdatachannel sets commas."""
    values = (value.replace(",", " ") for level in levels for value in level.all("ice-options"))
    words = (word for value in values for word in value.split(" ") if word)
    return tuple(dict.fromkeys(words))


def _pacing(levels: tuple[_Section, ...]) -> int | None:
    value = _first("ice-pacing", levels)
    # RFC 8839 §5.5: at most ten digits; what is malformed says nothing.
    return int(value) if value is not None and len(value) <= 10 and _NUMBER.fullmatch(value) else None


def _tls_id(levels: tuple[_Section, ...]) -> str:
    value = _first("tls-id", levels)
    if value is None:
        return ""
    if not _TOKEN.fullmatch(value):
        raise DecodeError("tls-id", "malformed")
    return value


def _sctp_port(data: _Section) -> int:
    """RFC 8841 §5; port 0 means a closed association.  The old form has the port in the m-line."""
    stated = data.one("sctp-port")
    if stated is None:
        stated = data.formats[0] if data.proto == _OLD_PROTO else "5000"
    if not _NUMBER.fullmatch(stated) or not 0 < int(stated) <= 0xFFFF:
        raise DecodeError("sctp-port", "malformed, or closed")
    return int(stated)


def _max_message_size(data: _Section) -> int:
    stated = data.one("max-message-size")
    if stated is None:
        return DEFAULT_MAX_MESSAGE_SIZE
    if not _NUMBER.fullmatch(stated):
        raise DecodeError("max-message-size", "malformed")
    return int(stated)


def _origin(session: _Section) -> tuple[int, int]:
    """Identifier and version of the session; zeros where the o-line has none, as nothing depends on them."""
    match = _ORIGIN.match(session.attributes.get("\0origin", [""])[0])
    return (int(match[1]), int(match[2])) if match else (0, 0)
