"""Chunks are padded to four bytes (RFC 9260 §3.2), which must fit too where a packet's size is no multiple of four."""

import pytest

from edgeice.sctp import SctpConfig
from tests.unit.sctp.link import Link


@pytest.mark.parametrize("mtu", [1160, 1161, 1162, 1163])
@pytest.mark.parametrize("size", range(1130, 1138))
def test_sctp_12_a_lost_chunk_of_nearly_a_packet_is_sent_again_whatever_the_packets_size(mtu: int, size: int) -> None:
    link = Link(SctpConfig(mtu=mtu))
    link.connect()
    channel = link.client.open("l", now=link.now)
    link.run(1.0)
    before = len(link.sent[0])
    link.script = lambda side, number, _packet: side == 0 and number == before
    link.client.send(channel, bytes(size), now=link.now)
    link.run(5.0)
    assert link.messages(1) == [bytes(size)]
    assert max(map(len, link.sent[0])) <= mtu
