"""A session lives on when the network under it changes, whatever changes, and not a byte is lost or comes twice."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest
import trio

from tests.agent.kit import environment
from tests.lab.lab import missing_for_routers
from tests.lab.roaming.faults import FAULTS, NONE, Fault
from tests.lab.roaming.flaps import flap
from tests.lab.roaming.moves import Mover
from tests.lab.roaming.rounds import run_round
from tests.lab.roaming.stage import Setting, Stage, staged
from tests.support.brokers import MOSQUITTO
from tests.support.coturn import COTURN
from tests.support.sshd import SSHD, sshd_sync

_NEEDS = [name for name, program in {"mosquitto": MOSQUITTO, "coturn": COTURN}.items() if program is None]
_MISSING = missing_for_routers() or (f"needs {', '.join(_NEEDS)}" if _NEEDS else None)

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

#: What may bring a session back, by the fault; an allocation that moves in time is a backup too.
_KEPT, _OFFERED = {"backup", "relay_ticket"}, {"restart_broker", "restart_channel"}
_ROADS = {
    **dict.fromkeys(("carrier_loss", "admin_down", "address_removed", "address_changed"), _KEPT),
    **dict.fromkeys(("broker_down_carrier_loss", "blackhole", "wan_renumbered", "nat_rebooted"), _KEPT),
    "relay_restarted": _OFFERED | {"candidates"},
    "both_move": _KEPT | {"candidates"},
    "better_link": {"candidates"},
    "cold_carrier_loss": _OFFERED | {"candidates", "relay_ticket"},
}
#: One of each kind; the others are among the long tests.
_SHORT = {"carrier_loss", "blackhole", "cold_carrier_loss"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in _SHORT else pytest.mark.long) for name in FAULTS]
)
def test_a_session_survives(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    # A better link has to last for a while before it is taken.
    found = run_round(fault, keep=tmp_path / "kept", rest=2.5, after=6.0 if fault.gentle else 1.0)
    assert found.gap is not None, found
    assert (found.lost, found.duplicated, found.equal) == (0, 0, True), found
    assert found.road in _ROADS[name], found


def test_a_session_on_which_nothing_is_done_is_only_watched(tmp_path: Path) -> None:
    found = run_round(NONE, rest=1.0, after=0.5)
    assert (found.lost, found.duplicated, found.equal, found.road) == (0, 0, True, "same"), found


@pytest.mark.long
def test_a_session_waits_while_there_is_no_network_and_goes_on_when_there_is(tmp_path: Path) -> None:
    def leave_all(stage: Stage) -> None:
        for name in ("wlan0", "wwan0"):
            stage.device.uplinks[name].unplug()
        stage.agent.wait_log_sync("^no-network ")
        time.sleep(10)
        stage.device.uplinks["wwan0"].plug()
        stage.agent.wait_log_sync("^network-back ")

    found = run_round(Fault(leave_all), keep=tmp_path / "kept")
    assert found.gap is not None, found
    assert found.gap > 10
    assert (found.lost, found.duplicated, found.equal) == (0, 0, True), found


@pytest.mark.long
@pytest.mark.skipif(SSHD is None or shutil.which("scp") is None, reason="sshd or scp is not installed")
async def test_scp_survives_twenty_moves(tmp_path: Path) -> None:
    """100 MiB by `edgeice proxy`, at 24 Mbit/s so that it takes long enough to be moved."""
    port, source = 2222, tmp_path / "source"
    dice = random.Random(20)
    with source.open("wb") as file:
        for _ in range(100):
            file.write(dice.randbytes(1 << 20))
    for name in ("stage", "ssh"):
        (tmp_path / name).mkdir()
    setting = Setting(device=("wlan0", "wwan0", "eth0"))
    with staged(setting, tmp_path / "stage", can=f"forward:localhost:{port}") as stage:
        operator = environment(stage.config.parent)
        with sshd_sync(tmp_path / "ssh", operator, port, place=stage.device.command) as sshd:
            copied = tmp_path / "copied"
            command = ["scp", *sshd.options, "-l", "24000", str(source), f"pi.edgeice:{copied}"]
            moved: list[str] = []

            def move() -> None:
                mover = Mover(stage, 20)
                while not (copied.exists() and copied.stat().st_size > 1 << 20):
                    mover.pause(0.1, 0.1)
                for _ in range(20):
                    mover.pause(0.5, 2.0)
                    moved.append(mover.move())
                mover.settle()

            with trio.fail_after(300):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.to_thread.run_sync, move)
                    done = await trio.run_process(
                        stage.operator.command(*command),
                        stdin=b"",
                        capture_stdout=True,
                        capture_stderr=True,
                        check=False,
                        env=sshd.environment,
                    )
                    moves_by_then = len(moved)
            assert done.returncode == 0, (moved, done.stderr.decode())
            assert moves_by_then == 20
            assert _digest(copied) == _digest(source)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.long
def test_a_thousand_flaps_leave_nothing_behind(tmp_path: Path) -> None:
    found = flap(1000, seed=1, keep=tmp_path / "kept")
    stream = found.stream
    assert stream.gap is not None, found
    assert (stream.lost, stream.duplicated, stream.equal) == (0, 0, True), found
    assert found.after.descriptors <= found.before.descriptors, found
    assert found.after.tasks <= found.before.tasks, found
    # 2 MiB were measured; each flap may leave less than a descriptor or a task would take.
    assert found.after.rss_mib <= found.before.rss_mib + 4, found
