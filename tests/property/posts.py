"""Whole agents: a device's and an operator's signaling, fed with what a trusted key may sign, and with forgeries.

An input is a conversation, a message a line.  The peer's key signs whatever a line holds, so that more is tried than
signatures: who is trusted may be broken or hostile, and still may neither harm the machine nor others' sessions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from edgeice.sansio import DropCounter, Entropy, Event
from edgeice.signaling import (
    AnswerReceived,
    Connector,
    ConnectorState,
    DeviceKeyPresented,
    DeviceSignaling,
    OfferNeeded,
    OfferReceived,
    OperatorLine,
    Party,
    SendSignal,
    SessionFailed,
    SessionId,
    State,
    Status,
    sign_info,
)
from edgeice.signaling.encoding import b64url_decode
from edgeice.signaling.messages import Offer
from tests.property.signed import resigned
from tests.property.target import TAKEN, Target
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    CANDIDATE,
    DEVICE,
    DEVICE_KEY,
    FINGERPRINT_B,
    WALL,
    actions,
    events,
    make_device,
    make_info,
    make_key,
    make_sdp,
    make_sid,
    message,
    read_claims,
    trust,
)

__all__ = ["POSTS"]

BOB = Party.operator("lab", "bob")
BOB_KEY = make_key(4)
_SESSIONS = 8
_LINES = 64
#: Seconds between two lines, so that rejects are not all held back.
_STEP = 0.4
_REASON = re.compile(r"[a-z0-9-]{3,40}")
_JSON = (b"\n", b"{", b"}", b'"', b",", b":", b'"gen":1', b'"seq":9', b'"v":2', b'"t":"bye"', b'"t":"offer"', b"null")


def _payload(jws: bytes) -> bytes:
    return b64url_decode(jws.split(b".")[1])


class _Device:
    """A device that answers each offer, and now and then offers a restart itself."""

    def __init__(self) -> None:
        lines = (
            OperatorLine("alice", ALICE_KEY.public, ("shell", "exec")),
            OperatorLine("bob", BOB_KEY.public, ("shell",)),
        )
        self.machine: DeviceSignaling = make_device(trust=trust(*lines), max_sessions=_SESSIONS)
        self.now = 0.0
        self.sent: list[SendSignal] = []
        self.heard: list[Event] = []

    def receive(self, sender: Party, jws: bytes) -> None:
        self.machine.receive(sender, jws, now=self.now, wall=WALL + int(self.now))
        self.settle()

    def settle(self) -> None:
        while found := events(self.machine):
            for event in found:
                assert not isinstance(event, SessionFailed), repr(event)
                self.heard.append(event)
                if isinstance(event, OfferReceived):
                    self._answer(event)
        sent = actions(self.machine)
        assert len(sent) <= 16
        self.sent += [action for action in sent if isinstance(action, SendSignal)]

    def _answer(self, event: OfferReceived) -> None:
        session = self.machine.session(event.session)
        if session is None:
            return  # it ended in the same breath
        wall = WALL + int(self.now)
        sdp = make_sdp(f"DeviceU{event.gen}", setup="active", fingerprint=FINGERPRINT_B)
        session.answer(event.gen, sdp, wall=wall)
        session.send_candidates(event.gen, f"DeviceU{event.gen}", (CANDIDATE,), end=True, now=self.now, wall=wall)

    def restart(self, session_id: SessionId) -> None:
        session = self.machine.session(session_id)
        if session is not None:
            sdp = make_sdp(f"DeviceR{session.next_gen}", fingerprint=FINGERPRINT_B)
            session.offer(sdp, now=self.now, wall=WALL + int(self.now))
            self.settle()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(2000):
            at = self.machine.next_timeout()
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            self.machine.handle_timeout(now=self.now, wall=WALL + int(self.now))
            self.settle()
        raise AssertionError("time does not pass")

    def check(self) -> None:
        """What holds at any time."""
        machine = self.machine
        assert len(machine.sessions) <= _SESSIONS
        assert len(machine._early._boxes) <= 16
        _check_reasons(machine.drops)
        rejects = [each for each in self.sent if read_claims(each.jws)["t"] == "reject"]
        of_alice = [each for each in rejects if each.session.kid == ALICE_KEY.public.kid]
        assert len(of_alice) <= self.now + 1


def _check_reasons(drops: DropCounter) -> None:
    assert all(_REASON.fullmatch(reason) for reason in drops.snapshot())


def _lines(script: bytes) -> list[bytes]:
    return [line[:30_000] for line in script.split(b"\n")[:_LINES]]


class _Operator:
    """An operator that makes each offer that it is asked for."""

    def __init__(self) -> None:
        self.machine = Connector(
            me=ALICE,
            key=ALICE_KEY,
            device=DEVICE,
            pinned=None,
            want=("shell",),
            entropy=Entropy.seeded(3),
        )
        self.machine.start(now=0.0)
        self.now = 0.0
        self.sent: list[bytes] = []
        self.heard: list[Event] = []

    def settle(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.heard.append(event)
            wall = WALL + int(self.now)
            if isinstance(event, DeviceKeyPresented):
                self.machine.accept_key(event.key)
            elif isinstance(event, OfferNeeded):
                self.machine.offer(make_sdp("AliceU"), now=self.now, wall=wall)
            elif isinstance(event, OfferReceived):
                session = self.machine.session
                assert session is not None
                session.answer(event.gen, make_sdp(f"AliceU{event.gen}", setup="passive"), wall=wall)
        while (action := self.machine.poll_action()) is not None:
            if isinstance(action, SendSignal):
                self.sent.append(action.jws)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(2000):
            at = self.machine.next_timeout()
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            self.machine.handle_timeout(now=self.now, wall=WALL + int(self.now))
            self.settle()
        raise AssertionError("time does not pass")

    def receive(self, line: bytes) -> None:
        """Take a line: its first character says on which topic it comes."""
        kind, payload = line[:1], line[1:]
        if kind == b"s":
            self.machine.receive_status(payload)
        elif kind == b"i":
            self.machine.receive_info(resigned(payload, DEVICE_KEY))
        else:
            jws = resigned(payload, DEVICE_KEY)
            self.machine.receive(DEVICE, jws, now=self.now, wall=WALL + int(self.now))
        self.settle()


@cache
def _honest() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What an operator and a device say to each other: all that the device gets, and all that the operator gets."""
    device, operator = _Device(), _Operator()
    info = make_info(nonce=device.machine.nonce)
    to_operator = [
        b"i" + _payload(sign_info(DEVICE, info, DEVICE_KEY, iat=WALL)),
        b"s" + Status(State.READY, info.epoch).encode(),
    ]
    to_device: list[bytes] = []
    for line in to_operator:
        operator.receive(line)

    def exchange() -> None:
        while operator.sent or device.sent:
            for jws in operator.sent:
                to_device.append(_payload(jws))
                device.receive(ALICE, jws)
            operator.sent.clear()
            answers, device.sent = device.sent, []
            for signal in answers:
                line = b"r" + _payload(signal.jws)
                to_operator.append(line)
                operator.receive(line)
            device.run(0.1)
            operator.run(0.1)

    exchange()
    session = operator.machine.session
    assert session is not None
    assert operator.machine.state is ConnectorState.ESTABLISHED
    session.send_candidates(0, "AliceU", (CANDIDATE,), end=True, now=operator.now, wall=WALL)
    operator.settle()
    exchange()
    session.offer(make_sdp("AliceR1"), now=operator.now, wall=WALL)
    operator.settle()
    exchange()
    (session_id,) = device.machine.sessions
    device.restart(session_id)
    exchange()
    operator.machine.close("done", wall=WALL)
    operator.settle()
    exchange()
    assert not device.machine.sessions
    return tuple(to_device), tuple(to_operator)


