"""What a device keeps in memory while it waits: the packages that the agent has imported once it is announced."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata

import pytest

from tests.agent.kit import AgentProcess, Device
from tests.support.brokers import MOSQUITTO, mosquitto_sync

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

# Runs `edgeice-agent` as where only the given distributions are installed, and writes at the end what was imported.
_AGENT = """
import atexit, sys
absent, to, before = set({absent!r}), {to!r}, set(sys.modules)  # site has its own
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
from edgeice.cli.agent_main import main
@atexit.register
def dump():
    with open(to, "w") as file:
        file.write(repr(sorted(set(sys.modules) - before)))
main(sys.argv[1:])
"""

#: What comes with the packages that the device asks for.
PACKAGES = {
    "attr",
    "attrs",
    "cryptography",
    "idna",
    "outcome",
    "paho",
    "sniffio",
    "sortedcontainers",
    "trio",
}
#: Compiled parts and, with some versions of the packages, what they need on older Pythons.
MAY_COME = {"_cffi_backend", "_openssl", "typing_extensions"}
#: More modules than there are, by as few as come with another version of a package or of Python.
MOST_MODULES = 375
#: Large parts of the standard library that nothing here needs.
HEAVY = {"argparse", "asyncio", "concurrent", "gettext", "multiprocessing", "pydoc", "sqlite3", "unittest", "xml"}

#: edgeice's own rooms; neither operator nor any command but the agent's.
ROOMS = {
    "addresses", "agent", "cli", "dtls", "errors", "files", "ice", "late", "local_socket", "net", "peer", "sansio",
    "sctp", "sdp", "services", "settings", "signaling", "stun", "text", "trace", "transport",
}  # fmt: skip

#: What only sessions need, by the modules that bring the rest of it; their packages stand there empty.
SESSION = {
    "edgeice.dtls.connection", "edgeice.ice.session", "edgeice.peer.connection", "edgeice.sctp.association",
    "edgeice.sdp.parser", "edgeice.stun.message",
}  # fmt: skip


def device_distributions() -> set[str]:
    """What `pip install edgeice` installs, without extras."""
    found: set[str] = set()
    left = ["edgeice"]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # its marker leaves it out here
        left += [match[0] for each in requirements if "extra ==" not in each and (match := re.match(r"[\w.-]+", each))]
    return found


def absent_modules() -> list[str]:
    """Top-level names of what is installed here and would not be on a device."""
    present = device_distributions()
    return sorted(
        name
        for name, owners in metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & present
    )


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of an agent that was announced."""
    folder = tmp_path_factory.mktemp("idle")
    to = folder / "modules"

    class Lean(Device):
        def command(self, *arguments: str) -> list[str]:
            code = _AGENT.format(absent=absent_modules(), to=str(to))
            return [sys.executable, "-c", code, *arguments, "--config", str(self.config)]

    with (
        mosquitto_sync(folder) as broker,
        AgentProcess(Lean(folder / "pi", f"mqtt://127.0.0.1:{broker.port}")) as agent,
    ):
        agent.wait_log_sync("^announced ")
    return set(ast.literal_eval(to.read_text()))


def test_packages_at_idle(idle: set[str]) -> None:
    top = {name.partition(".")[0] for name in idle} - set(sys.stdlib_module_names)
    outside = {name for name in top if name != "edgeice"}
    assert outside - MAY_COME == PACKAGES


def test_rooms_at_idle(idle: set[str]) -> None:
    assert {name.split(".")[1] for name in idle if name.startswith("edgeice.")} == ROOMS
    assert {name for name in idle if name.startswith("edgeice.cli.")} == {
        "edgeice.cli.agent_main",
        "edgeice.cli.groups",
    }


def test_what_a_service_needs_is_imported_when_it_is_opened(idle: set[str]) -> None:
    assert {name for name in idle if name.startswith("edgeice.services.telemetry.")} == set()
    assert not {"edgeice.services.kept", "edgeice.services.idle"} & idle


def test_nothing_heavy_at_idle(idle: set[str]) -> None:
    assert not HEAVY & {name.partition(".")[0] for name in idle}


def test_nothing_of_sessions_at_idle(idle: set[str]) -> None:
    assert not SESSION & idle


def test_few_modules_at_idle(idle: set[str]) -> None:
    assert len(idle) <= MOST_MODULES, len(idle)
