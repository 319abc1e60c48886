"""README's steps from nothing to a device that operators reach, as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeice.cli.agent_main import main
from edgeice.cli.agent_parser import parsers
from edgeice.cli.commands import cli
from tests.agent.kit import WARNED_OF_ROOT

README = (Path(__file__).parents[2] / "README.md").read_text()
(SECTION,) = re.findall(r"^## On a Raspberry Pi, in five commands\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
OPERATOR, DEVICE = (
    [shlex.split(line) for line in block.splitlines()] for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is both machines': the operator's home, and where the device's commands are typed."""
    for name in ("EDGEICE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_step_works_with_what_the_ones_before_it_left(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program, *arguments), (scp, source, target) = OPERATOR
    assert (program, scp) == ("edgeice", "scp")
    made = CliRunner().invoke(cli, arguments)
    assert (made.exit_code, made.stderr) == (0, "")
    shutil.copy(Path(source).expanduser(), target.partition(":")[2])

    assert len(DEVICE) == 5
    install, *steps, run = DEVICE
    assert install[0:3] == ["python3", "-m", "venv"]
    said = ""
    for program, *words in steps:
        assert program == "/opt/edgeice/bin/edgeice-agent"
        with pytest.raises(SystemExit) as ended:
            main([word.replace("/etc/", f"{machines}/etc/") for word in words])
        said, wrong = capsys.readouterr()
        assert (ended.value.code, wrong) == (0, "")
    assert [step[1] for step in steps] == ["init", "trust", "check"]
    (fingerprint,) = re.findall("SHA256:.*", made.stdout)
    assert f"operators  operator=alice key={fingerprint} can=shell,exec" in said.splitlines()
    warnings = [line.removeprefix("warnings").strip() for line in said.splitlines() if line.startswith("warnings")]
    assert warnings == WARNED_OF_ROOT
    assert parsers()[0].parse_args(run[1:]).config == Path("/etc/edgeice/agent.toml")
