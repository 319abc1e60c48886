"""How forwards are written."""

from __future__ import annotations

import pytest

from edgeice.cli.targets import Forward, parse_forward, parse_target
from edgeice.errors import ConfigError
from edgeice.services import ForwardTarget


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("8080:localhost:80", Forward(None, 8080, ForwardTarget("localhost", 80))),
        (":8080:localhost:80", Forward(None, 8080, ForwardTarget("localhost", 80))),
        ("0:db.lan:5432", Forward(None, 0, ForwardTarget("db.lan", 5432))),
        ("*:8080:192.168.1.1:443", Forward("*", 8080, ForwardTarget("192.168.1.1", 443))),
        ("[::1]:8080:[fd00::20]:80", Forward("::1", 8080, ForwardTarget("fd00::20", 80))),
    ],
)
def test_forwards(text: str, forward: Forward) -> None:
    assert parse_forward(text) == forward


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("22", ForwardTarget("localhost", 22)),
        ("pi.lan:22", ForwardTarget("pi.lan", 22)),
        ("[fd00::20]:65535", ForwardTarget("fd00::20", 65535)),
    ],
)
def test_targets(text: str, target: ForwardTarget) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "٢٢", ":22", "fd00::20:22", "[fd00::20]22", "[]:22", "a" * 254 + ":22", "22:"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text)
