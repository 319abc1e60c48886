"""`edgeice-agent check`: what it lets pass, `run` can serve with and operators can reach."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edgeice.cli.agent_main import main
from tests.agent.kit import WARNED_OF_ROOT, Device, Operator, environment
from tests.support.brokers import Authority
from tests.support.namespace import fresh_network_namespace, ip

PLAIN, TLS = "mqtt://127.0.0.1:1", "mqtts://127.0.0.1:1"


class Check:
    """`edgeice-agent check` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, device: Device, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["check", *arguments, "--config", str(device.config)])
        assert isinstance(ended.value.code, int)
        return ended.value.code, *self._capsys.readouterr()


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    return Check(capsys)


def edit(device: Device, old: str, new: str) -> None:
    text = device.config.read_text()
    assert old in text
    device.config.write_text(text.replace(old, new))


def labels(number: int, size: int) -> str:
    return "[labels]\n" + "".join(f'l{index} = "{"x" * size}"\n' for index in range(number))


def test_a_good_configuration_says_what_it_would_do_and_touches_nothing(tmp_path: Path, check: Check) -> None:
    device, operator = Device(tmp_path / "pi", PLAIN), Operator(tmp_path / "alice", PLAIN)
    device.trust(operator)
    before = sorted(device.folder.iterdir())
    code, said, wrong = check(device, "--json")
    assert (code, wrong) == (0, "")
    facts = json.loads(said)
    assert facts["key"] == device.key.fingerprint
    assert facts["operators"] == [
        {"operator": "alice", "key": operator.key.fingerprint, "can": ["shell", "exec"]},
    ]
    assert facts["warnings"] == WARNED_OF_ROOT
    assert facts["runs_as"] == pwd.getpwuid(os.geteuid()).pw_name
    assert sorted(device.folder.iterdir()) == before
    assert check(device)[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[ice]", '[ice]\nstun = ["nonsense"]', "ice.stun[0]: expected stun:HOST[:PORT], not 'nonsense'"),
        ('["127.0.0.1"]', '["banana"]', "ice.loopback[0]: expected a loopback address"),
        ("will_delay", 'root = "a/b/c"\nwill_delay', "broker.root: expected one or two levels"),
        ("will_delay", 'root = "a//b"\nwill_delay', "broker.root: expected one or two levels"),
        ("will_delay", 'username = "a\\u0000b"\nwill_delay', "broker.username: expected"),
        (PLAIN, "mqtts://bro ker", "should be mqtts://HOST[:PORT]"),
        ("[ice]", '[services]\nuser = ""\n[ice]', "services.user: expected the name of a user, not ''"),
        ("[ice]", '[services]\nuser = "a\\u0000b"\n[ice]', "services.user: expected the name of a user"),
        ("[ice]", "[services]\nuser = 1000\n[ice]", "services.user: expected text, not 1000"),
        ("[ice]", '[services]\nuser = "no-such"\n[ice]', "services.user: this device has no user 'no-such'; `getent"),
        ('[labels]\nsite = "roof"\n', labels(150, 250), "labels: expected at most 64, not 150"),
        ('[labels]\nsite = "roof"\n', labels(65, 1), "labels: expected at most 64, not 65"),
        ("roof", "x" * 257, "labels.site: expected at most 256 printable characters"),
        ("roof", "a\\nb", "labels.site: expected at most 256 printable characters"),
        ("site", f'"{"x" * 65}"', "labels: expected names of 1 to 64 printable characters"),
        ("site", '""', "labels: expected names of 1 to 64 printable characters"),
        (
            '[labels]\nsite = "roof"\n',
            labels(64, 256).replace("x", "ü"),
            "labels: expected at most 22528 bytes as JSON, not ",
        ),
    ],
)
def test_what_run_or_operators_would_stumble_over(tmp_path: Path, check: Check, old: str, new: str, said: str) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    edit(device, old, new)
    code, output, wrong = check(device)
    assert (code, output) == (2, "")
    assert wrong.startswith(f"edgeice-agent: {device.config}: ")
    assert said in wrong
    assert len(wrong.splitlines()) == 1


