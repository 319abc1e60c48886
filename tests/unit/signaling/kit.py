"""What the signaling tests share: two parties with fixed keys, descriptions, and a road that misbehaves."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Mapping

from edgeice.sansio import Entropy, Event
from edgeice.signaling import (
    AuthorizedOperators,
    DeviceSignaling,
    Info,
    OperatorLine,
    Party,
    PrivateKey,
    SendSignal,
    SignalAction,
    SignalingSession,
)
from edgeice.signaling.encoding import b64url_decode, b64url_encode
from edgeice.signaling.events import SessionId
from edgeice.signaling.jws import decode, sign, verify
from edgeice.signaling.messages import Envelope, Offer, Reject, SessionBody, SessionMessage, decode_body, sign_message

FLEET = "lab"
DEVICE = Party.device(FLEET, "pi17")
ALICE = Party.operator(FLEET, "alice")
#: A synchronized clock's time.
WALL = 1_800_000_000
SID = b64url_encode(bytes(range(16)))


def make_key(seed: int) -> PrivateKey:
    """A key made of one repeated byte."""
    return PrivateKey.generate(Entropy(token_bytes=lambda n: bytes([seed]) * n))


DEVICE_KEY = make_key(1)
ALICE_KEY = make_key(2)
MALLORY_KEY = make_key(3)

FINGERPRINT_A = ":".join(["AA"] * 32)
FINGERPRINT_B = ":".join(["BB"] * 32)


def make_sdp(ufrag: str, *, setup: str = "actpass", fingerprint: str = FINGERPRINT_A, end: bool = False) -> str:
    """A description with just the lines that signaling looks at."""
    lines = [
        "v=0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        f"a=ice-ufrag:{ufrag}",
        "a=ice-pwd:" + "p" * 22,
        f"a=fingerprint:sha-256 {fingerprint}",
        f"a=setup:{setup}",
    ]
    return "\r\n".join(lines + ["a=end-of-candidates"] * end) + "\r\n"


CANDIDATE = "candidate:1 1 udp 2122260223 192.0.2.1 50000 typ host"


def make_info(**changes: object) -> Info:
    values: dict[str, object] = {
        "version": "0.1",
        "nonce": "nonce-one",
        "epoch": 5,
        "time_synced": True,
        "key": DEVICE_KEY.public,
    }
    return Info(**(values | changes))  # type: ignore[arg-type] # the table's values fit


def trust(*lines: OperatorLine) -> AuthorizedOperators:
    return AuthorizedOperators(lines or (OperatorLine("alice", ALICE_KEY.public, ("shell", "exec")),))


def accept_any(_sdp: str) -> Reject | None:
    return None


def make_device(**changes: object) -> DeviceSignaling:
    values: dict[str, object] = {
        "me": DEVICE,
        "key": DEVICE_KEY,
        "trust": trust(),
        "check_sdp": accept_any,
        "max_sessions": 4,
        "entropy": Entropy.seeded(7),
    }
    return DeviceSignaling(**(values | changes))  # type: ignore[arg-type] # the table's values fit


def make_sid(number: int) -> str:
    return b64url_encode(number.to_bytes(16, "big"))


def message(
    body: SessionBody,
    *,
    key: PrivateKey = ALICE_KEY,
    iss: Party = ALICE,
    aud: Party = DEVICE,
    iat: int = WALL,
    lifetime: int = 60,
    sid: str = SID,
    gen: int = 0,
    seq: int = 0,
    nonce: str | None = None,
    re: str | None = None,
) -> bytes:
    """A signed session message, by default of Alice to the device."""
    return sign_message(
        SessionMessage(
            iss=iss, aud=aud, iat=iat, lifetime=lifetime, sid=sid, gen=gen, seq=seq, body=body, nonce=nonce, re=re
        ),
        key,
    )


def first_offer(
    device: DeviceSignaling,
    *,
    sid: str = SID,
    want: tuple[str, ...] = ("shell",),
    sdp: str | None = None,
    key: PrivateKey = ALICE_KEY,
    iat: int = WALL,
    nonce: str | None = None,
) -> bytes:
    """Alice's first offer with the device's present nonce."""
    return message(
        Offer(make_sdp("AliceU") if sdp is None else sdp, want),
        sid=sid,
        key=key,
        iat=iat,
        nonce=nonce or device.nonce,
    )


def altered(jws: bytes, key: PrivateKey, **claims: object) -> bytes:
    """The same message with other claims (`...` removes one), signed again."""
    changed = dict(read_claims(jws))
    for name, value in claims.items():
        if value is ...:
            del changed[name]
        else:
            changed[name] = value
    return sign(changed, key)


def read_claims(jws: bytes) -> Mapping[str, object]:
    """The claims of a message whose signature does not matter."""
    claims: Mapping[str, object] = json.loads(b64url_decode(jws.split(b".")[1]))
    return claims


def body_of(jws: bytes) -> Mapping[str, object]:
    body = read_claims(jws)["body"]
    assert isinstance(body, dict)
    return body


def digest(jws: bytes, key: PrivateKey) -> str:
    return verify(decode(jws), key.public).digest


def actions(machine: DeviceSignaling | SignalingSession) -> list[SignalAction]:
    found: list[SignalAction] = []
    while (action := machine.poll_action()) is not None:
        found.append(action)
    return found


def sent(machine: DeviceSignaling | SignalingSession) -> list[SendSignal]:
    """The signals among the actions, which are all taken."""
    return [action for action in actions(machine) if isinstance(action, SendSignal)]


def events(machine: DeviceSignaling | SignalingSession) -> list[Event]:
    found: list[Event] = []
    while (event := machine.poll_event()) is not None:
        found.append(event)
    return found


class Road:
    """Carries bytes with loss, duplicates and reordering, all from one seed."""

    def __init__(self, seed: int, *, loss: float = 0.2, duplicates: float = 0.2, spread: float = 0.3) -> None:
        self._dice = random.Random(seed)
        self._loss = loss
        self._duplicates = duplicates
        self._spread = spread
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def carry(self, now: float, deliver: Callable[[], None]) -> None:
        copies = 1 + (self._dice.random() < self._duplicates)
        for _ in range(copies):
            if self._dice.random() >= self._loss:
                self._count += 1
                heapq.heappush(self._queue, (now + self._dice.random() * self._spread, self._count, deliver))

    def next_at(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    def pop_due(self, now: float) -> Callable[[], None] | None:
        return heapq.heappop(self._queue)[2] if self._queue and self._queue[0][0] <= now else None


def make_pair() -> tuple[SignalingSession, SignalingSession]:
    """An operator's and a device's session that face each other; the device's has no offer yet."""
    operator = SignalingSession(
        me=ALICE, key=ALICE_KEY, session=SessionId(DEVICE, DEVICE_KEY.public.kid, SID), peer_key=DEVICE_KEY.public
    )
    device = SignalingSession(
        me=DEVICE, key=DEVICE_KEY, session=SessionId(ALICE, ALICE_KEY.public.kid, SID), peer_key=ALICE_KEY.public
    )
    return operator, device


def accept(device: SignalingSession, jws: bytes, *, now: float = 0.0) -> None:
    """Let a device's session begin with an offer, as admission does."""
    verified = verify(decode(jws), ALICE_KEY.public)
    envelope = Envelope.decode(verified.claims)
    offer = decode_body(envelope)
    assert isinstance(offer, Offer)
    device.accept_first(verified, envelope, offer, now=now)


def established_pair() -> tuple[SignalingSession, SignalingSession]:
    """Both after generation 0 was offered and answered at time 0; queues are empty, the channel is open."""
    operator, device = make_pair()
    operator.offer(make_sdp("AliceU"), now=0.0, wall=WALL, want=("shell",), nonce="n")
    accept(device, sent(operator)[0].jws)
    device.answer(0, make_sdp("DeviceU", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    operator.receive_jws(sent(device)[0].jws, "mqtt", now=0.0, wall=WALL)
    events(operator)
    events(device)
    operator.channel_open = device.channel_open = True
    return operator, device
