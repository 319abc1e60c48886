"""Shells and commands of an agent that root runs, as a user of the device's own database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from edgeice.services import EXEC_PROTOCOL, SHELL_PROTOCOL, open_exec, open_shell
from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Operator, edgeice
from tests.agent.mounts import MountedDevice, in_place_of
from tests.agent.sessions import session_with
from tests.support.device import alive
from tests.unit.services.test_shell import Screen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as other users"),
]

PASSWD = "root:x:0:0:root:/root:/bin/sh\npi:x:54321:54322::/home/pi:/bin/sh\n"
GROUP = "root:x:0:\ntty:x:5:\npi:x:54322:\ngpio:x:54323:other,pi\nspi:x:54324:other\n"


def device_of_pi(folder: Path, url: str) -> MountedDevice:
    """A device on which there is a user pi, and nobody else but root."""
    for name, text in {"passwd": PASSWD, "group": GROUP}.items():
        (folder / name).write_text(text)
    home = folder / "home"
    (home / "pi").mkdir(parents=True)
    os.chown(home / "pi", 54321, 54322)
    (home / "pi").chmod(0o700)
    return MountedDevice(
        folder / "pi",
        url,
        "ofpi",
        *(in_place_of(f"/{place}", folder / place.rpartition("/")[2]) for place in ("etc/passwd", "etc/group", "home")),
        extra='[services]\nuser = "pi"\n',
    )


async def test_commands_and_shells_are_the_users(fleet: Fleet, tmp_path: Path) -> None:
    device, operator = device_of_pi(tmp_path, fleet.url), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        script = (
            f"id; pwd; echo $HOME $USER; stat -c '%U %a' {device.folder}/device.key; cat {device.folder}/device.key"
        )
        done = await edgeice(operator, "exec", device.name, "--", "sh", "-c", script)
        who, where, variables = done.stdout.decode().splitlines()
        assert who == "uid=54321(pi) gid=54322(pi) groups=54322(pi),54323(gpio)"
        assert (where, variables) == ("/home/pi", "/home/pi pi")
        assert done.code == 1
        assert done.stderr.count("Permission denied") == 2  # the folder is closed, too

        stubborn = "trap '' TERM HUP; echo $$; sleep 99; sleep 99"
        async with session_with(device, operator, "shell", "exec") as session:
            with trio.fail_after(10):
                channel = await session.open(SHELL_PROTOCOL)
                async with open_shell(channel, "vt100", 80, 24, keep=True) as shell:
                    assert shell.user == "pi"
                    screen = Screen(shell)
                    await shell.write(b"stat -c '<%U %G %a>' $(tty); echo \"<$(id -un) $$>\"\n")
                    assert await screen.until(r"<(\w+ \w+ \d+)>\r\n") == "pi tty 620"
                    kept = (await screen.until(r"<(pi \d+)>\r\n")).split()[1]
                async with open_exec(await session.open(EXEC_PROTOCOL), ["sh", "-c", stubborn]) as command:
                    item = await command.read()
                    assert item is not None
                    ignorant = item[1].decode().strip()
                    assert alive(ignorant)
                    agent.terminate()
                    await agent.wait_exit()
                    assert not alive(ignorant)
                    assert not alive(kept)
