"""Networks that hosts attach to: the internet, and the sites behind routers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

import attrs

from tests.lab import conntrack
from tests.lab.namespaces import configure, ip, nft
from tests.lab.nat import Site, rules
from tests.lab.uplinks import Lease, Port, Uplink, enable_ipv6

__all__ = ["Internet", "Network", "Router"]

#: Documentation's (RFC 5737, RFC 3849).
_SERVERS = IPv4Network("203.0.113.0/24")
_CUSTOMERS = IPv4Network("198.51.100.0/24")
_ROUTED = IPv4Network("192.0.2.0/24")
_INTERNET6 = IPv6Network("2001:db8:0:1::/64")
_SITES6 = IPv6Network("2001:db8:1::/48")
_FIRST_HOST = 10


class Network:
    """A namespace with a bridge `lan`, which forwards between what is attached and its other devices.

    Args:
        namespace: Its namespace, that nothing is in yet.
        ipv6: The bridge's devices have IPv6.
    """

    def __init__(self, namespace: str, *, ipv6: bool) -> None:
        self.namespace = namespace
        self._ports = itertools.count(1)
        bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ip("-n", namespace, batch=f"link add lan {bridge}\nlink set lan up\n")
        settings = {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1}
        settings |= dict.fromkeys(("net/ipv4/conf/all/send_redirects", "net/ipv4/conf/default/send_redirects"), 0)
        settings |= dict.fromkeys(("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter"), 0)
        # Where bridges pass their frames to the NAT, it translates within the site, and hairpins go wrong.
        bridged = (f"net/bridge/bridge-nf-call-{family}tables" for family in ("ip", "ip6", "arp"))
        configure(namespace, settings | {key: 0 for key in bridged if Path("/proc/sys", key).exists()})
        if ipv6:
            enable_ipv6(namespace, "lan")

    def port(self) -> Port:
        """A place for one more link."""
        return Port(self.namespace, f"port{next(self._ports)}", "lan")

    def lease(self) -> Lease:
        """Addresses for one more host."""
        raise NotImplementedError


class Internet(Network):
    """Where addresses are public: those of servers, of customers' routers, and of sites that are routed to."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace, ipv6=True)
        self._servers, self._customers = itertools.count(_FIRST_HOST), itertools.count(_FIRST_HOST)
        self._hosts6, self._sites = itertools.count(_FIRST_HOST), itertools.count(1)
        lines = [f"address add {network[1]}/{network.prefixlen} dev lan" for network in (_SERVERS, _CUSTOMERS)]
        ip("-n", namespace, batch="\n".join([*lines, f"address add {_INTERNET6[1]}/64 dev lan nodad"]) + "\n")

    def lease(self) -> Lease:
        """Addresses for a server."""
        address6 = IPv6Interface((_INTERNET6[next(self._hosts6)], 64))
        return Lease(self.server_address(), _SERVERS[1], address6, _INTERNET6[1])

    def server_address(self) -> IPv4Interface:
        """One more address for a server."""
        return IPv4Interface((_SERVERS[next(self._servers)], _SERVERS.prefixlen))

    def customer_address(self) -> IPv4Interface:
        """An address for a router."""
        return IPv4Interface((_CUSTOMERS[next(self._customers)], _CUSTOMERS.prefixlen))

    def customer_lease(self, *, ipv6: bool) -> Lease:
        """Addresses for a router."""
        lease = Lease(self.customer_address(), _CUSTOMERS[1])
        if not ipv6:
            return lease
        address6 = IPv6Interface((_INTERNET6[next(self._hosts6)], 64))
        return attrs.evolve(lease, address6=address6, gateway6=_INTERNET6[1])

    def site(self) -> tuple[IPv4Network, IPv6Network]:
        """Networks for a site that is routed to."""
        number = next(self._sites)
        sites = itertools.islice(_SITES6.subnets(new_prefix=64), number, None)
        return list(_ROUTED.subnets(new_prefix=28))[number], next(sites)

    def route(self, network: IPv4Network | IPv6Network, router: str) -> None:
        """Send what is for a site to its router."""
        ip("-n", self.namespace, f"-{network.version}", "route", "replace", str(network), "via", router)


