"""The roads of a session's signaling in virtual time: a broker that two hosts reach while they have a network.

A broker repeats what it has taken until it arrives, late, twice and out of order; what nobody could fetch by its
expiry is gone, as is a share of all, for what happens to brokers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs

from tests.sim.network import Clock

__all__ = ["Broker", "BrokerPlan"]

#: Seconds after which a host without a network tries again.
_RETRY: Final = 0.25


@attrs.frozen(kw_only=True)
class BrokerPlan:
    """What happens to messages; seconds and shares."""

    delay: float = 0.040
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    #: Share of messages that take up to a second longer.
    reordering: float = 0.0


class Broker:
    """Carries messages between hosts.

    Args:
        clock: Of the simulation.
        plan: What happens to messages.
        seed: Of its luck.
        reaches: Whether a host has a network at present.

    Attributes:
        down: Nobody reaches it.
        loses: Whether messages get lost; candidates of a first offer are not said again.
    """

    def __init__(self, clock: Clock, plan: BrokerPlan, seed: int, reaches: Callable[[str], bool]) -> None:
        self.down = False
        self.loses = False
        self._clock = clock
        self._plan = plan
        self._dice = random.Random(seed)
        self._reaches = reaches

    def publish(self, sender: str, receiver: str, expiry: float, deliver: Callable[[], None]) -> None:
        """Let a host send a message to another one."""
        self._take(sender, receiver, self._clock.now + expiry, deliver)

    def _take(self, sender: str, receiver: str, until: float, deliver: Callable[[], None]) -> None:
        if self.down or not self._reaches(sender):
            self._again(until, lambda: self._take(sender, receiver, until, deliver))
            return
        plan, dice = self._plan, self._dice
        if self.loses and dice.random() < plan.loss:
            return
        for _ in range(2 if plan.duplication and dice.random() < plan.duplication else 1):
            delay = plan.delay + dice.random() * plan.jitter
            if plan.reordering and dice.random() < plan.reordering:
                delay += dice.random()
            self._clock.after(delay, lambda: self._give(receiver, until, deliver))

    def _give(self, receiver: str, until: float, deliver: Callable[[], None]) -> None:
        if self.down or not self._reaches(receiver):
            self._again(until, lambda: self._give(receiver, until, deliver))
        else:
            deliver()

    def _again(self, until: float, call: Callable[[], None]) -> None:
        if self._clock.now + _RETRY < until:
            self._clock.after(_RETRY, call)
