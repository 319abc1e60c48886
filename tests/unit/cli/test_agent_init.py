"""`edgeice-agent init`: what it writes, `check` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.agent.config import load_config
from edgeice.cli.agent_main import main

NAMES = ("--fleet", "home", "--device", "pi17", "--broker", "mqtts://broker.example")


class Agent:
    """`edgeice-agent` in this process, with its configuration in a folder that is not there yet."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.config = folder, folder / "agent.toml"
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(self.config)])
        assert isinstance(ended.value.code, int)
        return ended.value.code, *self._capsys.readouterr()


@pytest.fixture
def agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Agent:
    return Agent(tmp_path / "edgeice", capsys)


def test_check_accepts_what_init_wrote(agent: Agent) -> None:
    code, said, wrong = agent("init", *NAMES)
    assert (code, wrong) == (0, "")
    assert said.splitlines()[:2] == [str(agent.config), str(agent.folder / "device.key")]
    assert (agent.folder / "device.key").stat().st_mode & 0o777 == 0o600
    code, checked, wrong = agent("check")
    assert (code, wrong) == (0, "")
    assert said.splitlines()[2].removeprefix("device key ") in checked
    config = load_config(agent.config)
    assert (config.fleet, config.device, config.broker.url) == ("home", "pi17", "mqtts://broker.example")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--broker", "broker.example"), "broker 'broker.example' should be mqtts://HOST[:PORT]"),
        (("--broker", 'mqtts://x"\ny'), "should be mqtts://HOST[:PORT]"),
        (("--device", 'x"'), "device 'x\"': 1 to 64"),
        (("--fleet", ""), "fleet '': 1 to 64"),
    ],
)
def test_after_a_mistake_the_corrected_command_works(agent: Agent, changed: tuple[str, str], said: str) -> None:
    code, output, wrong = agent("init", *NAMES, *changed)
    assert (code, output) == (2, "")
    assert said in wrong
    assert not agent.folder.exists()
    assert agent("init", *NAMES)[0] == 0


def test_a_key_that_is_there_is_kept_and_one_that_cannot_be_used_is_told_of_first(agent: Agent) -> None:
    assert agent("init", *NAMES)[0] == 0
    key = agent.folder / "device.key"
    before = key.read_bytes()
    agent.config.unlink()
    key.chmod(0o644)
    code, _said, wrong = agent("init", *NAMES)
    assert (code, agent.config.exists()) == (2, False)
    assert "others may read the device's key" in wrong
    key.chmod(0o600)
    assert agent("init", *NAMES)[0] == 0
    assert key.read_bytes() == before
