"""Whose processes the device starts: a user of its own database, and what a login makes of one."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import attrs

__all__ = ["Account", "Identity"]

_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"


class Identity(TypedDict, total=False):
    """What `subprocess.Popen` takes to change the user; empty where nothing is to be changed."""

    user: int
    group: int
    extra_groups: Sequence[int]


@attrs.frozen(kw_only=True)
class Account:
    """A user as the database has it."""

    name: str
    home: str
    shell: str
    uid: int
    gid: int
    #: All groups that its processes are to have; None where the agent is this user already and nothing is changed.
    groups: tuple[int, ...] | None = None

    @classmethod
    def of(cls, user: str | None) -> Account:
        """The account of that name, or for None the agent's own; raises KeyError where there is none of that name.

        Asks the user database, which may wait for the disk or the network.
        """
        uid = os.geteuid()
        if user is not None:
            entry = pwd.getpwnam(user)
        else:
            try:
                entry = pwd.getpwuid(uid)
            except KeyError:  # a container may run as a number without a name
                return cls(name=str(uid), home="/", shell="/bin/sh", uid=uid, gid=os.getegid())  # noqa: S604  # a path
        own = entry.pw_uid == uid
        return cls(
            name=entry.pw_name,
            home=entry.pw_dir or "/",
            shell=entry.pw_shell or "/bin/sh",
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            groups=None if own else tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        )

    def identity(self) -> Identity:
        """What changes a new process to this user."""
        if self.groups is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups}

    def environment(self, lang: str) -> dict[str, str]:
        """The variables that a login sets."""
        return {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
            "PATH": _ROOT_PATH if self.uid == 0 else _USER_PATH,
            "LANG": lang,
        }

    def directory(self) -> str:
        """Where its processes start: home, or / where there is none or the user may not enter it."""
        # A new process goes there while it is the agent's user still, so that one has to be let in too.
        enterable = Path(self.home).is_dir() and os.access(self.home, os.X_OK)
        if enterable and self.groups is not None and self.uid != 0:
            home = Path(self.home).resolve()
            enterable = all(self._may_enter(folder) for folder in (home, *home.parents))
        return self.home if enterable else "/"

    def _may_enter(self, folder: Path) -> bool:
        """What the mode says of this user (path_resolution(7)); access control lists are not asked."""
        try:
            found = folder.stat()
        except OSError:
            return False
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid in (self.gid, *(self.groups or ())):
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)

    def own_terminal(self, fd: int) -> None:
        """Give this user the terminal that `fd` is the inner end of, for others of the group tty to write to.

        Raises OSError where that is not allowed.
        """
        if self.groups is None:
            return  # devpts made it the agent's own
        try:
            group, mode = grp.getgrnam("tty").gr_gid, 0o620
        except KeyError:
            group, mode = self.gid, 0o600
        os.fchmod(fd, mode)  # first: afterwards it is another one's
        os.fchown(fd, self.uid, group)

    def own_pipe(self, fd: int) -> None:
        """Give this user a pipe, so that it can be opened again, as by `tee /dev/stderr`."""
        if self.groups is not None:
            os.fchown(fd, self.uid, self.gid)
