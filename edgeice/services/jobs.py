"""Tasks that carry one channel together: where one of them fails, all end, for one reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from edgeice.errors import DecodeError
from edgeice.services.control import ServiceError, malformed

__all__ = ["Jobs"]


class Jobs:
    """The first failure of a channel's jobs, which ends the others and is raised once, not as a group.

    Args:
        failures: What may end a job besides what every channel may raise.
    """

    def __init__(self, *failures: type[Exception]) -> None:
        self._failures: tuple[type[Exception], ...] = (
            *(ServiceError, trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError),
            *failures,
        )
        #: Holds the nursery of the jobs.
        self.scope = trio.CancelScope()
        #: What ended them, to be raised outside of the scope; None where nothing failed.
        self.failure: Exception | None = None

    async def run(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job; a message that cannot be decoded fails it with ServiceError `malformed`."""
        try:
            await job()
        except DecodeError as error:
            self.failure = self.failure or malformed(error)
        except self._failures as error:
            self.failure = self.failure or error
        else:
            return
        self.scope.cancel()
