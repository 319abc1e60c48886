"""Gathering on hosts as they are: several uplinks without policy routing, dead servers, links that come and go."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeice.settings import IceSection, structure
from edgeice.trace import Record, entry_of
from edgeice.transport import Node, NodeConfig, open_node
from tests.lab.lab import Host, Lab, missing_for_routers
from tests.lab.namespaces import ip, nft
from tests.lab.nat import EIM_APDF
from tests.lab.networks import Router
from tests.lab.services import Coturn, coturn
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (None if COTURN else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

DEVICES = ("eth0", "wlan0", "wwan0")
#: Nothing is there, and nobody says so.
DEAD = "stun:203.0.113.250"


@attrs.frozen
class Scene:
    """A host with three uplinks, each behind a NAT of its own; all it sends leaves by eth0 unless it is pinned."""

    host: Host
    routers: dict[str, Router]
    server: Coturn

    @property
    def public(self) -> set[tuple[str, str]]:
        """Each uplink with the address that the internet sees of it."""
        return {(self.host.uplinks[name].address, router.public) for name, router in self.routers.items()}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Lab() as lab:
        server, host = lab.public_host("server", addresses=2), lab.host("pi")
        routers = {}
        for number, device in enumerate(DEVICES):
            routers[device] = lab.router(device, nat=EIM_APDF, lan=f"192.168.{number}.0/24")
            lab.connect(host, routers[device], device, metric=100 + number)
        with coturn(server, tmp_path) as turn:
            lab.settle()
            yield Scene(host, routers, turn)


class Gatherer:
    """A node on a host, and what it has found."""

    def __init__(self, node: Node, records: list[Record]) -> None:
        self.node = node
        self._records = records

    def mapped(self) -> set[tuple[str, str]]:
        """Local and public IP of all that servers said so far."""
        found = [record.fields for record in self._records if record.name == "ServerReflexiveLearned"]
        return {(each["base"].ip, each["mapped"].ip) for each in found}  # type: ignore[attr-defined]

    def candidates(self) -> dict[str, set[str]]:
        """IPs of a new session's candidates by type, and what they are related to."""
        offer = self.node.connection(offerer=True).create_offer()
        words = [line.split() for line in offer.splitlines() if line.startswith("a=candidate:")]
        found: dict[str, set[str]] = {}
        for line in words:
            found.setdefault(line[7], set()).add(line[4])
        return found

    async def until(self, wanted: set[tuple[str, str]], seconds: float) -> None:
        """Wait until servers have said all of this, and for so long at most."""
        with trio.move_on_after(seconds):
            while not wanted <= self.mapped():  # noqa: ASYNC110  # the node's records come from its own tasks
                await trio.sleep(0.005)
        assert wanted <= self.mapped(), [entry_of(record) for record in self._records]


@asynccontextmanager
async def gathering(scene: Scene, **options: Any) -> AsyncIterator[Gatherer]:
    records: list[Record] = []
    with scene.host.inside():
        async with open_node(NodeConfig(stun=(DEAD, scene.server.stun), **options), tracer=records.append) as node:
            yield Gatherer(node, records)


async def test_ice_02_03_three_uplinks_without_policy_routing_get_three_right_addresses(scene: Scene) -> None:
    async with gathering(scene) as found:
        # One dead server before the other one costs nothing: six questions, 20 ms apart.
        await found.until(scene.public, 1.0)
        assert found.mapped() == scene.public
        assert {(base.interface, base.address.ip) for base in found.node.bases} == {
            (name, uplink.address) for name, uplink in scene.host.uplinks.items()
        }
        assert found.candidates() == {
            "host": {local for local, _ in scene.public},
            "srflx": {public for _, public in scene.public},
        }
        assert "net.unpinned" not in found.node.drops()


class Unprivileged(socket.socket):
    """What a kernel before 5.7 gives to whoever has no privilege: no binding to a device."""

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[1] == socket.SO_BINDTODEVICE:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().setsockopt(*arguments)