def test_the_most_and_longest_labels_reach_operators(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    most = "[labels]\n" + "".join(f'{index:x>64} = "{"y" * 256}"\n' for index in range(64))
    edit(device, '[labels]\nsite = "roof"\n', most)
    assert check(device)[0] == 0


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_authorities_that_cannot_be_used(tmp_path: Path, check: Check, content: str | None) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    code, output, wrong = check(Device(tmp_path / "pi", TLS, ca=ca))
    assert (code, output) == (2, "")
    assert wrong.startswith(f"edgeice-agent: {ca}: ")
    assert len(wrong.splitlines()) == 1


def test_authorities_that_can_be_used(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", TLS, ca=Authority.create(tmp_path / "ca").cafile)
    assert check(device)[0] == 0


@pytest.mark.parametrize("name", ["state", "socket"])
@pytest.mark.parametrize("place", ["file/below", "/proc/self/below", "/dev/null"])
def test_places_that_cannot_be_written(tmp_path: Path, check: Check, name: str, place: str) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    (device.folder / "file").touch()
    edit(device, "[broker]", f'{name} = "{place}"\n[broker]')
    code, output, wrong = check(device)
    assert (code, output) == (2, "")
    assert wrong.startswith(f"edgeice-agent: {device.folder / place}")
    assert len(wrong.splitlines()) == 1


def test_a_state_folder_that_does_not_exist_yet_is_no_fault(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    edit(device, "[broker]", 'state = "a/b/c"\n[broker]')
    assert check(device)[0] == 0
    assert not (device.folder / "a").exists()


def test_a_trust_file_that_others_may_write(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    device.trust(Operator(tmp_path / "alice", PLAIN))
    path = device.folder / "authorized_operators"
    path.chmod(0o666)
    code, output, wrong = check(device)
    assert (code, output) == (2, "")
    said = f"{path}: others may write whom the device trusts (mode 0666); run: chmod go-w {path}"
    assert wrong == f"edgeice-agent: {said}\n"


@pytest.mark.parametrize(
    ("services", "user", "warned"),
    [
        ('user = "root"', "root", False),
        ('user = "nobody"', "nobody", False),
        ("shell = false", "root", True),
        ("shell = false\nexec = false", "root", False),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as other users")
def test_whom_processes_run_as(tmp_path: Path, check: Check, services: str, user: str, warned: bool) -> None:
    device = Device(tmp_path / "pi", PLAIN, extra=f"[services]\n{services}\n")
    device.trust(Operator(tmp_path / "alice", PLAIN))
    code, said, wrong = check(device, "--json")
    assert (code, wrong) == (0, "")
    facts = json.loads(said)
    assert facts["runs_as"] == user
    assert facts["warnings"] == (WARNED_OF_ROOT if warned else [])
    assert not {"user", "root", "nobody"} & set(facts["services"])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv(1)")
def test_an_agent_that_may_not_run_processes_as_that_user(tmp_path: Path, command: str) -> None:
    device = Device(tmp_path / "pi", PLAIN, extra='[services]\nuser = "nobody"\n')
    done = subprocess.run(
        ["setpriv", "--bounding-set=-kill,-setuid", *device.command(command)],
        capture_output=True,
        check=False,
        env=environment(),
    )
    said = "services.user: the agent runs as root and may not run processes as nobody: give it CAP_KILL, CAP_SETUID"
    assert (done.returncode, done.stderr.decode()) == (2, f"edgeice-agent: {device.config}: {said}\n")


def test_it_says_which_interfaces_are_left_out_and_why(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    assert "interfaces = false" in device.config.read_text()
    edit(device, "interfaces = false", "interfaces = true\nonly = ['no-such*']\npublic = {'10.9.9.9' = '198.51.100.9'}")
    code, said, _ = check(device, "--json")
    facts = json.loads(said)
    assert (code, facts["addresses"]) == (0, ["127.0.0.1"])
    assert {"interface": "lo", "address": "", "why": "loopback: reaches only this host"} in facts["left_out"]
    assert {each["interface"] for each in facts["left_out"]} == {name for _, name in socket.if_nameindex()}
    others = [each["why"] for each in facts["left_out"] if each["interface"] != "lo"]
    assert set(others) <= {"is none of those that alone are to be used"}
    assert "ice.public: 10.9.9.9 is no address that is used at present" in facts["warnings"]
    lines = check(device)[1].splitlines()
    assert "left_out   interface=lo why=loopback: reaches only this host" in lines


@pytest.mark.root
def test_it_says_what_links_are_and_which_are_paid_for(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    edit(device, "interfaces = false", "interfaces = true\nonly = ['eth0', 'usb0']\nlinks.cellular = ['usb*']")
    with fresh_network_namespace():
        for number, name in enumerate(("eth0", "usb0")):
            ip(*f"link add {name} type veth peer name far{number}".split())
            for end in (name, f"far{number}"):
                ip(*f"link set {end} up".split())
            ip(*f"addr add 192.0.{number}.7/24 dev {name}".split())
        code, said, _ = check(device, "--json")
        lines = check(device)[1].splitlines()
    facts = json.loads(said)
    assert (code, facts["addresses"]) == (0, ["127.0.0.1", "192.0.0.7", "192.0.1.7"])
    assert facts["links"] == [
        {"interface": "eth0", "link": "other", "metered": False},
        {"interface": "usb0", "link": "cellular", "metered": True},
    ]
    assert "links      interface=eth0 link=other" in lines
    assert "links      interface=usb0 link=cellular metered=True" in lines


def test_a_device_that_has_no_address_to_use_is_warned(tmp_path: Path, check: Check) -> None:
    device = Device(tmp_path / "pi", PLAIN)
    edit(device, '["127.0.0.1"]', "[]")
    facts = json.loads(check(device, "--json")[1])
    assert facts["addresses"] == facts["left_out"] == []
    assert "no address of this device is used at present; left_out says why" in facts["warnings"]
