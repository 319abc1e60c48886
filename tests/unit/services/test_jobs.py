"""Tasks of which the first failure ends all."""

from __future__ import annotations

import pytest
import trio

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.services import ErrorCode, ServiceError
from edgeice.services.jobs import Jobs


async def run(jobs: Jobs, *raised: Exception) -> list[str]:
    """Run jobs of which each but the first, which waits, raises; returns what became of the first."""
    found = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            found.append("ended")

    async def fail(error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with jobs.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.run, wait)
            await trio.testing.wait_all_tasks_blocked()
            for error in raised:
                nursery.start_soon(jobs.run, lambda error=error: fail(error))
    return found


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(ErrorCode.LIMIT, "too much"),
        trio.EndOfChannel(),
        trio.BrokenResourceError(),
        trio.ClosedResourceError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_ends_the_others_and_is_kept(error: Exception) -> None:
    jobs = Jobs()
    assert await run(jobs, error) == ["ended"]
    assert jobs.failure is error


async def test_of_several_failures_one_is_kept() -> None:
    jobs = Jobs()
    errors = (trio.EndOfChannel(), trio.BrokenResourceError())
    assert await run(jobs, *errors) == ["ended"]
    assert jobs.failure in errors


async def test_what_cannot_be_decoded_is_malformed() -> None:
    jobs = Jobs()
    await run(jobs, DecodeError("control-json", "no JSON"))
    assert isinstance(jobs.failure, ServiceError)
    assert jobs.failure.code is ErrorCode.MALFORMED


async def test_failures_of_its_own_are_named() -> None:
    jobs = Jobs(ValueError)
    error = ValueError("x")
    await run(jobs, error)
    assert jobs.failure is error


@pytest.mark.parametrize("error", [ValueError("x"), LocalProtocolError("a bug")], ids=["value", "local"])
async def test_bugs_are_not_taken_for_failures(error: Exception) -> None:
    jobs = Jobs()
    with pytest.raises(ExceptionGroup) as caught:
        await run(jobs, error)
    assert caught.value.exceptions == (error,)
    assert jobs.failure is None


async def test_jobs_that_end_well_end_nothing() -> None:
    jobs = Jobs()
    with jobs.scope:
        await jobs.run(trio.lowlevel.checkpoint)
        await trio.lowlevel.checkpoint()
    assert not jobs.scope.cancelled_caught
    assert jobs.failure is None
