"""Offer and answer of one session, by their text."""

from __future__ import annotations

from pathlib import Path

from edgeice import sdp
from edgeice.addresses import Base, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import Role
from edgeice.peer import Endpoint, EndpointConfig
from edgeice.sansio import Entropy

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"


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
