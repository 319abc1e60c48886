"""The verdict on a session in a person's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from edgeice.text import duration, printable

__all__ = ["verdict_lines"]

_Verdict = Mapping[str, Any]

#: States of pairs that checks may still make valid.
_OPEN: Final = frozenset({"frozen", "waiting", "in_progress"})
#: Lines of one kind that a person is shown.
_SHOWN: Final = 12

#: Why ICE found no path.
_FINDINGS: Final = {
    "no_local_candidates": "no address of this computer could be used",
    "no_remote_candidates": "the device told no address",
    "no_pairs": "no address here and none of the device's are of the same kind",
    "silence": "nothing came from the device on any path",
    "one_way": "checks of the device came, but no answer to one from here: something lets them through one way only",
    "checks_failed": "the device answered, but on no path as it has to",
    "nomination": "a path worked, and the device did not take it",
}
_POLICIES: Final = {
    "no-host": "the device is told no address of this computer's own (policy in [ice] says no-host)",
    "relay": "only relayed addresses are used here (policy in [ice] says relay)",
}
_RESULTS: Final = {
    "refused": "no answer, and a host on the way says that there is none",
    "asymmetric": "answered from another address",
    "malformed": "answered with what cannot be understood",
    "consent_expired": "worked, then there was no answer for 30 s",
    "consent_revoked": "worked, then the device let go of it",
}
#: What became of restarts.
_OUTCOMES: Final = {
    "unanswered": "nobody answered",
    "refused": "the device refused it",
    "failed": "no path was found",
}
_CREDENTIALS: Final = "does not take the user name and password: they are wrong, or have expired"
_ANSWERS: Final = {
    "asked": "no answer so far",
    "timeout": "no answer",
    "malformed": "answered with what cannot be understood",
    "name_unknown": "its name cannot be looked up",
    "error_401": _CREDENTIALS,
    "unauthorized": _CREDENTIALS,
    "wrong_credentials": _CREDENTIALS,
    "stale_nonce": "keeps refusing what it asked for a moment before",
    "forbidden": "does not allow it",
    "quota": "this user has as many relayed addresses as it may have",
    "capacity": "has no room now",
    "redirect_loop": "sends from server to server in a circle",
    "redirect_unproven": "sends to another server without proof that it may",
    "transport": "the connection to it broke",
    "server_error": "has an error of its own",
}
_ERRORS: Final = {
    "ENETUNREACH": "the network cannot be reached",
    "EHOSTUNREACH": "no way there",
    "EACCES": "not allowed here",
    "EPERM": "a firewall here does not allow it",
    "ENOBUFS": "more than the interface takes",
    "ENODEV": "the interface is gone",
    "EADDRNOTAVAIL": "the address is gone",
}


def verdict_lines(verdict: _Verdict) -> Iterator[str]:
    """What was tried and what came of it, a line each.

    Args:
        verdict: See `edgeice.peer.verdict`; what it lacks is left out.
    """
    if why := _FINDINGS.get(str(verdict.get("finding"))):
        yield why
    if policy := _POLICIES.get(str(verdict.get("policy"))):
        yield policy
    if path := verdict.get("path"):
        yield f"path {path['local']} -> {path['remote']}{_milliseconds(path.get('rtt'))}"
    if recovery := verdict.get("recovery"):
        yield _recovery(recovery)
    yield from _some(verdict, "pairs", partial(_pair, found=bool(path)))
    yield from _some(verdict, "servers", _server)
    yield from _some(verdict, "bases", _base)
    if not verdict.get("path") or (recovery and recovery.get("no_network")):
        yield from _some(verdict, "left_out", _left_out)
    if phases := verdict.get("phases"):
        spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
        yield f"time: {spent}"


def _recovery(tried: _Verdict) -> str:
    """What was tried for a path that got lost."""
    offered = tried["offered"]
    parts = [f"a restart was offered {_times(offered)}" if offered else "no restart was offered"]
    parts += [f"{_times(tried[name])} {words}" for name, words in _OUTCOMES.items() if tried.get(name)]
    if tried.get("no_network"):
        parts.append(f"there was no network here for {duration(tried['no_network'])}")
    return ", ".join(parts)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _some(verdict: _Verdict, name: str, describe: Any) -> Iterator[str]:  # noqa: ANN401  # one of those below
    lines = [line for each in verdict.get(name, ()) if (line := describe(each))]
    yield from (printable(line, 300) for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"… {len(lines) - _SHOWN} more {name.replace('_', ' ')}: --json has them"


def _pair(pair: _Verdict, *, found: bool) -> str:
    """What became of a pair; `found` says that a path was."""
    open_still = not pair["result"] and pair["state"] in _OPEN
    result = "another was taken before it was known" if found and open_still else _result(pair)
    return f"tried {pair['local']} -> {pair['remote']}: {result}"


def _result(pair: _Verdict) -> str:
    result, sent, heard = pair["result"], pair["requests_sent"], pair["requests_received"]
    if pair["state"] == "succeeded":
        return f"works{_milliseconds(pair['rtt'])}"
    if result in _RESULTS:
        return _RESULTS[result]
    if result.startswith("error_"):
        return f"answered with error {result.removeprefix('error_')}"
    if not sent:
        return "not tried"
    silent = f"no answer to {sent} {'check' if sent == 1 else 'checks'}"
    return f"{silent}, though the device's own came" if heard else silent


def _server(server: _Verdict) -> str:
    asked = server["server"] if server["base"] is None else f"{server['server']} from {server['base']}"
    if server["result"] == "answered":
        return f"{asked}: gives {server['address']}"
    code = f" ({server['code']})" if server["code"] else ""
    return f"{asked}: {_ANSWERS.get(server['result'], server['result'].replace('_', ' '))}{code}"


def _base(base: _Verdict) -> str:
    """What could not be sent from an address; nothing where all could."""
    interface = f" ({base['interface']})" if base["interface"] else ""
    refused = ", ".join(
        f"{_ERRORS.get(name, name)} ({name}, {times} {'time' if times == 1 else 'times'})"
        for name, times in base["unsent"].items()
    )
    return f"could not send from {base['address']}{interface}: {refused}" if refused else ""


def _left_out(each: _Verdict) -> str:
    return f"left out {each['interface']}{' ' if each['interface'] and each['ip'] else ''}{each['ip']}: {each['why']}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f", {seconds * 1000:.1f} ms"
