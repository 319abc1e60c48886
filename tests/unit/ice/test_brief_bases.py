"""An address that is gone before the peer could be told of it."""

from __future__ import annotations

from edgeice.addresses import Base, TransportAddress
from tests.support.ice_roaming import Roaming


def test_a_base_that_goes_within_the_round_that_it_came_in_leaves_no_deadline_behind() -> None:
    world = Roaming((1,), (1,))
    brief = Base(TransportAddress("10.1.9.1", 4000), "wlan9")
    ice, now = world.a.ice, world.now
    ice.base_added(brief, now=now)
    assert ice.next_timeout() == now
    ice.base_removed(brief.address, now=now)
    ice.handle_timeout(now=now)
    at = ice.next_timeout()
    assert at is not None
    assert at > now
