"""The laboratory's NATs are what they say, as coturn's discoverer of NATs sees them (RFC 5780)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.lab.lab import Host, Lab, missing_for_routers
from tests.lab.nat import APDM_APDF, EIM_ADF, EIM_APDF, EIM_EIF, Egress, Nat
from tests.lab.networks import Router
from tests.lab.services import NATDISCOVERY, coturn

_MISSING = missing_for_routers() or (None if NATDISCOVERY else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

_EIM, _APDM = "Endpoint Independent Mapping", "Address and Port Dependent Mapping"
_EIF, _ADF = "Endpoint Independent Filtering", "Address Dependent Filtering"
_APDF = "Address and Port Dependent Filtering"


@attrs.frozen
class Case:
    """Routers from the internet inwards, and what the discoverer has to say of the host behind."""

    nats: tuple[Nat | None, ...]
    egress: Egress = Egress.ALL
    #: What mapping and filtering are called; none where the discoverer gets no answer.
    mapping: str | None = None
    filtering: str | None = None
    hairpinning: bool = False


_CASES = {
    # Without a NAT the host itself answers what it sends to its own address.
    "no-nat": Case((None,), mapping=_EIM, filtering=_EIF, hairpinning=True),
    "eim-eif": Case((EIM_EIF,), mapping=_EIM, filtering=_EIF),
    "eim-eif-hairpin": Case((attrs.evolve(EIM_EIF, hairpinning=True),), mapping=_EIM, filtering=_EIF, hairpinning=True),
    "eim-adf": Case((EIM_ADF,), mapping=_EIM, filtering=_ADF),
    "eim-apdf": Case((EIM_APDF,), mapping=_EIM, filtering=_APDF),
    "eim-apdf-hairpin": Case(
        (attrs.evolve(EIM_APDF, hairpinning=True),), mapping=_EIM, filtering=_APDF, hairpinning=True
    ),
    "apdm-apdf": Case((APDM_APDF,), mapping=_APDM, filtering=_APDF),
    "eim-apdf-in-apdm-apdf": Case((APDM_APDF, EIM_APDF), mapping=_APDM, filtering=_APDF),
    "eim-eif-in-eim-eif": Case((EIM_EIF, EIM_EIF), mapping=_EIM, filtering=_EIF),
    "no-udp": Case((EIM_EIF,), Egress.NO_UDP),
    "tcp-443": Case((EIM_EIF,), Egress.TCP_443),
}


@attrs.frozen
class Discovery:
    """What the discoverer said, and the address that the internet has to see."""

    said: str
    public: str


def _site(lab: Lab, name: str, case: Case) -> tuple[Host, str]:
    """A host behind the routers of a case, and the address that the internet sees of it."""
    router: Router | None = None
    for depth, nat in enumerate(case.nats):
        inmost = depth == len(case.nats) - 1
        egress = case.egress if inmost else Egress.ALL
        router = lab.router(name, nat=nat, egress=egress, upstream=router, lan=f"10.{depth}.0.0/24")
    assert router is not None
    host = lab.host(name)
    uplink = lab.connect(host, router)
    return host, uplink.address if case.nats == (None,) else router.public


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Discovery]]:
    """What the discoverer says, by case; all at once, as it mostly waits."""
    assert NATDISCOVERY is not None
    with Lab() as lab:
        server = lab.public_host("server", addresses=2)
        sites = {name: _site(lab, name, case) for name, case in _CASES.items()}
        with coturn(server, tmp_path_factory.mktemp("coturn")) as turn:
            lab.settle()
            runs = {
                name: subprocess.Popen(
                    host.command(NATDISCOVERY, "-m", "-f", "-H", turn.address),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                for name, (host, _) in sites.items()
            }
            yield {name: Discovery(run.communicate(timeout=60)[0], sites[name][1]) for name, run in runs.items()}


@pytest.mark.parametrize("name", _CASES)
def test_a_nat_is_seen_as_what_it_is(name: str, discovered: dict[str, Discovery]) -> None:
    case, discovery = _CASES[name], discovered[name]
    said = discovery.said
    assert re.findall(r"NAT with (.*Mapping)!", said) == ([case.mapping] if case.mapping else []), said
    assert re.findall(r"NAT with (.*Filtering)!", said) == ([case.filtering] if case.filtering else []), said
    assert ("successful hairpinning" in said) is case.hairpinning, said
    seen = set(re.findall(r"UDP reflexive addr: ([0-9.]+):", said))
    assert seen == ({discovery.public} if case.mapping else set()), said


def test_a_mapping_ends_with_its_lifetime(tmp_path: Path) -> None:
    assert NATDISCOVERY is not None
    nats = [attrs.evolve(nat, lifetime=2) for nat in (EIM_EIF, EIM_ADF, EIM_APDF)]
    with Lab() as lab, coturn(lab.public_host("server", addresses=2), tmp_path) as turn:
        hosts = [_site(lab, "short", Case((nat,)))[0] for nat in nats]
        runs = [
            subprocess.Popen(
                # It sends at once, and asks for an answer to that port from another one after so many seconds.
                host.command(NATDISCOVERY, "-t", "-T", seconds, turn.address),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for host in hosts
            for seconds in ("1", "5")
        ]
        said = [run.communicate(timeout=30)[0] for run in runs]
    assert ["STUN receive timeout" in text for text in said] == [False, True] * 3, said
