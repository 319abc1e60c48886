"""A signaling channel that delays, repeats and reorders, and still holds what was said long ago.

What it loses is repeated by brokers until it arrives, so nothing is lost for good.  The receiving end puts what is
numbered into order and takes each message once, as every signaling under ICE must (RFC 8838 §9); repetitions and
messages of old are passed on as well, marked, for an owner that is careless with them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

import attrs

from tests.sim.network import Clock

__all__ = [
    "CandidateSaid",
    "CandidatesEndedSaid",
    "Description",
    "Mailbox",
    "Message",
    "RestartWanted",
    "SignalingPlan",
]


@attrs.frozen(kw_only=True)
class SignalingPlan:
    """What the channel does to messages; seconds and shares."""

    delay: float = 0.040
    jitter: float = 0.0
    duplication: float = 0.0
    #: Share of messages that take up to a second longer.
    reordering: float = 0.0
    #: Whether messages of an earlier session come first.
    retained: bool = False


@attrs.frozen(kw_only=True)
class Description:
    """An offer or answer: one side's ICE parameters and the candidates so far."""

    is_offer: bool
    #: Counts restarts, the same in an offer and its answer.
    generation: int
    ufrag: str
    pwd: str
    candidates: tuple[str, ...] = ()
    ended: bool = False
    trickle: bool = True
    pacing: float | None = None


@attrs.frozen
class CandidateSaid:
    """A trickled candidate."""

    line: str
    ufrag: str


@attrs.frozen
class CandidatesEndedSaid:
    """The last one was said."""

    ufrag: str


@attrs.frozen
class RestartWanted:
    """The answering side asks for an offer that restarts ICE."""

    generation: int


Message: TypeAlias = Description | CandidateSaid | CandidatesEndedSaid | RestartWanted


class Mailbox:
    """One direction of a session's signaling.

    Args:
        clock: Of the simulation.
        plan: What happens to messages.
        seed: Of the channel's luck.
        deliver: Gets each message in order, and once more, with True, where it is repeated.

    Attributes:
        sent: All messages so far.
    """

    def __init__(self, clock: Clock, plan: SignalingPlan, seed: int, deliver: Callable[[Message, bool], None]) -> None:
        self.sent: list[Message] = []
        self._clock = clock
        self._plan = plan
        self._dice = random.Random(seed)
        self._deliver = deliver
        self._expected = 0
        self._early: dict[int, Message] = {}

    def send(self, message: Message) -> None:
        """Say something."""
        number = len(self.sent)
        self.sent.append(message)
        plan, dice = self._plan, self._dice
        copies = 2 if plan.duplication and dice.random() < plan.duplication else 1
        for _ in range(copies):
            delay = plan.delay + dice.random() * plan.jitter
            if plan.reordering and dice.random() < plan.reordering:
                delay += dice.random()
            self._clock.after(delay, lambda: self._arrive(number, message))

    def send_old(self, message: Message) -> None:
        """Let a message arrive that some earlier session left behind."""
        self._clock.after(2 * self._dice.random(), lambda: self._deliver(message, True))

    def _arrive(self, number: int, message: Message) -> None:
        if number < self._expected:
            self._deliver(message, True)
            return
        self._early[number] = message
        while (following := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            self._deliver(following, False)