@cache
def _device_seeds() -> Sequence[bytes]:
    lines = _honest()[0]
    second = _payload(message(Offer(make_sdp("AliceU"), ("exec",)), sid=make_sid(9), nonce=_Device().machine.nonce))
    stale = [_payload(message(Offer(make_sdp("AliceU")), sid=make_sid(20 + n), nonce="stale")) for n in range(8)]
    stories = (lines, lines[:1] * 3, (*lines[:2], second), lines[::-1], stale)
    return tuple(map(b"\n".join, stories))


@cache
def _operator_seeds() -> Sequence[bytes]:
    lines = _honest()[1]
    return b"\n".join(lines), b"\n".join(lines[:3]), b"\n".join((*lines[:2], *lines[:1:-1]))


def _device(script: bytes) -> str:
    device = _Device()
    for number, line in enumerate(_lines(script)):
        device.receive(ALICE, resigned(line, ALICE_KEY))
        if number % 4 == 3:
            for session_id in device.machine.sessions:
                device.restart(session_id)
        device.check()
        device.run(_STEP)
    offer = message(
        Offer(make_sdp("BobU"), ("shell",)),
        iss=BOB,
        key=BOB_KEY,
        sid=make_sid(77),
        iat=WALL + int(device.now),
        nonce=device.machine.nonce,
    )
    device.sent.clear()
    device.receive(BOB, offer)
    (answer, *_) = (read_claims(each.jws) for each in device.sent if each.session.peer == BOB)
    assert answer["t"] == "answer", "somebody else's session was refused"
    device.run(120.0)
    device.check()
    took = [event for event in device.heard if isinstance(event, OfferReceived) and event.session.peer == ALICE]
    return TAKEN if took else "refused"


def _strangers(script: bytes) -> str:
    """The same by somebody who has seen all honest messages and cannot sign: what is not one of them does nothing."""
    device = _Device()
    honest = {resigned(line, ALICE_KEY) for line in _honest()[0]}
    for line in script.split(b"\n")[:_LINES]:
        if line in honest:
            continue
        drops = device.machine.drops.total
        device.receive(ALICE, line)
        assert device.machine.drops.total == drops + 1
    assert not device.sent
    assert not device.heard
    assert not device.machine.sessions
    _check_reasons(device.machine.drops)
    return TAKEN


def _operator(script: bytes) -> str:
    operator = _Operator()
    for line in _lines(script):
        operator.receive(line)
        _check_reasons(operator.machine.drops)
        operator.run(_STEP)
    operator.run(60.0)
    state = operator.machine.state
    assert state in (ConnectorState.OVER, ConnectorState.ESTABLISHED), f"still {state.name} after a minute"
    if state is ConnectorState.ESTABLISHED:
        assert any(isinstance(event, AnswerReceived) for event in operator.heard)
    operator.machine.close("done", wall=WALL)
    assert operator.machine.next_timeout() is None
    return TAKEN if state is ConnectorState.ESTABLISHED else "over"


def _forgeries() -> Sequence[bytes]:
    return (b"\n".join(resigned(line, ALICE_KEY) for line in _honest()[0]),)


POSTS = (
    Target(name="device-signaling", seeds=_device_seeds, check=_device, tokens=_JSON, examples=60),
    Target(name="operator-signaling", seeds=_operator_seeds, check=_operator, tokens=_JSON, examples=60),
    Target(name="forged-signaling", seeds=_forgeries, check=_strangers, tokens=(b"\n", b".", b"A", b"-"), examples=60),
)
