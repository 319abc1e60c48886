"""The import rules of the house, checked on the source text (import-linter checks the transitive ones)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgeice"
PURE = ("stun", "turn", "ice", "mdns", "dtls", "sctp", "sdp", "peer", "signaling")
BANNED = {"trio", "socket", "asyncio", "threading", "time", "secrets", "paho", "random", "os"}
# The Trio side of signaling; the only importer of paho.
MQTT = PACKAGE / "signaling" / "mqtt"


def modules(path: Path) -> Iterator[str]:
    """Every module name that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def source_files(*rooms: str) -> list[Path]:
    return sorted(file for room in rooms for file in (PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize(
    "path",
    [path for path in source_files(*PURE) if path.parent != MQTT],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_pure_rooms_import_no_io_clock_or_dice(path: Path) -> None:
    assert {name.split(".")[0] for name in modules(path)} & BANNED == set()


@pytest.mark.parametrize("path", source_files("."), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_asyncio_is_nowhere(path: Path) -> None:
    assert "asyncio" not in {name.split(".")[0] for name in modules(path)}


def test_paho_has_one_importer() -> None:
    importers = {
        path.parent for path in source_files(".") if any(name.split(".")[0] == "paho" for name in modules(path))
    }
    assert importers == {MQTT}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import edgeice; print(sorted(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert set(ast.literal_eval(out)) - {"__future__"} == {"edgeice"}


@pytest.mark.parametrize("path", source_files("."), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_list_their_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    only_docstring = len(tree.body) == 1
    assert "__all__" in names or path.name == "__main__.py" or only_docstring


def test_modules_read_in_one_sitting() -> None:
    too_long = {
        str(path.relative_to(PACKAGE)): lines
        for path in source_files(".")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert too_long == {}
