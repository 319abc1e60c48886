"""What a person is told of a device that does not take a session."""

from __future__ import annotations

import pytest

from edgeice.operator.errors import RefusedError, UnreachableError
from edgeice.operator.explain import explain, warning
from edgeice.signaling import DeviceBusy, NothingHeard, OperatorFailed
from edgeice.signaling.documents import Limits
from tests.unit.signaling.kit import DEVICE, make_info

FULL = make_info(limits=Limits(sessions=8, active=8))
FREE = make_info(limits=Limits(sessions=8, active=7))


def test_silence_of_a_device_whose_sessions_are_all_in_use_is_not_laid_to_the_key() -> None:
    failed = explain(OperatorFailed("no-answer"), DEVICE, "SHA256:abc", FULL)
    assert str(failed) == "pi17 did not answer, and said last that all of its 8 sessions are in use"
    assert failed.exit_code == 3
    heard = warning(NothingHeard("SHA256:abc"), DEVICE, FULL)
    assert heard == "nothing heard for 5 s: pi17 said last that all of its 8 sessions are in use; waiting"
    for info in (FREE, None):
        assert "may not know your key SHA256:abc" in str(
            explain(OperatorFailed("no-answer"), DEVICE, "SHA256:abc", info)
        )
        assert "may not know your key SHA256:abc" in warning(NothingHeard("SHA256:abc"), DEVICE, info)


@pytest.mark.parametrize(("code", "kind"), [("busy", UnreachableError), ("unauthorized", RefusedError)])
def test_what_the_device_says_is_passed_on(code: str, kind: type[Exception]) -> None:
    error = explain(OperatorFailed("rejected", code, "why"), DEVICE, "SHA256:abc", FREE)
    assert (type(error), str(error)) == (kind, f"pi17 refused: {code}: why")


def test_a_busy_device_is_said_to_be_asked_again() -> None:
    assert warning(DeviceBusy("why", 1.0), DEVICE, FREE) == "pi17 is busy: why; trying again"
