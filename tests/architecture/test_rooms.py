"""The import rules of the house, checked on the source text (import-linter checks the transitive ones)."""

from __future__ import annotations

import ast
import re
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
INTEROP = ROOT / "tests" / "interop"
# What stands opposite edgeice in tests, and what helps it: it must not share a line of code.
INDEPENDENT = sorted(
    {
        *(file for kind in ("operator", "peer") for file in INTEROP.glob(f"{kind}_*.py")),
        ROOT / "tests" / "support" / "chromium.py",
    }
    - {INTEROP / "peer_edgeice.py"}
)
# What the device imports from outside, wherever the import stands; and what it looks for and works without: a CRC32c
# in hardware, and what opens encrypted keys.
DEVICE_NEEDS = {"OpenSSL", "attrs", "cryptography", "paho", "trio"}
DEVICE_MAY_HAVE = {"bcrypt", "crc32c", "google_crc32c"}


def modules(path: Path) -> Iterator[str]:
    """Every module name that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def names_imported(path: Path) -> Iterator[str]:
    """The same with the names of `from MODULE import NAME`, which may be modules too."""
    yield from modules(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def source_of(name: str) -> Path | None:
    """The file of a module in this repository."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def reachable(*starts: Path) -> set[Path]:
    """Files in this repository that running these ones can ever import, packages on the way included."""
    found: set[Path] = set()
    left = list(starts)
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        for name in names_imported(path):
            parts = name.split(".")
            sources = (source_of(".".join(parts[:count])) for count in range(1, len(parts) + 1))
            left += [source for source in sources if source is not None]
    return found


def imported_from_outside(files: set[Path]) -> set[str]:
    """Top-level names that files import and that are neither of the standard library nor of edgeice."""
    names = {name.split(".")[0] for file in files for name in modules(file)}
    return names - set(sys.stdlib_module_names) - {"edgeice"}


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


def test_the_device_imports_nothing_that_only_operators_need() -> None:
    files = reachable(PACKAGE / "cli" / "agent_main.py")
    assert PACKAGE / "agent" / "service.py" in files
    assert not [file for file in files if PACKAGE / "operator" in file.parents]
    assert imported_from_outside(files) - DEVICE_MAY_HAVE == DEVICE_NEEDS


def test_a_lazy_import_of_click_would_be_seen() -> None:
    main = PACKAGE / "cli" / "main.py"  # it imports all else inside its function
    assert "click" in imported_from_outside(reachable(main)) - imported_from_outside({main})


def test_the_independent_peers_are_known() -> None:
    names = {path.name for path in INDEPENDENT}
    assert names == {"operator_aiortc.py", "peer_aioice.py", "peer_aiortc.py", "peer_chromium.py", "chromium.py"}


@pytest.mark.parametrize("path", INDEPENDENT, ids=lambda path: path.name)
def test_independent_peers_import_nothing_from_edgeice(path: Path) -> None:
    files = reachable(path)
    assert not [file for file in files if PACKAGE in file.parents]
    dynamic = re.compile(r"\b(import_module|__import__|runpy|exec|eval)\s*\(")
    assert not [file for file in files if dynamic.search(file.read_text())]


def test_the_browser_runs_only_its_own_scripts_and_mqtt_js() -> None:
    pages = INTEROP / "browser"
    scripts = {
        source
        for page in pages.glob("*.html")
        for source in re.findall(r'<script[^>]*\bsrc="([^"]*)"', page.read_text())
    }
    assert scripts == {"node_modules/mqtt/dist/mqtt.min.js", "operator.js", "adapter.js", "stream.js"}
    for script in pages.glob("*.js"):
        assert not re.search(
            r"^\s*import\b|\bimport\s*\(|\bimportScripts\b|\brequire\s*\(", script.read_text(), re.MULTILINE
        )


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
