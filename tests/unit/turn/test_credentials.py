"""Credentials of TURN: prepared, derived, and never shown (TURN REST API §2.2, RFC 8489 §9.2.2)."""

import json
from pathlib import Path

import pytest

from edgeice.errors import ConfigError
from edgeice.turn import TurnCredentials, rest_credentials

REST = json.loads((Path(__file__).parents[2] / "vectors" / "turn" / "rest.json").read_text())


@pytest.mark.parametrize("row", REST["credentials"], ids=lambda row: row["username"])
def test_turn_36_credentials_from_a_shared_secret(row: dict[str, str]) -> None:
    credentials = rest_credentials(REST["secret"], expires_at=int(row["expires_at"]), user=row["user"])
    assert (credentials.username, credentials.password) == (row["username"], row["password"])


def test_turn_36_the_user_may_be_left_out() -> None:
    assert rest_credentials("north", expires_at=1767225600).username == "1767225600"


@pytest.mark.parametrize(
    ("username", "expires_at"),
    [
        ("1767225600:dev-7", 1767225600),
        ("1767225600", 1767225600),
        ("1767225600:a:b", 1767225600),
        ("dev-7", None),
        ("17x:dev-7", None),
        (":dev-7", None),
        ("٣٣:dev-7", None),
        ("1234567890123:dev-7", None),
    ],
)
def test_turn_37_the_user_name_says_until_when_allocations_can_be_opened(username: str, expires_at: int | None) -> None:
    assert TurnCredentials(username, "north").expires_at == expires_at


def test_the_password_is_never_shown() -> None:
    credentials = TurnCredentials("dev-7", "north")
    assert "north" not in repr(credentials)
    assert "dev-7" in repr(credentials)


def test_stun_47_text_is_prepared_as_opaque_string() -> None:
    credentials = TurnCredentials("dev\u30007", "cafe\u0301")
    assert (credentials.username, credentials.password) == ("dev 7", "caf\u00e9")


@pytest.mark.parametrize("text", ["", "a\0b", "a\nb", "\ud800", "\ue000", "\u0378", "x" * 509, "\u00e9" * 255])
@pytest.mark.parametrize("which", ["username", "password"])
def test_stun_47_text_that_cannot_be_a_credential(which: str, text: str) -> None:
    arguments = {"username": "dev-7", "password": "north", which: text}
    with pytest.raises(ConfigError) as caught:
        TurnCredentials(**arguments)
    assert which in str(caught.value)
    assert text not in str(caught.value) or not text


def test_stun_13_508_bytes_are_sent() -> None:
    assert len(TurnCredentials("x" * 508, "north").username) == 508
