"""Offer and answer of one session, by their text."""

from __future__ import annotations

from pathlib import Path

from edgeice import sdp
from edgeice.addresses import Base, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, Role
from edgeice.peer import Endpoint, EndpointConfig
from edgeice.sansio import Entropy

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"


def test_ice_11_every_description_tells_of_rfc_8445() -> None:
    first, second = (Endpoint(EndpointConfig(), entropy=Entropy.seeded(number)) for number in (1, 2))
    a = first.connect(Certificate.generate(), Role.CONTROLLING, now=0.0)
    b = second.connect(Certificate.generate(), Role.CONTROLLED, now=0.0)
    offer = a.create_offer(now=0.0)
    answer = b.accept_offer(offer, now=0.0)
    a.accept_answer(answer, now=0.0)
    for text in (offer, answer, a.restart(now=1.0)):
        (options,) = (line for line in text.splitlines() if line.startswith("a=ice-options:"))
        assert "ice2" in options.partition(":")[2].split()


def test_ice_22_every_description_tells_the_ta_that_is_kept() -> None:
    endpoint = Endpoint(EndpointConfig(ice=IceConfig(pacing=0.035)), entropy=Entropy.seeded(1))
    offer = endpoint.connect(Certificate.generate(), Role.CONTROLLING, now=0.0).create_offer(now=0.0)
    assert "a=ice-pacing:35" in offer.splitlines()


def test_a_later_offer_has_the_sections_of_this_sides_answer() -> None:
    endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(1))
    endpoint.base_added(Base(TransportAddress("192.0.2.1", 4000), "eth0"), now=0.0)
    session = endpoint.connect(Certificate.generate(), Role.CONTROLLED, now=0.0)
    answer = sdp.parse(session.accept_offer((VECTORS / "chromium-offer-media.sdp").read_bytes().decode(), now=0.0))
    offer = sdp.parse(session.restart(now=1.0))
    assert sdp.is_restart(answer, offer)
    assert (offer.setup, offer.session_version) == ("actpass", answer.session_version + 1)
    # The rejected section stays out of the bundle, and the one that leads is as inactive as before.
    assert (offer.bundle, offer.mid, offer.index) == (("0", "2"), "2", 2)
    assert offer.others == answer.others
    assert [(other.formats, other.leads) for other in offer.others] == [(("111",), True), (("0",), False)]
    assert len(offer.candidates) == 1
