"""The laboratory's servers serve as they are used: coturn by each of its ways, mosquitto with and without TLS."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Host, Lab, missing_for_routers
from tests.lab.nat import EIM_EIF, Egress
from tests.lab.services import Coturn, coturn, mosquitto
from tests.support.brokers import MOSQUITTO
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (
    None if COTURN and MOSQUITTO and shutil.which("mosquitto_pub") else "needs coturn, mosquitto and mosquitto-clients"
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]
#: How coturn's own client is told to use each way.
_WAYS = {
    "udp": (),
    "tcp": ("-t",),
    "tls": ("-t", "-S", "-p", "5349"),
    "tls443": ("-t", "-S", "-p", "443"),
}


def relays(turn: Coturn, host: Host, ways: Iterable[str], password: str | None = None) -> set[str]:
    """By which ways coturn's client gets a message from one allocation to another; they are tried at once."""
    (server,) = turn.ice_servers("udp")
    login = ("-u", server["username"], "-w", password or server["credential"])
    runs = {}
    for way in ways:
        secure = ("-E", str(turn.authority.cafile)) if way.startswith("tls") else ()
        # By TLS it leaves the last message in its own buffer, and waits for it for ever.
        command = ["timeout", "10", "turnutils_uclient", "-y", "-c", *_WAYS[way], *secure, *login, turn.address]
        runs[way] = subprocess.Popen(
            host.command(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    said = {way: run.communicate()[0] for way, run in runs.items()}
    return {way for way, text in said.items() if re.search(r"tot_recv_msgs=[1-9]", text)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Coturn]]:
    with Lab() as lab:
        server = lab.public_host("server", addresses=2)
        with coturn(server, tmp_path_factory.mktemp("coturn")) as turn:
            yield lab, turn


@pytest.mark.parametrize(
    ("egress", "ways"),
    [(Egress.ALL, set(_WAYS)), (Egress.NO_UDP, {"tcp", "tls", "tls443"}), (Egress.TCP_443, {"tls443"})],
)
def test_coturn_relays_by_each_way_that_a_firewall_leaves(
    egress: Egress, ways: set[str], served: tuple[Lab, Coturn]
) -> None:
    lab, turn = served
    host = lab.host("pi")
    lab.connect(host, lab.router("office", nat=EIM_EIF, egress=egress))
    lab.settle()
    assert relays(turn, host, _WAYS) == ways


def test_coturn_refuses_a_wrong_password(served: tuple[Lab, Coturn]) -> None:
    lab, turn = served
    host = lab.public_host("pi")
    lab.settle()
    assert relays(turn, host, ["udp"]) == {"udp"}
    assert relays(turn, host, ["udp"], password="wrong") == set()


@pytest.mark.parametrize("tls", [False, True])
def test_mosquitto_serves_hosts_behind_a_nat(tmp_path: Path, *, tls: bool) -> None:
    with Lab() as lab:
        host = lab.host("pi")
        lab.connect(host, lab.router("home", nat=EIM_EIF))
        with mosquitto(lab.public_host("broker"), tmp_path) as broker:
            lab.settle()
            secure = ["-p", "8883", "--cafile", str(broker.authority.cafile)] if tls else []
            message = ["-h", broker.address, *secure, "-t", "topic", "-q", "1"]
            for program, more in (("mosquitto_pub", ["-r", "-m", "kept"]), ("mosquitto_sub", ["-C", "1", "-W", "5"])):
                done = subprocess.run(
                    host.command(program, *message, *more), capture_output=True, text=True, check=True
                )
            assert done.stdout == "kept\n"
            assert (broker.url, broker.tls_url) == (f"mqtt://{broker.address}:1883", f"mqtts://{broker.address}:8883")
