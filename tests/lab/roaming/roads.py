"""What brought a stream back after a fault, by what the operator's session and the device's agent traced."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Entry", "browsers_road", "moved_at", "read_moves", "read_trace", "road_of"]

Entry = Mapping[str, Any]

#: Seconds by which a path is said late at most.
_LATE = 0.25


def read_trace(file: Path) -> list[Entry]:
    """The entries of an operator's trace, the oldest first."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_moves(file: Path) -> list[Entry]:
    """The entries of an agent's trace that tell of allocations that moved, with the monotonic time of each."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    began = entries[0]
    offset = began["time"] - began["at"] - time.time() + time.monotonic()
    moves = [entry for entry in entries if (entry["layer"], entry["name"]) == ("endpoint", "RelayMoved")]
    return [{**entry, "monotonic": entry["at"] + offset} for entry in moves]


def road_of(entries: Sequence[Entry], moves: Sequence[Entry], struck_at: float, back_at: float) -> str:
    """What brought the stream back that was harmed at one moment and was back at another, by the monotonic clock.

    - `same`: nothing; the path is what it was.
    - `relay_ticket`: a pair that was valid already, and the allocation behind it moved.
    - `backup`: a pair that was valid already when the fault came.
    - `candidates`: a pair that became valid only after the fault, by the credentials of before.
    - `restart_broker`, `restart_channel`: a pair of an ICE restart whose offer or answer came that way first.
    """
    earlier = [entry for entry in entries if entry["monotonic"] <= struck_at]
    # What comes on the next path may be there before the path is said.
    said_by = min(max(back_at, moved_at(entries, struck_at) or 0.0), back_at + _LATE)
    until = [entry for entry in entries if entry["monotonic"] <= said_by]
    path, valid_before = _path(until), _valid(earlier)
    newest_before = max((generation for generation, _pair in valid_before), default=0)
    generation = max((generation for generation, pair in _valid(until) if pair == path), default=newest_before)
    if _cause(until, struck_at, path) not in ("", "restart"):
        generation = newest_before  # a restart that may have begun meanwhile found the same pair
    if generation > newest_before:
        return f"restart_{_way(until, struck_at, (generation, path))}"
    if (generation, path) not in valid_before:
        return "candidates"
    relays = [each["relayed"] for each in moves if struck_at < each["monotonic"] <= said_by]
    if any(relay in path.split("->") for relay in relays):
        return "relay_ticket"
    return "same" if path == _path(earlier) else "backup"


def browsers_road(events: Iterable[Entry], struck_at: float, back_at: float) -> str:
    """The same for a browser, by what its page says: it tells of a session's pairs, and nothing of their past.

    `restart_broker` and `restart_channel` where an offer or answer came since, `moved` where it took another pair all
    by itself, and `same`.
    """
    until = [event for event in events if event["monotonic"] <= back_at]
    restarted = _way(until, struck_at, None)
    if restarted != "unknown":
        return f"restart_{restarted}"
    return "moved" if any(event["name"] == "pair" and event["monotonic"] > struck_at for event in until) else "same"


def moved_at(entries: Sequence[Entry], struck_at: float) -> float | None:
    """When the session first said another path than at the fault; None if it never did."""
    before = _path(entry for entry in entries if entry["monotonic"] <= struck_at)
    later = (entry for entry in entries if entry["monotonic"] > struck_at)
    return next((entry["monotonic"] for entry in later if _path([entry]) not in ("", before)), None)


def _path(entries: Iterable[Entry]) -> str:
    """The pair that the session said last that it sends on, `LOCAL->REMOTE`."""
    told = ""
    for entry in entries:
        if (entry["layer"], entry["name"]) == ("ice", "moved"):
            told = entry["path"]
        elif (entry["layer"], entry["name"]) == ("session", "path"):
            words = entry["text"].split()
            # TYPE LOCAL -> TYPE REMOTE, with what more there is to say of it
            told = f"{words[1]}->{words[4].rstrip(',')}" if len(words) >= 5 and words[2] == "->" else told
    return told


def _cause(entries: Iterable[Entry], struck_at: float, path: str) -> str:
    """Why the session moved to a pair after the fault, empty where it does not say."""
    moves = [entry for entry in entries if entry["name"] == "moved" and entry["monotonic"] > struck_at]
    return next((str(entry["cause"]) for entry in reversed(moves) if entry["path"] == path), "")


def _valid(entries: Iterable[Entry]) -> set[tuple[int, str]]:
    """The pairs whose checks have succeeded, with their generations."""
    valid: set[tuple[int, str]] = set()
    for entry in entries:
        if (pair := _pair(entry)) is None:
            continue
        if entry.get("state") == "succeeded":
            valid.add(pair)
        elif "state" in entry or entry["name"] == "pair_dropped":
            valid.discard(pair)
    return valid


def _pair(entry: Entry) -> tuple[int, str] | None:
    """The pair that an entry says something new of, with its generation."""
    is_one = entry["layer"] == "ice" and entry["name"] in ("pair_formed", "pair_changed", "pair_dropped")
    return (entry["generation"], entry["path"]) if is_one else None


def _way(entries: Iterable[Entry], struck_at: float, pair: tuple[int, str] | None) -> str:
    """The road of the offer or answer that came last, before a pair was valid if one is given, by its first copy."""
    seen: set[tuple[str, int]] = set()
    way = "unknown"
    for entry in entries:
        if pair is not None and _pair(entry) == pair and entry.get("state") == "succeeded":
            break
        if entry["name"] != "heard" or entry["t"] not in ("offer", "answer"):
            continue
        message = entry["t"], entry["gen"]
        if message not in seen and entry["monotonic"] > struck_at:
            way = entry["road"]
        seen.add(message)
    return way
