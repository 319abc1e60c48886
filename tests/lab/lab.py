"""A laboratory of hosts, each in a network namespace, of routers with NATs, and of links that are slow or lossy.

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

Or by way of networks, as in life; `nat.py` has the kinds of NAT, `uplinks.py` and `networks.py` have what may happen to
links and routers, `services.py` the servers, and `meeting.py` puts peers opposite each other:

```python
    server = lab.public_host("server", addresses=2)
    carrier = lab.router("carrier", nat=APDM_APDF, lan="100.64.0.0/24")
    home, mobile = lab.router("home", nat=EIM_EIF), lab.router("mobile", nat=EIM_APDF, upstream=carrier)
    pi = lab.host("pi")
    wlan0 = lab.connect(pi, home, "wlan0", metric=600, emulated=True)
    lab.connect(pi, mobile, "wwan0", metric=700)
    lab.settle()
    wlan0.unplug()
    home.renumber()
```

Needs root, ip(8) of iproute2, nft(8) for routers, and TAP devices; nothing leaves the machine.  Leaving the scope ends
whatever still runs inside and removes everything.  After a SIGKILL the next laboratory does so, or
`python -m tests.lab.lab gc`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from typing import Any, Self

from tests.lab.links import TUN, Impairment, Link
from tests.lab.namespaces import LabError, add, collect_garbage, configure, delete, inside, ip, name_addresses
from tests.lab.nat import Egress, Nat, Site
from tests.lab.networks import Internet, Network, Router
from tests.lab.uplinks import Uplink

__all__ = ["Host", "Impairment", "Lab", "LabError", "Link", "missing", "missing_for_routers"]

#: Serials of the namespaces of this process.
_SERIALS = itertools.count(1)
_PREFIX_LENGTH = 30
_FIRST_TABLE = 100
#: The kernel looks at its links once a second.
_LINK_WATCH = 5.0


def missing() -> str | None:
    """Why there can be no laboratory here, None where there can."""
    if os.geteuid() != 0:
        return "a laboratory needs root"
    if shutil.which("ip") is None:
        return "a laboratory needs ip(8) of iproute2"
    if not TUN.exists():
        return f"a laboratory needs {TUN}"
    return None


def missing_for_routers() -> str | None:
    """Why there can be no routers here, None where there can."""
    if shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        return "the laboratory's routers need nft(8) of nftables"
    return missing()


class Host:
    """One host.  Made by `Lab.host`."""

    def __init__(self, namespace: str) -> None:
        #: As `ip netns` knows it.
        self.namespace = namespace
        #: Its links into networks, by device.
        self.uplinks: dict[str, Uplink] = {}
        #: Further IPv4 addresses, of a public host.
        self.addresses: tuple[str, ...] = ()
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
        self._namespaces: list[str] = []
        self._names: dict[str, str] = {}
        self._networks = itertools.count(1)

    def __enter__(self) -> Self:
        collect_garbage()
        return self

    def __exit__(self, *_details: object) -> None:
        self._closing.close()

    def host(self, label: str) -> Host:
        """One more host."""
        namespace = self._namespace(label)
        # Servers may take low ports whoever they run as; what comes by another link than the answer leaves by is right.
        settings = {f"net/ipv4/conf/{scope}/rp_filter": 0 for scope in ("all", "default")}
        configure(namespace, settings | {"net/ipv4/ip_unprivileged_port_start": 0})
        if self._names:
            name_addresses(namespace, self._names)
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

    @functools.cached_property
    def internet(self) -> Internet:
        """The one internet."""
        return Internet(self._namespace("internet"))

    def router(
        self,
        label: str,
        *,
        nat: Nat | None,
        egress: Egress = Egress.ALL,
        ipv6: bool = False,
        lan: str = "192.168.1.0/24",
        upstream: Router | None = None,
    ) -> Router:
        """One more router and its site.

        Args:
            label: A name for people.
            nat: Its NAT; None for a site that the internet routes to.
            egress: What its firewall lets out.
            ipv6: The site has IPv6, which is let in only where it answers.
            lan: The site's network, where there is a NAT.
            upstream: The router that it is behind; without one it is on the internet.
        """
        network: Network = upstream or self.internet
        router = Router(self._namespace(label), network, Site(nat=nat, egress=egress), IPv4Network(lan), ipv6=ipv6)
        self._closing.callback(router.wan.close)
        return router

    def connect(
        self,
        host: Host,
        network: Network,
        device: str = "eth0",
        *,
        metric: int = 100,
        policy_routing: bool = False,
        emulated: bool = False,
    ) -> Uplink:
        """Attach a host to a network; the arguments are those of `Uplink`.

        With policy routing, what is sent from the device's address leaves by the device.
        """
        table = _FIRST_TABLE + len(host.uplinks) if policy_routing else 0
        lease = network.lease()
        uplink = Uplink(host.namespace, device, network.port(), lease, metric=metric, table=table, emulated=emulated)
        self._closing.callback(uplink.close)
        host.uplinks[device] = uplink
        return uplink

    def public_host(self, label: str, *, addresses: int = 1, emulated: bool = False) -> Host:
        """A host on the internet, with so many IPv4 addresses."""
        host = self.host(label)
        uplink = self.connect(host, self.internet, emulated=emulated)
        further = [self.internet.server_address() for _ in range(addresses - 1)]
        for address in further:
            ip("-n", host.namespace, "address", "add", str(address), "dev", uplink.device)
        host.addresses = (uplink.address, *(str(address.ip) for address in further))
        return host

    def name(self, name: str, address: str) -> None:
        """Let commands on hosts that are made from now on know an address by a name."""
        self._names[name] = address

    def settle(self) -> None:
        """Wait until frames pass on every link, and IPv6 works: for up to a second after it was made neither does."""
        deadline = time.monotonic() + _LINK_WATCH
        while not all(map(_is_settled, self._namespaces)):
            if time.monotonic() > deadline:
                raise LabError("a link does not come up")
            time.sleep(0.02)

    def _namespace(self, label: str) -> str:
        namespace = add(os.getpid(), next(_SERIALS), label)
        self._closing.callback(delete, namespace)
        self._namespaces.append(namespace)
        return namespace


def _is_settled(namespace: str) -> bool:
    devices = json.loads(ip("-n", namespace, "-json", "-details", "address"))
    return all(map(_is_up, devices))


def _is_up(device: dict[str, Any]) -> bool:
    """Whether a device works, or has no cable in it."""
    if device["ifname"] == "lo" or "LOWER_UP" not in device["flags"]:
        return True
    if "NO-CARRIER" in device["flags"]:  # the kernel has not looked at it yet
        return False
    if device.get("linkinfo", {}).get("info_slave_data", {}).get("state", "forwarding") != "forwarding":
        return False
    addresses = [address for address in device["addr_info"] if address["family"] == "inet6"]
    return not addresses or any(each["scope"] == "link" and not each.get("tentative") for each in addresses)


if __name__ == "__main__":
    if sys.argv[1:] != ["gc"]:
        raise SystemExit("usage: python -m tests.lab.lab gc")
    sys.stdout.writelines(f"{name}\n" for name in collect_garbage())
