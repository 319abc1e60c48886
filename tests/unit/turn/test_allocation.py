"""An allocation's life: allocate, refresh, lose, release (RFC 8656 §5, §7, §8)."""

from edgeice.stun import Attribute, Method
from edgeice.turn import Allocated
from tests.support.turn_server import MAPPED, PEER, RELAYED, Link


def test_turn_02_relayed_and_mapped_address_and_the_lifetime_that_was_given() -> None:
    link = Link().allocate()
    # Without delay, the round trip takes no time.
    assert link.events[1:] == [Allocated(relayed=RELAYED, additional=None, mapped=MAPPED, lifetime=600, rtt=0)]


def test_stun_40_the_first_request_to_a_server_carries_no_credentials() -> None:
    link = Link().allocate()
    first, second = link.server.requests
    secret = {
        Attribute.USERNAME,
        Attribute.USERHASH,
        Attribute.REALM,
        Attribute.NONCE,
        Attribute.PASSWORD_ALGORITHM,
        Attribute.PASSWORD_ALGORITHMS,
    }
    assert not {kind for kind in secret if kind in first}
    assert not first.has_integrity
    assert {kind for kind in secret if kind in second} == {Attribute.USERNAME, Attribute.REALM, Attribute.NONCE}
    assert second.has_integrity


def test_turn_21_nothing_is_relayed_before_the_permission_stands() -> None:
    link = Link().allocate()
    link.send(PEER, b"first")
    # The server would have refused it otherwise.
    assert link.server.relayed_data == [(PEER, b"first")]
    assert [Method(message.method).name for message in link.server.requests] == [
        "ALLOCATE",
        "ALLOCATE",
        "CREATE_PERMISSION",
    ]
    link.from_peer(PEER, b"back")
    assert link.received == [(PEER, b"back")]


def test_turn_04_close_deletes_the_allocation_at_the_server() -> None:
    link = Link().allocate()
    link.close()
    assert link.server.deleted == 1
    assert link.allocation.is_ended
