"""A laboratory of hosts, each in a network namespace, and of links that are slow, lossy or narrow.

```python
with Lab() as lab:
    here, there = lab.host("here"), lab.host("there")
    link = lab.link(here, there)
    link.impair(Impairment(delay=0.015, loss=0.01), seed=7)
    there_address = link.addresses[1]
    with subprocess.Popen(there.command("mosquitto", "-p", "1883")) as broker:
        ...
    with here.inside():
        ...  # a socket that is made in this thread now is the host's
    link.carried()  # what the link did
```

The kernel's netem is not everywhere, so a process of the laboratory's carries the frames (`relay.py`), around 600
Mbit/s of them.  A link's neighbors know each other, and there is no IPv6: nothing but what the hosts themselves send
takes part in its throws, so with the same seed and the same frames the same ones are lost.

Needs root, ip(8) of iproute2 and TAP devices; nothing leaves the machine.  Leaving the scope ends whatever still runs
inside and removes everything.  After a SIGKILL the next laboratory does so, or `python -m tests.lab.lab gc`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from contextlib import AbstractContextManager
from typing import Self

from tests.lab.links import TUN, Impairment, Link
from tests.lab.namespaces import LabError, add, collect_garbage, delete, inside

__all__ = ["Host", "Impairment", "Lab", "LabError", "Link", "missing"]

#: Serials of the namespaces of this process.
_SERIALS = itertools.count(1)
_PREFIX_LENGTH = 30


def missing() -> str | None:
    """Why there can be no laboratory here, None where there can."""
    if os.geteuid() != 0:
        return "a laboratory needs root"
    if shutil.which("ip") is None:
        return "a laboratory needs ip(8) of iproute2"
    if not TUN.exists():
        return f"a laboratory needs {TUN}"
    return None


class Host:
    """One host.  Made by `Lab.host`."""

    def __init__(self, namespace: str) -> None:
        #: As `ip netns` knows it.
        self.namespace = namespace
        self._devices = itertools.count()

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command on this host; its process is the command's own."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def inside(self) -> AbstractContextManager[None]:
        """Put the calling thread on this host; sockets that are made inside stay there."""
        return inside(self.namespace)

    def next_device(self) -> str:
        """A name for one more network device."""
        return f"eth{next(self._devices)}"


class Lab:
    """Makes hosts and links, and removes them at the end of its scope; raises LabError where that is refused."""

    def __init__(self) -> None:
        if reason := missing():
            raise LabError(reason)
        self._closing = contextlib.ExitStack()
        self._networks = itertools.count(1)

    def __enter__(self) -> Self:
        collect_garbage()
        return self

    def __exit__(self, *_details: object) -> None:
        self._closing.close()

    def host(self, label: str) -> Host:
        """One more host."""
        namespace = add(os.getpid(), next(_SERIALS), label)
        self._closing.callback(delete, namespace)
        return Host(namespace)

    def link(self, first: Host, second: Host) -> Link:
        """One more link, with a network of its own: 10.91.N.1 and 10.91.N.2."""
        network = f"10.91.{next(self._networks)}"
        ends = [
            (host.namespace, host.next_device(), f"{network}.{number}")
            for number, host in enumerate((first, second), start=1)
        ]
        link = Link(ends, _PREFIX_LENGTH)
        self._closing.callback(link.close)
        return link


if __name__ == "__main__":
    if sys.argv[1:] != ["gc"]:
        raise SystemExit("usage: python -m tests.lab.lab gc")
    sys.stdout.writelines(f"{name}\n" for name in collect_garbage())
