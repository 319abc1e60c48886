"""When an end restarts ICE: the product's own `RestartPolicy`, driven in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

from edgeice.addresses import Base, Path
from edgeice.peer import PathChanged
from edgeice.transport.restarts import ORDER_WAIT, Outlook, RestartPolicy

__all__ = ["PATIENCE", "Recovered", "Recovery"]

#: Seconds without a path after which a session is given up.
PATIENCE: Final = 600.0
#: By how much the two ends' restarts for good order are apart, seconds.
_ORDER_APART: Final = 1.5


class Recovered(Protocol):
    """The session, as its recovery sees it."""

    path: PathChanged

    @property
    def bases(self) -> tuple[Base, ...]:
        """This host's addresses."""

    @property
    def knows_mobility(self) -> bool:
        """Both ends move by themselves."""


class Recovery:
    """Keeps the path of one end.

    Args:
        session: Whose path it is.
        restart: Offers a restart.
        give_up: Called when there was no path for so long that the session ends.
        order_apart: This end is the second one to restart for good order.
    """

    def __init__(
        self, session: Recovered, restart: Callable[[], None], give_up: Callable[[], None], *, order_apart: bool
    ) -> None:
        self.policy = RestartPolicy(
            order_wait=ORDER_WAIT + (_ORDER_APART if order_apart else 0.0), controlling=not order_apart
        )
        self._session = session
        self._restart = restart
        self._give_up = give_up
        self._begun = False
        self._path: Path | None = None
        self._lost_at: float | None = None

    def path_changed(self, event: PathChanged, now: float) -> None:
        """Data goes another way."""
        self.look(now)
        if event.path != self._path:
            self._path = event.path
            self.policy.moved(event.cause, now=now)
        if event.nominated and not self._begun:
            self._begun = True
            self.policy.began()

    def look(self, now: float) -> None:
        """See what the session rests on."""
        session = self._session
        path = session.path
        if path.path is not None:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = now
        self.policy.look(
            Outlook(
                path=path.path,
                fading=path.fading,
                interface=path.interface,
                rtt=path.rtt,
                bases=session.bases,
                mobility=session.knows_mobility,
            ),
            now=now,
        )

    def act(self, now: float) -> None:
        """Do what is due."""
        if self._lost_at is not None and now >= self._lost_at + PATIENCE:
            self._give_up()
        elif self.policy.need(now=now) is not None and self.policy.next_at(now=now) <= now:
            self.policy.take(now=now)
            self.policy.offered(now=now)
            self._restart()

    def next_at(self, now: float) -> float:
        """When something is due."""
        return min(self.policy.next_at(now=now), math.inf if self._lost_at is None else self._lost_at + PATIENCE)