class Router(Network):
    """A site's gateway: its bridge `lan`, and its uplink `wan` into the internet or into another router's site.

    Made by `Lab.router`.

    Args:
        namespace: Its namespace, that nothing is in yet.
        upstream: Where its uplink leads.
        site: How it treats its site.
        lan: The site's IPv4 network; it is taken from the internet where there is no NAT.
        ipv6: The site has IPv6 addresses; the upstream has to be the internet.
    """

    def __init__(self, namespace: str, upstream: Network, site: Site, lan: IPv4Network, *, ipv6: bool) -> None:
        super().__init__(namespace, ipv6=ipv6)
        self._upstream = upstream
        self._site = site
        self._shuffle = 0
        self._hosts = itertools.count(_FIRST_HOST if lan.prefixlen <= 24 else 2)
        self.lan, self._lan6 = lan, None
        if isinstance(upstream, Internet):
            lease: Lease = upstream.customer_lease(ipv6=ipv6)
            routed, lan6 = upstream.site()
            self._lan6 = lan6 if ipv6 else None
            if site.nat is None:
                self.lan, self._hosts = routed, itertools.count(2)
        elif ipv6 or site.nat is None:
            raise ValueError("only the internet routes to a site")
        else:
            lease = upstream.lease()
        #: Its uplink.
        self.wan = Uplink(namespace, "wan", upstream.port(), lease)
        ip("-n", namespace, "address", "add", f"{self.lan[1]}/{self.lan.prefixlen}", "dev", "lan")
        if self._lan6 is not None:
            ip("-n", namespace, "-6", "address", "add", f"{self._lan6[1]}/64", "dev", "lan", "nodad")
        self._tell_upstream()
        self._apply()

    @property
    def external(self) -> str:
        """The address of its uplink: its site's, where it has a NAT."""
        return self.wan.address

    @property
    def public(self) -> str:
        """The address that the internet sees of its site."""
        return self._upstream.public if isinstance(self._upstream, Router) else self.external

    def lease(self) -> Lease:
        """Addresses for a host of the site, or for a router that is further inside."""
        number = next(self._hosts)
        lease = Lease(IPv4Interface((self.lan[number], self.lan.prefixlen)), self.lan[1])
        if self._lan6 is None:
            return lease
        return attrs.evolve(lease, address6=IPv6Interface((self._lan6[0x100 + number], 64)), gateway6=self._lan6[1])

    # What may happen

    def flush(self) -> None:
        """Forget all bindings."""
        conntrack.forget(self.namespace)
        self._apply()

    def renumber(self) -> str:
        """Take another address outside, as after a reconnection; the old one's bindings die.  Returns the new one."""
        lease = (
            self._upstream.customer_address()
            if isinstance(self._upstream, Internet)
            else self._upstream.lease().address
        )
        self.wan.readdress(str(lease.ip))
        self._tell_upstream()
        self.flush()
        return self.external

    def reboot(self, wait: Callable[[], object] = lambda: time.sleep(1.0), *, new_ports: bool = False) -> None:
        """Be away for as long as `wait` takes, and come back without any binding.

        With new ports, what is sent from a port of the site has another port outside than before, to all destinations
        the same.
        """
        self.wan.unplug()
        wait()
        self._shuffle += new_ports
        self.flush()
        self.wan.plug()

    # Inside

    def _tell_upstream(self) -> None:
        if isinstance(self._upstream, Internet):
            if self._site.nat is None:
                self._upstream.route(self.lan, self.external)
            if self._lan6 is not None:
                assert self.wan.address6 is not None
                self._upstream.route(self._lan6, self.wan.address6)

    def _apply(self) -> None:
        nft(self.namespace, rules(self._site, self.external, shuffle=self._shuffle))
        if self._site.nat is not None:
            lifetime = self._site.nat.lifetime
            kinds = ("net/netfilter/nf_conntrack_udp_timeout", "net/netfilter/nf_conntrack_udp_timeout_stream")
            configure(self.namespace, dict.fromkeys(kinds, lifetime))
