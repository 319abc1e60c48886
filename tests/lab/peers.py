"""Who meets edgeice in which network: aioice, aiortc and Chromium, in both roles, behind real NATs.

    python tests/lab/peers.py [--json] [--peers PATTERN] [--settings PATTERN]

A line per peer, setting and role: what way there is by the topology, then both ends' pairs (edgeice's first), the way
that data took in both directions, and the milliseconds from when both ends are up until both could send.  aioice is ICE
alone; with the others it is until the data channel is open at both ends.  An exclamation mark stands behind a way that
is not the best one, and behind ends that are not on the same pair.

Ends with `--json` with one object: of all meetings (`met`) how many `connected`, in how many there was a direct way
(`direct_possible`) and in how many it was taken (`direct`), and in how many both ends were on the same pair
(`ends_agree`).

Needs root, coturn, nftables and Chromium.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.lab.lab import missing_for_routers
from tests.lab.matrix import Found
from tests.lab.meeting import End, meet
from tests.lab.nat import APDM_APDF, EIM_APDF, EIM_EIF, Egress
from tests.lab.rows import Place, Row, Together, direct_possible
from tests.lab.stage import staged
from tests.support.chromium import BROWSER
from tests.support.coturn import COTURN

__all__ = ["CASES", "SETTINGS", "Case", "Setting", "found_in"]

_PATIENCE = 40.0


@attrs.frozen
class Setting:
    """Where edgeice and its peer are."""

    own: Place
    other: Place
    #: Kinds of TURN server that both know, as of `Coturn.ice_servers`; a STUN server always is there.
    turn: tuple[str, ...] = ()
    together: Together = Together.NOTHING
    #: The peer is a browser that hides its addresses behind `.local` names, and edgeice looks them up or does not.
    hidden: bool = False
    look_up: bool = False
    #: The peer is not told edgeice's candidates: it waits to be found.
    untold: bool = False


_SITE, _SYMMETRIC, _NO_UDP = Place((EIM_APDF,)), Place((APDM_APDF,)), Place((EIM_EIF,), Egress.NO_UDP)
_LAN = Setting(_SITE, _SITE, ("udp",), Together.SITE)

SETTINGS: dict[str, Setting] = {
    "lan": _LAN,
    "lan-names-looked-up": attrs.evolve(_LAN, hidden=True, look_up=True),
    "lan-names-alone": attrs.evolve(_LAN, hidden=True, look_up=True, untold=True),
    "lan-names-unknown": attrs.evolve(_LAN, hidden=True),
    "port-restricted": Setting(_SITE, _SITE),
    "port-restricted+udp": Setting(_SITE, _SITE, ("udp",)),
    "symmetric+udp": Setting(_SYMMETRIC, _SYMMETRIC, ("udp",)),
    "edgeice-no-udp+tcp": Setting(_NO_UDP, _SITE, ("tcp",)),
    "peer-no-udp+tcp": Setting(_SITE, _NO_UDP, ("tcp",)),
    "no-udp+tcp": Setting(_NO_UDP, _NO_UDP, ("tcp",)),
}


@attrs.frozen
class Case:
    """One meeting."""

    peer: str
    setting: str
    #: Of edgeice: `offer` or `answer`.
    role: str

    @property
    def row(self) -> Row:
        """The topology, offerer here."""
        setting = SETTINGS[self.setting]
        places = (setting.own, setting.other) if self.role == "offer" else (setting.other, setting.own)
        return Row(self.setting, *places, turn=setting.turn, together=setting.together)

    @property
    def has_to_be_direct(self) -> bool:
        """There is a direct way, and who chooses takes it: aioice nominates whatever pair works first."""
        return direct_possible(self.row) and (self.role == "offer" or self.peer == "chromium" or not self.row.turn)

    @property
    def missing(self) -> str | None:
        """What it needs that is not here."""
        return "needs chromium" if self.peer == "chromium" and BROWSER is None else None

    def __str__(self) -> str:
        return f"{self.peer}-{self.setting}-{self.role}"


CASES = [
    Case(peer, name, role)
    for peer in ("aioice", "aiortc", "chromium")
    for name, setting in SETTINGS.items()
    for role in ("offer", "answer")
    if peer == "chromium" or not setting.hidden
]


async def found_in(case: Case, folder: Path) -> tuple[Found, End, End]:
    """Let edgeice and a peer meet; gives what they found, edgeice's end and the peer's.

    Args:
        case: Whom and where.
        folder: For the server's files.
    """
    setting, row = SETTINGS[case.setting], case.row
    with staged(row, folder) as stage:
        meeting = await meet(
            stage.hosts,
            ("edgeice", case.peer) if case.role == "offer" else (case.peer, "edgeice"),
            ice_servers=stage.turn.ice_servers("stun", *row.turn),
            ice_only=case.peer == "aioice",
            hidden=setting.hidden,
            look_up=setting.look_up,
            untold=case.peer if setting.untold else "",
            patience=_PATIENCE,
        )
        own, other = meeting.ends if case.role == "offer" else meeting.ends[::-1]
        return Found(meeting, stage.is_direct(meeting), stage.ends_agree(meeting)), own, other


async def _line(case: Case) -> tuple[str, Found]:
    with tempfile.TemporaryDirectory(prefix="edgeice-lab-") as folder:
        found, own, other = await found_in(case, Path(folder))
    best = "direct" if direct_possible(case.row) else "relay"
    pairs = " ".join(f"{'-' if end.pair is None else str(end.pair):<13}" for end in (own, other))
    wrong = " " if found.way == best else "!"
    apart = "!" if found.meeting.is_connected and not found.ends_agree else " "
    seconds = found.meeting.seconds
    taken = "-" if seconds is None else f"{seconds * 1000:.0f}"
    start = f"{case.peer:<9} {case.setting:<20} {case.role:<7} {best:<7}"
    return f"{start} {pairs}{apart} {found.way:<6}{wrong} {taken:>6}", found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    for what in ("peers", "settings"):
        parser.add_argument(f"--{what}", metavar="PATTERN", default="*", help="those that match, as the shell would")
    options = parser.parse_args()
    missing = missing_for_routers() or (None if COTURN else "needs coturn") or (None if BROWSER else "needs chromium")
    if missing:
        raise SystemExit(f"peers.py: {missing}")
    chosen = (options.peers, options.settings)
    cases = [case for case in CASES if all(map(fnmatch.fnmatchcase, (case.peer, case.setting), chosen))]
    if not cases:
        raise SystemExit(f"peers.py: nothing matches {' '.join(map(repr, chosen))}")
    print(f"{'peer':<9} {'setting':<20} {'edgeice':<7} {'best':<7} {'edgeice':<13} {'peer':<13}  {'way':<6}  {'ms':>6}")
    results: list[tuple[Case, Found]] = []
    for case in cases:
        line, found = trio.run(_line, case)
        print(line, flush=True)
        results.append((case, found))
    connected = [found for _, found in results if found.meeting.is_connected]
    tally = {
        "met": len(results),
        "connected": len(connected),
        "direct_possible": sum(direct_possible(case.row) for case, _ in results),
        "direct": sum(found.is_direct for found in connected),
        "ends_agree": sum(found.ends_agree for found in connected),
    }
    print(" ".join(f"{name} {count}" for name, count in tally.items()))
    if options.json:
        print(json.dumps(tally))


if __name__ == "__main__":
    main()
