"""Decoders of text and JSON: descriptions, control messages, telemetry, the kernel's files, configuration."""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from edgeice import sdp
from edgeice.agent.config import load_config as load_agent
from edgeice.cli.targets import parse_forward, parse_target
from edgeice.dtls.fingerprint import select_fingerprints
from edgeice.errors import ConfigError, DecodeError, LocalProtocolError
from edgeice.ice import Candidate, NamedCandidate, decode_candidate, encode_candidate
from edgeice.operator.config import load_config as load_operator
from edgeice.operator.shared_frames import MAX_PAYLOAD, FrameDecoder, Kind, as_control
from edgeice.sdp.parser import MAX_CANDIDATES, MAX_SIZE
from edgeice.services import exec as exec_service
from edgeice.services import shell as shell_service
from edgeice.services.channel import MAX_CONTROL
from edgeice.services.control import Control, ServiceError, command, decode_control, encode_control, parse_error
from edgeice.services.telemetry import kernel
from edgeice.services.telemetry.local import MAX_LINE, parse_line
from edgeice.services.telemetry.wire import Cursor, Subscribe, parse_subscribe
from edgeice.signaling.description import Description
from edgeice.stun import ServerUri, parse_uri
from tests.property.target import Target, decoder

__all__ = ["TEXTS"]

VECTORS = Path(__file__).parents[1] / "vectors"

V = TypeVar("V")


def _text(data: bytes) -> str:
    """Text of any bytes; what no UTF-8 stands for becomes lone surrogates, which JSON brings as well."""
    return data.decode("utf-8", "surrogateescape")


# --- descriptions


@cache
def _sdp_seeds() -> Sequence[bytes]:
    return tuple(path.read_bytes() for path in sorted((VECTORS / "sdp").glob("*.sdp")))


def _sdp_holds(data: bytes, description: sdp.SessionDescription) -> None:
    assert len(data) <= MAX_SIZE
    assert len(description.candidates) <= MAX_CANDIDATES
    assert sdp.parse(sdp.build(description)) == description


def _description(data: bytes) -> Description:
    return Description.read(_text(data))


SDP = decoder(
    "sdp",
    _sdp_seeds,
    lambda data: sdp.parse(_text(data)),
    _sdp_holds,
    tokens=(
        b"\r\n",
        b"\n",
        b"\0",
        b"a=",
        b"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n",
        b"\xc2\x85",
        b"a=mid:0\n",
    ),
    examples=300,
)
SDP_FACTS = decoder("sdp-facts", _sdp_seeds, _description, examples=100)


def _candidate_holds(_data: bytes, candidate: Candidate | NamedCandidate) -> None:
    if isinstance(candidate, Candidate):
        assert decode_candidate(encode_candidate(candidate)) == candidate


def _candidate_seeds() -> Sequence[bytes]:
    lines = [line for seed in _sdp_seeds() for line in seed.splitlines() if line.startswith(b"a=candidate:")]
    return (*lines, b"candidate:1 1 udp 5 6ba7b810-9dad-41d1-80b4-00c04fd430c8.local 9 typ host")


CANDIDATE = decoder(
    "candidate",
    _candidate_seeds,
    lambda data: decode_candidate(_text(data)),
    _candidate_holds,
    tokens=(
        b" ",
        b"\r\n",
        b"raddr",
        b"rport",
        b"::",
        b"::ffff:192.0.2.1",
        b"%eth0",
        "³".encode(),
        b"\0",
        b"prflx",
        b"tcp",
    ),
    examples=300,
)


def _uri_holds(_data: bytes, uri: ServerUri) -> None:
    assert parse_uri(str(uri)) == uri
    assert 0 < uri.effective_port <= 0xFFFF
    assert uri.is_address or uri.host


URI = decoder(
    "stun-uri",
    lambda: (
        b"stun:example.org:3478",
        b"stuns:example.org",
        b"turn:[2001:db8::1]:3478?transport=udp",
        b"turns:relay.example.org:443?transport=tcp",
        b"turn:192.0.2.1",
    ),
    lambda data: parse_uri(_text(data)),
    _uri_holds,
    tokens=(b"?transport=", b"[", b"]", b"::1", b":", b"//", b"@", b"%25eth0"),
)


def _pairs(data: bytes) -> list[tuple[str, str]]:
    words = _text(data).split()
    return list(zip(words[::2], words[1::2], strict=False))


FINGERPRINT = decoder(
    "fingerprint",
    lambda: (b"sha-256 " + b":".join([b"AB"] * 32), b"SHA-512 " + b":".join([b"cd"] * 64) + b" md5 00:11"),
    lambda data: select_fingerprints(_pairs(data)),
    examples=100,
)


