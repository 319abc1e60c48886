"""Who else may read or write the files that decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.errors import ConfigError
from edgeice.files import read_secret, read_trusted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("line\n")
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_secrets_for_the_owner_alone_are_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_secret(file, "a secret") == b"line\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601])
def test_secrets_that_others_may_reach_are_refused_with_the_command_to_run(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secret(file, "a secret")
    assert str(caught.value) == f"{file}: others may read a secret (mode {mode:04o}); run: chmod 600 {file}"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444])
def test_trust_that_others_may_read_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_trusted(file, "trust") == "line\n"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o602])
def test_trust_that_others_may_write_is_refused_with_the_command_to_run(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_trusted(file, "trust")
    assert str(caught.value) == f"{file}: others may write trust (mode {mode:04o}); run: chmod go-w {file}"


def test_no_file_trusts_nobody_and_what_is_no_text_names_its_line(file: Path, tmp_path: Path) -> None:
    assert read_trusted(tmp_path / "none", "trust") == ""
    file.write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(ConfigError, match=r"file:3: not UTF-8 text"):
        read_trusted(file, "trust")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_trusted(tmp_path, "trust")
    file.write_bytes(b"#" * (1 << 20))
    assert len(read_trusted(file, "trust")) == 1 << 20
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="longer than 1048576 bytes"):
        read_trusted(file, "trust")
