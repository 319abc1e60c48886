from __future__ import annotations

import datetime as dt

import pytest

from edgeice.errors import ConfigError
from edgeice.signaling import AuthorizedOperators, KeyVerdict, KnownDevices, OperatorLine, Party, check_capability
from edgeice.signaling.capabilities import covers, first_uncovered
from tests.unit.signaling.kit import ALICE_KEY, DEVICE, DEVICE_KEY, MALLORY_KEY

A_LINE = ALICE_KEY.public.openssh()
D_LINE = DEVICE_KEY.public.openssh()
M_LINE = MALLORY_KEY.public.openssh()

KNOWN = f"# my devices\n\nlab/d/pi17 {D_LINE}\n  lab/d/pi18   {M_LINE} a comment\n"


def test_pins_are_read() -> None:
    known = KnownDevices(KNOWN, source="known_devices")
    assert known.judge(DEVICE, DEVICE_KEY.public) is KeyVerdict.MATCHES
    assert known.judge(DEVICE, MALLORY_KEY.public) is KeyVerdict.CHANGED
    assert known.judge(Party.device("lab", "other"), DEVICE_KEY.public) is KeyVerdict.UNKNOWN
    assert known.judge(Party.device("other", "pi17"), DEVICE_KEY.public) is KeyVerdict.UNKNOWN
    assert len(known) == 2
    assert known.get(Party.device("lab", "pi18")) == MALLORY_KEY.public


def test_pinning_changes_one_line_and_keeps_the_rest() -> None:
    known = KnownDevices(KNOWN, source="known_devices")
    known.pin(DEVICE, ALICE_KEY.public)
    known.pin(Party.device("lab", "new"), DEVICE_KEY.public)
    expected = KNOWN.replace(D_LINE, A_LINE) + f"lab/d/new {D_LINE}\n"
    assert known.text() == expected
    again = KnownDevices(expected, source="known_devices")
    assert again.judge(DEVICE, ALICE_KEY.public) is KeyVerdict.MATCHES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\npi17 ssh-ed25519 AAAA", "f:2: 'pi17' is no device"),
        (f"lab/o/alice {A_LINE}", "f:1: lab/o/alice is no device"),
        ("lab/d/pi17", "f:1: expected a line"),
        ("lab/d/pi17 ssh-ed25519 AAAA", "f:1: the ssh-ed25519 key is cut off"),
        (f"lab/d/a {A_LINE}\nlab/d/a {D_LINE}", "f:2: lab/d/a stands in line 1 already"),
    ],
)
def test_broken_pins_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KnownDevices(text, source="f")


def test_operator_lines_are_read() -> None:
    line = OperatorLine.parse(
        f'operator="alice",can="shell,forward:127.0.0.1:22",expires="2027-01-01" {A_LINE} alice@desk', where="f:1"
    )
    assert line.operator == "alice"
    assert line.key == ALICE_KEY.public
    assert line.can == ("shell", "forward:127.0.0.1:22")
    assert line.expires == int(dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp())
    assert line.comment == "alice@desk"
    assert OperatorLine.parse(line.format(), where="f:1") == line


def test_without_can_nothing_is_allowed() -> None:
    line = OperatorLine.parse(f'operator="alice" {A_LINE}', where="f:1")
    assert line.can == ()
    assert OperatorLine.parse(f'operator="alice",can="" {A_LINE}', where="f:1") == line
    assert line.format() == f'operator="alice" {A_LINE}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (A_LINE, 'the option operator="NAME" is missing'),
        (f'can="shell" {A_LINE}', 'the option operator="NAME" is missing'),
        (f'operator="alice",no-pty="1" {A_LINE}', "unknown option 'no-pty'; known are operator, can, expires"),
        (f'operator="alice",Can="shell" {A_LINE}', "unknown option 'Can'"),
        (f'operator="alice",no-pty {A_LINE}', "expected options like"),
        (f"operator=alice {A_LINE}", "expected options like"),
        (f'operator="alice",operator="bob" {A_LINE}', "operator stands twice"),
        (f'operator="a/b" {A_LINE}', "operator 'a/b': 1 to 64"),
        (f'operator="alice"{A_LINE}', "a space and the key are expected"),
        (f'operator="alice", can="shell" {A_LINE}', "expected options like"),
        (f'operator="alice",can="fly" {A_LINE}', "unknown capability 'fly'"),
        (f'operator="alice",can="*" {A_LINE}', "unknown capability '\\*'"),
        (f'operator="alice",expires="soon" {A_LINE}', "expires='soon' is no date"),
        (f'operator="alice",expires="20270101" {A_LINE}', "is no date"),
        (f'operator="alice",expires="2027-W01-1" {A_LINE}', "is no date"),
        (f'operator="alice",expires="2027-02-30" {A_LINE}', "is no date"),
        ('operator="alice" ssh-rsa AAAA', "found 'ssh-rsa'"),
        ('operator="alice" ', "a space and the key are expected"),
        ('operator="' + "x" * 9000, "longer than"),
    ],
)
def test_broken_operator_lines_are_refused_alone(line: str, message: str) -> None:
    text = f'# trust\noperator="bob" {D_LINE}\n{line}\noperator="carol" {M_LINE}\n'
    trust = AuthorizedOperators.parse(text, source="f")
    assert [each.operator for each in trust.lines] == ["bob", "carol"]
    assert len(trust.refused) == 1
    with pytest.raises(ConfigError, match=f"f:3: .*{message}"):
        raise trust.refused[0]


