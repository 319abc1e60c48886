from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.agent.config import load_config
from edgeice.errors import ConfigError

MINIMAL = """
fleet = "home"
device = "pi17"
[broker]
url = "mqtts://broker.example"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_minimal_configuration_has_defaults_beside_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert (config.fleet, config.device) == ("home", "pi17")
    assert config.key == tmp_path / "device.key"
    assert config.state == tmp_path / "state"
    assert config.broker.keepalive == 60
    assert config.broker.root == "edgeice/1"


def test_telemetrys_socket_is_beside_the_other_one(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'socket = "/run/edgeice/agent.sock"\n' + MINIMAL))
    assert config.telemetry_socket == Path("/run/edgeice/telemetry.sock")
    assert config.telemetry.mounts == (Path("/"),)
    config = load_config(write(tmp_path, MINIMAL + '[telemetry]\nsocket = "t.sock"\nmounts = ["/data"]\n'))
    assert config.telemetry_socket == tmp_path / "t.sock"
    assert config.telemetry.mounts == (Path("/data"),)


def test_relative_paths_start_at_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'key = "keys/d"\nstate = "/var/lib/edgeice"\n' + MINIMAL))
    assert config.key == tmp_path / "keys" / "d"
    assert config.state == Path("/var/lib/edgeice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devise = 1\n" + MINIMAL, "unknown key devise; did you mean device?"),
        (MINIMAL + "urll = 1", "unknown key broker.urll; did you mean broker.url?"),
        (MINIMAL + "[limits]\nsesions = 3", "unknown key limits.sesions; did you mean limits.sessions?"),
        (MINIMAL + "[trace]\nsize = 0", "trace: 'size' must be in range(1, 1025)"),
        (MINIMAL + '[trace]\nredact = "yes"', "trace.redact: expected true or false, not 'yes'"),
        (MINIMAL + "[trace]\nfile = 1", "trace.file: expected a path, not 1"),
        (MINIMAL + '[trace]\npath = "x"', "unknown key trace.path; known here: file, redact, size"),
        (
            MINIMAL + "[limits]\nzzz = 3",
            (
                "unknown key limits.zzz; known here: channel_idle_time, channel_time, channels, idle_time,"
                " kept_shells, kept_shells_per_operator, kept_time, lost_time, processes, session_time, sessions"
            ),
        ),
        (MINIMAL + "keepalive = '60'", "broker.keepalive: expected a whole number, not '60'"),
        (MINIMAL + "keepalive = true", "broker.keepalive: expected a whole number, not True"),
        (MINIMAL + "[ice]\nstun = 'x'", "ice.stun: expected a list, each text, not 'x'"),
        (MINIMAL + "[ice]\nstun = [1]", "ice.stun[0]: expected text, not 1"),
        (
            MINIMAL + "[log]\nlevel = 'loud'",
            "log.level: expected one of 'debug', 'info', 'warning', 'error', not 'loud'",
        ),
        (MINIMAL + "[telemetry]\nsocket = 3", "telemetry.socket: expected a path, not 3"),
        (MINIMAL + "[telemetry]\nmounts = '/'", "telemetry.mounts: expected a list, each a path, not '/'"),
        (MINIMAL + "[telemetry]\nmount = []", "unknown key telemetry.mount; did you mean telemetry.mounts?"),
        (
            MINIMAL + f"[telemetry]\nmounts = {['/x'] * 17}",
            "telemetry.mounts: expected at most 16 mount points, not 17",
        ),
        (
            MINIMAL + "[telemetry]\nsocket = 'agent.sock'",
            "telemetry.socket: expected another path than that of socket",
        ),
        (MINIMAL + "[services]\ntelemetry = 1", "services.telemetry: expected true or false, not 1"),
        (MINIMAL + "[labels]\nroom = 3", "labels.room: expected text, not 3"),
        (MINIMAL + "[limits]\nsessions = 0", "limits: 'sessions' must be in range(1, 257)"),
        (MINIMAL + "[limits]\nchannel_time = -1", "limits: 'channel_time' must be in range(0, 604807)"),
        (
            MINIMAL + "[limits]\nchannel_idle_time = 301\nchannel_time = 300",
            "limits.channel_idle_time: expected at most 300, the channel_time, not 301",
        ),
        (
            MINIMAL + "[limits]\nchannel_time = 301\nsession_time = 300",
            "limits.channel_time: expected at most 300, the session_time, not 301",
        ),
        (MINIMAL.replace("pi17", "pi/17"), "'device' must match regex"),
        ('fleet = "x"\ndevice = "x"\nbroker = 3', "broker: expected a table, not 3"),
        ('device = "x"\n[broker]\nurl = "x"', "fleet is missing; expected text"),
        ('fleet = "x"\ndevice = "x"', "broker is missing; expected a table"),
        ("fleet = ", "not valid TOML: Invalid value (at line 1, the last)"),
        ('fleet = "x"\nfleet = "y"', "at line 2, the last"),
        ("x = " + "[" * 5000, "not valid TOML: nested too deeply"),
        ("x = " + "9" * 5000, "not valid TOML: a number has too many digits"),
        ('key = "a\\u0000b"\n' + MINIMAL, "key: expected a path, not 'a\\x00b'"),
    ],
)
def test_bad_configuration_names_file_key_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `edgeice-agent init` writes one"):
        load_config(tmp_path / "agent.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_a_trace_is_beside_the_file_and_none_by_default(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL)).trace.file is None
    config = load_config(write(tmp_path, MINIMAL + '[trace]\nfile = "trace.jsonl"\nredact = true\nsize = 1\n'))
    assert (config.trace.file, config.trace.redact, config.trace.size) == (tmp_path / "trace.jsonl", True, 1)