async def test_where_a_socket_cannot_be_bound_to_its_device_a_hint_still_chooses_the_way_out(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeice.net.bases.socket.socket", Unprivileged)
    async with gathering(scene) as found:
        await found.until(scene.public, 1.0)
        assert found.mapped() == scene.public
        assert found.node.drops() == {"net.unpinned": 3}


async def test_ice_06_an_address_that_comes_is_asked_from_and_one_that_goes_is_forgotten(scene: Scene) -> None:
    wlan0, router = scene.host.uplinks["wlan0"], scene.routers["wlan0"]
    async with gathering(scene) as found:
        await found.until(scene.public, 1.0)
        before = wlan0.address
        wlan0.readdress("192.168.1.77")
        await found.until({("192.168.1.77", router.public)}, 2.0)
        assert before not in found.candidates()["host"]
        wlan0.unplug()
        with trio.fail_after(5):
            while any(base.interface == "wlan0" for base in found.node.bases):  # noqa: ASYNC110  # as above
                await trio.sleep(0.01)
        assert found.candidates() == {
            "host": {scene.host.uplinks[name].address for name in ("eth0", "wwan0")},
            "srflx": {scene.routers[name].public for name in ("eth0", "wwan0")},
        }
        assert ("wlan0", "has no carrier") in [(each.interface, each.why) for each in found.node.left_out()]


async def test_an_uplink_that_leads_nowhere_is_a_line_in_the_report_and_harms_no_other(scene: Scene) -> None:
    wwan0 = scene.host.uplinks["wwan0"]
    ip("-n", scene.host.namespace, "route", "delete", "default", "dev", "wwan0")
    others = {pair for pair in scene.public if pair[0] != wwan0.address}
    async with gathering(scene) as found:
        await found.until(others, 1.0)
        peer = found.node.connection(offerer=True)
        verdict: Any = found.node.verdict(peer)
        answered = {each["base"].partition(":")[0] for each in verdict["servers"] if each["result"] == "answered"}
        assert answered == {local for local, _ in others}
        assert {each["interface"] for each in verdict["bases"]} == set(DEVICES)
        assert found.mapped() == others


async def test_ports_and_filters_hold_on_every_uplink(scene: Scene) -> None:
    table = {"ports": "40000-40001", "only": ["wlan0", "wwan0"]}
    config = NodeConfig.from_section(structure(IceSection, table, file=Path("agent.toml")))
    async with gathering(scene, ports=config.ports, policy=config.policy) as found:
        expected = {pair for pair in scene.public if pair[0] != scene.host.uplinks["eth0"].address}
        await found.until(expected, 1.0)
        assert {(base.interface, base.address.port) for base in found.node.bases} == {
            ("wlan0", 40000),
            ("wwan0", 40000),
        }
        left_out = {each.interface: each.why for each in found.node.left_out()}
        assert left_out["eth0"] == "is none of those that alone are to be used"


async def test_a_nat_that_maps_one_to_one_needs_no_server() -> None:
    """What its owner says of it is enough for a stranger's first check to come in."""
    with Lab() as lab:
        outside, host = lab.public_host("outside"), lab.host("pi")
        router = lab.router("home", nat=EIM_APDF)
        local = lab.connect(host, router).address
        rule = f"iifname wan meta l4proto udp dnat to {local}"
        hook = "type nat hook prerouting priority -110"
        nft(router.namespace, f"table ip one {{\n chain in {{\n  {hook}; {rule};\n }}\n}}\n")
        lab.settle()
        settings = NodeConfig(public={local: router.public})
        with host.inside():
            async with open_node(settings) as here:
                with outside.inside():
                    async with open_node(NodeConfig()) as there:
                        a, b = here.ice_transport(controlling=True), there.ice_transport(controlling=False)
                        lines = a.candidates_so_far()
                        assert [line.split(" typ ")[1].split()[0] for line in lines if line] == ["host", "srflx"]
                        for sender, receiver in ((a, b), (b, a)):
                            receiver.set_remote(sender.ufrag, sender.pwd)
                        for line in lines:
                            b.add_candidate(line)  # and A never hears where B is, but from its checks
                        with trio.fail_after(5):
                            await b.wait_connected()
                        assert (b.path.local_type, b.path.remote_type) == ("host", "srflx")
                        assert b.path.path is not None
                        assert b.path.path.remote.ip == router.public
