"""Builds a row of the matrix in a laboratory, and judges where what two peers say of their pairs leads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.lab.lab import Host, Lab
from tests.lab.meeting import Meeting
from tests.lab.nat import Egress
from tests.lab.networks import Internet, Router
from tests.lab.rows import Place, Row, Together
from tests.lab.services import SERVER_NAME, Coturn, coturn
from tests.lab.uplinks import Uplink

__all__ = ["Stage", "staged"]

_LAN = "192.168.1.0/24"
#: In the order of places, with their default routes' metrics as a Raspberry Pi has them; no policy routing.
_DEVICES = (("eth0", 100), ("wlan0", 600), ("wwan0", 700))


@attrs.frozen
class Stage:
    """A row that is built: its ends, and whose addresses are whose."""

    hosts: tuple[Host, Host]
    turn: Coturn
    #: By end, IP address -> the device that it leads to.
    owners: tuple[dict[str, str], dict[str, str]]

    def is_direct(self, meeting: Meeting) -> bool:
        """Whether the pairs of a meeting pass no relay, in either direction."""
        pairs = [end.pair for end in meeting.ends if end.pair is not None]
        addresses = [address for pair in pairs for address in (pair.local, pair.remote)]
        return bool(pairs) and not any(self._is_relay(address) for address in addresses)

    def ends_agree(self, meeting: Meeting) -> bool:
        """Whether what each end sends to is what the other one sends from, as far as both tell."""
        here, there = (end.pair for end in meeting.ends)
        if here is None or there is None:
            return False
        sent_from = self._leads_to(0, here.local), self._leads_to(1, there.local)
        sent_to = self._leads_to(0, there.remote), self._leads_to(1, here.remote)
        known = [{*both} - {None} for both in zip(sent_from, sent_to, strict=True)]
        return all(len(places) <= 1 and "" not in places for places in known)

    def _leads_to(self, end: int, address: str) -> str | None:
        """A device of this end's, or a relayed address; empty for what is not its own, None for what is hidden."""
        if _ip(address) == "hidden":
            return None
        return address if self._is_relay(address) else self.owners[end].get(_ip(address), "")

    def _is_relay(self, address: str) -> bool:
        return _ip(address) in (self.turn.address, self.turn.address6)


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@contextlib.contextmanager
def staged(row: Row, folder: Path) -> Iterator[Stage]:
    """Build a row, with its TURN and STUN server running.

    Args:
        row: Whom to place where.
        folder: For the server's files.
    """
    with Lab() as lab:
        server = lab.public_host("server", addresses=2)
        lab.name(SERVER_NAME, server.addresses[0])
        carrier: Router | None = None
        if row.together is not Together.NOTHING:
            carrier = _router(lab, row.here[0], 0, None, _LAN)
        ends = [_end(lab, label, places, row, carrier) for label, places in (("here", row.here), ("there", row.there))]
        with coturn(server, folder) as turn:
            lab.settle()
            (here, owned_here), (there, owned_there) = ends
            yield Stage((here, there), turn, (owned_here, owned_there))


def _router(lab: Lab, place: Place, depth: int, upstream: Router | None, lan: str) -> Router:
    inmost = depth == len(place.nats) - 1
    return lab.router(
        "site" if inmost else "carrier",
        nat=place.nats[depth],
        lan=lan if inmost else "100.64.0.0/24",
        upstream=upstream,
        ipv6=place.ipv6 and inmost,
        egress=place.egress if inmost else Egress.ALL,
    )


def _end(
    lab: Lab, label: str, places: tuple[Place, ...], row: Row, carrier: Router | None
) -> tuple[Host, dict[str, str]]:
    """A host with its uplinks, and the addresses that lead to it."""
    host = lab.host(label)
    owned: dict[str, str] = {}
    for number, place in enumerate(places):
        router, routers = carrier, [carrier] if carrier else []
        for depth in range(len(routers), len(place.nats)):
            router = _router(lab, place, depth, router, f"192.168.{number + 1}.0/24")
            routers.append(router)
        network: Internet | Router = router or lab.internet
        device, metric = _DEVICES[number]
        uplink = lab.connect(host, network, device, metric=metric, emulated=row.impairment is not None)
        if row.impairment is not None:
            uplink.impair(row.impairment, seed=len(label))
        owned |= _owned(uplink, routers)
    return host, owned


def _owned(uplink: Uplink, routers: list[Router]) -> dict[str, str]:
    addresses = [uplink.address, *(router.external for router in routers)]
    addresses += [uplink.address6] if uplink.address6 is not None else []
    return dict.fromkeys(addresses, uplink.device)