# --- control messages


@cache
def _control_seeds() -> Sequence[bytes]:
    vectors = json.loads((VECTORS / "service-channels.json").read_text())
    said = [value["text"].encode() for vector in vectors for value in vector["send"] if "text" in value]
    told = [value["text"].encode() for vector in vectors for value in vector["receive"] if "text" in value]
    return tuple(dict.fromkeys(said + told))


def _control_holds(data: bytes, message: Control) -> None:
    assert len(data) <= MAX_CONTROL
    json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    assert _depth(message) <= 16
    for refusable in (
        lambda: parse_error(message.get("error")),
        lambda: parse_subscribe(message.get("subscribe")),
        lambda: exec_service._Request.parse(message),
        lambda: shell_service._Request.parse(message),
        lambda: command(message, ("open", "eof", "signal")),
    ):
        _refusable(refusable)
    try:
        assert decode_control(encode_control(message)) == message
    except LocalProtocolError:
        return  # spelled shorter than it is written


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _refusable(parse: Callable[[], object]) -> None:
    try:
        value = parse()
    except (DecodeError, ServiceError):
        return
    if isinstance(value, ServiceError):
        assert value.reason.isprintable()
        encode_control(value.message())


_JSON = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\\u",
    b"\\ud800",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b'"a":',
    b"\\",
)
CONTROL = decoder(
    "control", _control_seeds, lambda data: decode_control(_text(data)), _control_holds, tokens=_JSON, examples=300
)


def _subscribe_holds(_data: bytes, wanted: Subscribe) -> None:
    assert 1 <= len(wanted.streams) <= 16
    assert len(set(wanted.streams)) == len(wanted.streams)
    assert wanted.interval is None or 0.1 <= wanted.interval <= 3600
    assert not isinstance(wanted.since, Cursor) or Cursor.parse(str(wanted.since), "since") == wanted.since


SUBSCRIBE = decoder(
    "telemetry-subscribe",
    lambda: (
        b'{"streams":["*"]}',
        b'{"streams":["system","local"],"interval":0.5,"since":"local:0011aabb:17"}',
        b'{"streams":["local"],"since":"","interval":3600}',
    ),
    lambda data: parse_subscribe(decode_control(_text(data))),
    _subscribe_holds,
    refuses=(DecodeError, ServiceError),
    tokens=_JSON,
)


def _frames(data: bytes, size: int) -> list[tuple[Kind, bytes]] | str:
    """The frames of a stream that comes in pieces of so many bytes, or why it has none."""
    frames = FrameDecoder()
    found: list[tuple[Kind, bytes]] = []
    for at in range(0, len(data), size):
        frames.feed(data[at : at + size])
        try:
            while (frame := frames.next_frame()) is not None:
                found.append(frame)
        except DecodeError as error:
            return f"{len(found)} {error.reason}"
        assert len(frames._buffer) <= MAX_PAYLOAD + 4
    return found


def _frames_hold(data: bytes, found: list[tuple[Kind, bytes]] | str) -> None:
    assert _frames(data, 7) == found
    for kind, payload in found if isinstance(found, list) else ():
        if kind is Kind.CONTROL:
            _refusable(partial(as_control, payload))


FRAMES = decoder(
    "shared-frames",
    lambda: (
        b'\1\0\0\x0d{"status":{}}',
        b'\1\0\0\x18{"join":{"want":["sh"]}}\2\0\0\3abc\3\0\0\0\1\0\0\x0c{"close":{}}',
    ),
    lambda data: _frames(data, len(data) + 1),
    _frames_hold,
    tokens=(b"\0", b"\1", b"\2", b"\4", b"\0\xff\xff\xff"),
)


# --- telemetry and the kernel's files


def _line_holds(line: bytes, row: str) -> None:
    assert len(line) <= MAX_LINE
    assert len(row.encode()) <= 8 * MAX_LINE
    members = decode_control(row)
    assert set(members) <= {"t", "name", "value", "tags"}
    assert parse_line(row.encode(), 1.0) == row if len(row.encode()) <= MAX_LINE else True


LINE = decoder(
    "telemetry-line",
    lambda: (
        b'{"name":"door.open","value":true,"tags":{"door":"shed"}}',
        b'{"t":1700000000.5,"name":"n","value":-1.5e3}',
        '{"name":"ä","value":"grün"}'.encode(),
    ),
    lambda line: parse_line(line, 1.0),
    _line_holds,
    tokens=_JSON,
    examples=300,
)