def test_several_lines_may_name_one_key() -> None:
    text = f'operator="alice",can="shell" {A_LINE}\noperator="alice",can="exec" {A_LINE}\noperator="bob" {A_LINE}\n'
    trust = AuthorizedOperators.parse(text, source="f")
    kid = ALICE_KEY.public.kid
    assert trust.key(kid) == ALICE_KEY.public
    assert trust.key(MALLORY_KEY.public.kid) is None
    assert [line.can for line in trust.lines_for(kid, "alice")] == [("shell",), ("exec",)]
    assert [line.can for line in trust.lines_for(kid, "bob")] == [()]
    assert trust.lines_for(kid, "carol") == ()


@pytest.mark.parametrize(
    "text",
    [
        "shell",
        "exec",
        "audit",
        "admin",
        "forward:127.0.0.1:22",
        "forward:*:*",
        "forward:*:80",
        "forward:db.local:*",
        "forward:[::1]:22",
        "files:read:/var/log/*.log",
        "files:write:/tmp/**",
        "telemetry:cpu",
        "telemetry:*",
        "video:front",
    ],
)
def test_capabilities_of_the_grammar(text: str) -> None:
    assert check_capability(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "Shell",
        "shell:x",
        "exec:",
        "forward",
        "forward:22",
        "forward::22",
        "forward:a:0",
        "forward:a:65536",
        "forward:a:022",
        "forward:a:x",
        "forward:::1:22",
        "forward:[x]:22",
        "forward:[fe80::1%eth0]:22x",
        "forward:a b:22",
        "files:/etc",
        "files:exec:/etc",
        "files:read:",
        "telemetry:",
        "video:",
        "video:a b",
    ],
)
def test_capabilities_outside_the_grammar(text: str) -> None:
    with pytest.raises(ConfigError):
        check_capability(text)


@pytest.mark.parametrize(
    ("capability", "want", "covered"),
    [
        ("shell", "shell", True),
        ("shell", "exec", False),
        ("admin", "shell", False),
        ("forward:127.0.0.1:22", "forward:127.0.0.1:22", True),
        ("forward:127.0.0.1:22", "forward:127.0.0.1:23", False),
        ("forward:*:22", "forward:10.0.0.1:22", True),
        ("forward:*:22", "forward:[::1]:22", True),
        ("forward:*:22", "forward:10.0.0.1:23", False),
        ("forward:*:*", "forward:a:1", True),
        ("forward:a:*", "forward:a:1", True),
        ("forward:a:*", "forward:b:1", False),
        # A want with a star wants everything, so only a star covers it.
        ("forward:a:1", "forward:*:1", False),
        ("forward:*:1", "forward:*:1", True),
        ("forward:*:*", "forward:nonsense", False),
        ("forward:*:*", "forward", False),
        ("forward:*:*", "shell", False),
        ("telemetry:*", "telemetry:cpu", True),
        ("telemetry:*", "telemetry:", False),
        ("telemetry:*", "video:cpu", False),
        ("telemetry:cpu", "telemetry:*", False),
        ("files:read:/var/*", "files:read:/var/*", True),
        ("files:read:/var/*", "files:read:/var/log", False),
        ("files:read:*", "files:read:/etc/shadow", False),
        ("video:*", "video:front", False),
    ],
)
def test_what_covers_a_want(capability: str, want: str, covered: bool) -> None:
    assert covers(check_capability(capability), want) is covered


def test_the_first_want_that_is_not_covered_is_named() -> None:
    assert first_uncovered(["shell", "exec"], ["exec", "shell"]) is None
    assert first_uncovered(["shell"], ["shell", "exec", "audit"]) == "exec"
    assert first_uncovered([], []) is None
