"""Links that come and go for a long time under a session, and what the agent has more of afterwards."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import attrs
import trio

from tests.lab.roaming.moves import Mover
from tests.lab.roaming.rounds import Found, Streaming, judge
from tests.lab.roaming.stage import Setting, Stage, staged

__all__ = ["Flapped", "Reading", "flap"]

#: Flaps before the agent is read first: by then all code that they need is loaded, and its tables have grown.
WARM_UP = 50
#: Seconds after the last flap until all is as it was before them: links that flap are not used at once.
CALM = 75.0
_PATIENCE = 120.0
_POLL = 0.5


@attrs.frozen
class Reading:
    """What an agent takes of its device."""

    rss_mib: float
    descriptors: int
    tasks: int

    @classmethod
    def take(cls, stage: Stage) -> Reading:
        """What there is now."""
        status = trio.run(stage.agent.status)
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{stage.agent.pid}/status").read_text().splitlines())
        rss = int(fields["VmRSS"].split()[0]) / 1024
        return cls(rss, len(stage.agent.descriptors()), status["tasks"])


@attrs.frozen
class Flapped:
    """How it went."""

    before: Reading
    after: Reading
    stream: Found
    #: Seconds from the first flap that counts to the last.
    seconds: float


def flap(count: int, *, seed: int, keep: Path | None = None) -> Flapped:
    """Let uplinks of a device flap under a session, 5 to 15 times a second, while a stream is returned.

    Args:
        count: How often.
        seed: Which of them, how, and how long each time.
        keep: Folder for logs and traces, which is made; None to keep nothing.
    """
    with tempfile.TemporaryDirectory(prefix="edgeice-flaps-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        setting = Setting(device=("wlan0", "wwan0", "eth0"))
        with staged(setting, folder) as stage, Streaming(stage, folder / "operator.trace") as streaming:
            streaming.line()
            mover = Mover(stage, seed)
            _flap(mover, WARM_UP)
            time.sleep(CALM)
            before, begun = Reading.take(stage), time.monotonic()
            _flap(mover, count)
            ended = time.monotonic()
            after = _read_calm(stage, before)
            struck_at = time.monotonic()
            report = streaming.end(struck_at=struck_at, until=struck_at, patience=_PATIENCE)
            return Flapped(before, after, judge(report, struck_at), ended - begun)


def _flap(mover: Mover, count: int) -> None:
    for _ in range(count):
        mover.flap()
        mover.pause(0.01, 0.15)


def _read_calm(stage: Stage, before: Reading) -> Reading:
    """The reading when all has calmed down, as soon as descriptors and tasks are back."""
    deadline = time.monotonic() + CALM
    while True:
        found = Reading.take(stage)
        back = found.descriptors <= before.descriptors and found.tasks <= before.tasks
        if time.monotonic() > deadline or (back and time.monotonic() > deadline - CALM / 2):
            return found
        time.sleep(_POLL)
