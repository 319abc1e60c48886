"""What brought a stream back after a fault, by what the operator's session traced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Entry", "read_trace", "road_of"]

Entry = Mapping[str, Any]


def read_trace(file: Path) -> list[Entry]:
    """The entries of a trace, the oldest first."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def road_of(entries: Sequence[Entry], struck_at: float, back_at: float) -> str:
    """What brought the stream back that was harmed at one moment and was back at another, by the monotonic clock.

    - `same`: nothing; the path is what it was.
    - `relay_ticket`: the path is what it was, and the allocation behind it moved.
    - `backup`: a pair that was valid already when the fault came.
    - `candidates`: a pair that became valid only after the fault, by the credentials of before.
    - `restart_broker`, `restart_channel`: a pair of an ICE restart whose offer or answer came that way first.
    """
    until = [entry for entry in entries if entry["monotonic"] <= back_at]
    earlier = [entry for entry in until if entry["monotonic"] <= struck_at]
    path, valid_before = _path(until), _valid(earlier)
    newest_before = max((generation for generation, _pair in valid_before), default=0)
    generation = max((generation for generation, pair in _valid(until) if pair == path), default=newest_before)
    if generation > newest_before:
        # What comes by the session's own channel once the new path is there did not bring it.
        found = next(number for number in range(len(until)) if (generation, path) in _valid(until[: number + 1]))
        return f"restart_{_way(until[:found], struck_at)}"
    if path == _path(earlier):
        return "relay_ticket" if _moved(until, struck_at) else "same"
    return "backup" if (generation, path) in valid_before else "candidates"


def _path(entries: Iterable[Entry]) -> str:
    """The pair that the session said last that it sends on, `LOCAL->REMOTE`."""
    told = ""
    for entry in entries:
        if (entry["layer"], entry["name"]) == ("session", "path"):
            words = entry["text"].split()
            # TYPE LOCAL -> TYPE REMOTE, with what more there is to say of it
            told = f"{words[1]}->{words[4].rstrip(',')}" if len(words) >= 5 and words[2] == "->" else told
    return told


def _valid(entries: Iterable[Entry]) -> set[tuple[int, str]]:
    """The pairs whose checks have succeeded, with their generations."""
    valid: set[tuple[int, str]] = set()
    for entry in entries:
        if entry["layer"] != "ice" or not entry["name"].startswith("pair_") or "generation" not in entry:
            continue
        pair = entry["generation"], entry["path"]
        if entry.get("state") == "succeeded":
            valid.add(pair)
        elif "state" in entry or entry["name"] == "pair_dropped":
            valid.discard(pair)
    return valid


def _way(entries: Iterable[Entry], struck_at: float) -> str:
    """The road of the offer or answer that came last, by its first copy."""
    seen: set[tuple[str, int]] = set()
    way = "unknown"
    for entry in entries:
        if entry["name"] != "heard" or entry["t"] not in ("offer", "answer"):
            continue
        message = entry["t"], entry["gen"]
        if message not in seen and entry["monotonic"] > struck_at:
            way = entry["road"]
        seen.add(message)
    return way


def _moved(entries: Iterable[Entry], struck_at: float) -> bool:
    """Whether an allocation moved since the fault."""
    return any(entry["name"] == "RelayMoved" and entry["monotonic"] > struck_at for entry in entries)