_STAT = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 17 0 0\n"
_DEV = b"Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: " + b"7 " * 16 + b"\n"
_WIRELESS = b"Inter-| sta\n face | tus\n wlan0: 0000   54.  -56.  -256        0      0      0      0     12        0\n"
_MOUNTS = b"/dev/root / ext4 rw 0 0\n//srv/a\\040b /mnt/a\\040b cifs rw 0 0\nproc /proc proc rw 0 0\n"


def _kernel(data: bytes) -> object:
    """Every file may hold anything: what none of them can read is left out."""
    return (
        kernel.parse_cpu_times(data),
        kernel.parse_memory(data),
        kernel.parse_load(data),
        kernel.parse_number(data),
        kernel.parse_interfaces(data, 4),
        kernel.parse_wifi(data, 4),
        kernel.parse_throttled(data),
        kernel.parse_mounts(data),
    )


KERNEL = decoder(
    "kernel-files",
    lambda: (
        _STAT,
        b"MemTotal: 1 kB\nMemFree:  2 kB\n",
        b"0.1 0.2 0.3 1/2 3\n",
        _DEV,
        _WIRELESS,
        b"0x50005\n",
        _MOUNTS,
    ),
    _kernel,
    refuses=(),
    tokens=(b"cpu", b":", b" kB", b"\\400", b"\\012", b"inf", b"nan", b"1_0", b"\n", b" "),
)


# --- what people write


def _config(name: str, load: Callable[[Path], object], seed: str) -> Target:
    @cache
    def place() -> Path:
        folder = tempfile.TemporaryDirectory(prefix="edgeice-property-")
        atexit.register(folder.cleanup)
        return Path(folder.name) / name

    def read(data: bytes) -> object:
        place().write_bytes(data)
        return load(place())

    return decoder(
        name,
        lambda: (seed.encode(),),
        read,
        refuses=ConfigError,
        tokens=(
            b"[",
            b"]",
            b"{",
            b"}",
            b"=",
            b'"',
            b"'''",
            b"\n",
            b"\\u",
            b"\\ud800",
            b"inf",
            b"1979-05-27",
            b"0x",
            b"_",
            b"#",
            b"[[",
            b"~",
            b"/33",
            b"-",
            b"%eth0",
        ),
        examples=80,
    )


_BROKER = '[broker]\nurl = "mqtts://broker.example:8883"\nkeepalive = 30\nroot = "edgeice/1"\n'
_ICE = '[ice]\nstun = ["stun:stun.example.org:3478", "stun:[2001:db8::1]"]\nloopback = ["::1"]\nexclude = ["docker*"]\n'
_ICE += 'networks = ["192.0.2.0/24", "2001:db8::/32"]\nports = "40000-40100"\npublic = { "10.0.0.1" = "192.0.2.9" }\n'
_ICE += '[turn]\nurls = ["turn:relay.example.org:3478?transport=udp"]\nusername = "pi17"\n'
_ICE += 'password_file = "turn.password"\n'
AGENT_TOML = _config(
    "agent.toml",
    load_agent,
    f'fleet = "lab"\ndevice = "pi17"\n{_BROKER}{_ICE}[services]\nuser = "pi"\nshell = false\n[limits]\nsessions = 4\n'
    '[labels]\nsite = "shed"\n[log]\nlevel = "debug"\n[telemetry]\nmounts = ["/", "/srv"]\n',
)
OPERATOR_TOML = _config(
    "operator.toml", load_operator, f'fleet = "lab"\noperator = "alice"\nkey = "~/.ssh/id_ed25519"\n{_BROKER}{_ICE}'
)
FORWARD = decoder(
    "forward-argument",
    lambda: (b"8080:localhost:80", b"[::1]:8080:[fd00::20]:22", b"*:0:h:1"),
    lambda data: parse_forward(_text(data)),
    refuses=ConfigError,
    tokens=(b":", b"[", b"]", b"*", "٣".encode()),
    examples=100,
)
TARGET = decoder(
    "target-argument",
    lambda: (b"22", b"192.168.1.20:22", b"[fd00::20]:22"),
    lambda data: parse_target(_text(data)),
    refuses=ConfigError,
    tokens=(b":", b"[", b"]", "²".encode()),
    examples=100,
)

TEXTS = (
    SDP,
    SDP_FACTS,
    CANDIDATE,
    URI,
    FINGERPRINT,
    CONTROL,
    SUBSCRIBE,
    FRAMES,
    LINE,
    KERNEL,
    AGENT_TOML,
    OPERATOR_TOML,
    FORWARD,
    TARGET,
)
