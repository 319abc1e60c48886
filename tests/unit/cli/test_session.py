"""What `edgeice session` needs in another folder than that where it was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.cli.session import _rooted
from edgeice.operator.config import load_config

_TEXT = """
fleet = "home"
operator = "alice"
[broker]
url = "mqtts://localhost"
"""


def test_paths_mean_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "operator.toml").write_text(_TEXT + 'ca = "ca.pem"\npassword_file = "/secret"\n')
    config = _rooted(load_config(Path("operator.toml")))
    assert (config.key, config.known_devices) == (tmp_path / "operator.key", tmp_path / "known_devices")
    assert (config.broker.ca, config.broker.password_file) == (tmp_path / "ca.pem", Path("/secret"))
    (tmp_path / "operator.toml").write_text(_TEXT)
    broker = _rooted(load_config(Path("operator.toml"))).broker
    assert (broker.ca, broker.password_file) == (None, None)
