"""What the kernel lets the agent do to processes of other users, and that none of that is handed on to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from edgeice.services.account import Account

__all__ = ["keep_capabilities_from_children", "why_not_run_as"]

#: What it takes to start processes of another user, to give them a terminal, and to end them (capabilities(7)).
_NEEDED: Final = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
#: Linux's _LINUX_CAPABILITY_VERSION_3: two words each of effective, permitted and inheritable ones (capget(2)).
_VERSION: Final = 0x20080522


def why_not_run_as(user: str) -> str | None:
    """Why the agent cannot run processes as a user; None where it can."""
    try:
        account = Account.of(user)
    except KeyError:
        return f"this device has no user {user!r}; `getent passwd` lists those that there are"
    if account.groups is None:
        return None
    effective = _capabilities("CapEff")
    lacking = [name for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if not lacking:
        return None
    own = Account.of(None)
    remedy = "give it" if own.uid == 0 else "run it as root, or give it"
    return f"the agent runs as {own.name} and may not run processes as {user}: {remedy} {', '.join(lacking)}"


def keep_capabilities_from_children() -> None:
    """Clear what this thread, and those that it starts, would hand on: its inheritable and ambient capabilities.

    Where the agent is not root a change of the user does not do so, and a service manager may have set them.
    """
    if not _capabilities("CapInh") | _capabilities("CapAmb"):
        return
    import ctypes  # noqa: PLC0415  # a device where root runs the agent needs it not

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    for call in (libc.capget, libc.capset):
        if call(header, sets) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        sets[2] = sets[5] = 0  # the kernel keeps the ambient ones within these


def _capabilities(name: str) -> int:
    """One set of this thread's capabilities, a bit each."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.partition(":")[2], 16)
    return 0
