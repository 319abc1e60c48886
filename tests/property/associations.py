"""Whole agents: data channels opposite a peer that says what it likes, and on a link that damages packets.

DTLS keeps strangers out, so what is damaged here with a right checksum is the peer's own doing: it may end the
association, but neither raise, nor keep the machine busy, nor take more memory than was advertised.
"""

from __future__ import annotations

import struct
from functools import partial
from random import Random

from edgeice.errors import LocalProtocolError
from edgeice.sctp import DataChannels, MessageReceived, SctpConfig
from edgeice.sctp.chunks import (
    CHECKSUM,
    HEADER_SIZE,
    TSN,
    TSN_FIELDS,
    ChunkType,
    encode_chunk,
    encode_parameter,
    split_chunks,
)
from edgeice.sctp.crc32c import crc32c
from edgeice.sctp.dcep import OpenMessage, encode_open
from edgeice.sctp.reassembly import OVERHEAD
from edgeice.sctp.serial import MASK32
from tests.property.faults import Fault, damaged, example_scripts, faults_of
from tests.property.target import TAKEN, Target
from tests.unit.sctp.link import Link

__all__ = ["ASSOCIATIONS"]

_CONFIG = SctpConfig(receive_window=1 << 17, max_message_size=1 << 15, max_channels=16)
_MEMORY = 32
#: All that are known, one that is not for each way to treat those, and more of those that carry data and end nothing.
_KINDS = (*map(int, ChunkType), 63, 127, 191, 255, *(0,) * 12, *(3,) * 4, *(192,) * 6, *(130,) * 6)
_DCEP_OPEN = encode_open(OpenMessage("label", "protocol"))


class _HostileLink(Link):
    """A link that also carries damaged copies.

    Args:
        script: Which ones (`faults`).
        repairs: The copies get the header and checksum that the receiver expects, and some are made up of whole cloth.
        loss: Of the link itself.
    """

    def __init__(self, script: bytes, *, repairs: bool, loss: float = 0.0) -> None:
        super().__init__(_CONFIG, seed=5, loss=loss)
        self._script = list(faults_of(script))
        self._repairs = repairs
        self._honest: list[bytes] = []
        #: Latest and first TSN of each side.
        self._tsn = [0, 0]
        self._first_tsn: list[int | None] = [None, None]
        #: Copies that were carried.
        self.damaged = 0

    def _carry(self, side: int, packet: bytes) -> None:
        number = len(self._honest)
        self._honest.append(packet)
        super()._carry(side, packet)
        for kind, _flags, start, _end in split_chunks(packet):
            if kind in (ChunkType.INIT, ChunkType.INIT_ACK) and self._first_tsn[side] is None:
                self._first_tsn[side] = TSN.unpack_from(packet, start + 12)[0]
            elif kind == ChunkType.DATA:
                self._tsn[side] = TSN.unpack_from(packet, start)[0]
        while self._script and self._script[0][0] <= number:
            _, fault = self._script.pop(0)
            copy = damaged(packet, fault, self._honest[-_MEMORY:])
            if self._repairs and fault.origin & 1:
                chunk = self._made_up(side, fault)
                copy = packet[:HEADER_SIZE] + (chunk if fault.origin & 2 else packet[HEADER_SIZE:] + chunk)
            if self._repairs:
                copy = _repaired(copy, packet[: HEADER_SIZE - 4])
            if self._repairs or not _is_valid(copy):
                self.damaged += 1
                super()._carry(side, copy)

    def _made_up(self, side: int, fault: Fault) -> bytes:
        """A chunk of any type whose numbers are near those that count."""
        kind = _KINDS[fault.kind % len(_KINDS)]
        distance = (1, 0, 2, 1, -1, 3, 4, 100, 0x7FFF, 0x10000, -0x80000000)[fault.size % 11]
        own = (self._tsn[side] + distance) & MASK32
        numbers = struct.pack("!HHHH", fault.place, fault.value, fault.place & 7, fault.value & 7)
        if kind == ChunkType.DATA:
            fields = TSN_FIELDS.pack(own, fault.place % 6, fault.value % 6, (53, 50, 53, 51, 57, 99)[fault.value % 6])
            text = _DCEP_OPEN if fault.value % 4 else _DCEP_OPEN[: fault.place % 30]
            return encode_chunk(kind, fields + text, fault.place >> 8 if fault.place & 1 else 3)
        if kind == ChunkType.SACK:
            acknowledged = (self._tsn[1 - side] + distance) & MASK32
            return encode_chunk(kind, struct.pack("!IIHH", acknowledged, fault.place << 4, 2, 0) + numbers)
        if kind == ChunkType.FORWARD_TSN:
            return encode_chunk(kind, TSN.pack(own) + numbers)
        if kind == ChunkType.RE_CONFIG:
            sequence = ((self._first_tsn[side] or 0) + fault.value % 3) & MASK32
            streams = struct.pack("!HHHH", 0, 1, fault.place & 7, fault.place)[: fault.value % 5 * 2]
            request = struct.pack("!III", sequence, fault.value, own) + streams
            return encode_chunk(kind, encode_parameter(13 + fault.place % 6, request))
        return encode_chunk(kind, numbers * (fault.place % 2000), fault.value & 0xFF)


def _is_valid(packet: bytes) -> bool:
    return len(packet) >= 16 and CHECKSUM.unpack_from(packet, 8)[0] == crc32c(packet[:8] + bytes(4) + packet[12:])


def _repaired(packet: bytes, header: bytes) -> bytes:
    body = packet[HEADER_SIZE:]
    return header + CHECKSUM.pack(crc32c(header + bytes(4) + body)) + body


def _talk(link: Link, *, wishes: int = 0) -> list[list[bytes]]:
    """Both ends open a channel and send what takes one packet, and many; gives what each said.

    Args:
        link: Between the two.
        wishes: Bits: 1 for a channel that gives up early, 2 for one that does not order, 4 for a change of the path in
            the midst, 8 for an application that is slow to take what came.
    """
    said: list[list[bytes]] = [[], []]
    ids = []
    lifetime = 100 if wishes & 1 else None
    for end in link.ends:
        try:
            ids.append(end.open("label", now=link.now, ordered=not wishes & 2, max_lifetime=lifetime))
        except LocalProtocolError:
            assert end.ended is not None or len(end._channels) >= _CONFIG.max_channels
            ids.append(-1)
    link.run(1.0)
    link.poll_events[1] = not wishes & 8
    for number in range(6):
        if wishes & 4 and number == 3:
            link.client.path_changed(now=link.now)
        for side, end in enumerate(link.ends):
            data = bytes((side, number)) * (1 + number * 700)
            try:
                end.send(ids[side], data, now=link.now)
            except LocalProtocolError:
                continue  # the peer closed it, or the association ended
            said[side].append(data)
        link.run(0.3)
    link.poll_events[1] = True
    link.run(20.0)
    for side, end in enumerate(link.ends):
        end.close_channel(ids[side], now=link.now)
    link.run(20.0)
    return said


def _check(end: DataChannels) -> None:
    """What an end holds is what it says that it holds, and no more than it may."""
    association = end._association
    assert len(association._outbox.control) <= 2
    assert not association._outbox._packets
    assert len(end._channels) <= _CONFIG.max_channels
    assert not end._events
    if end.ended is not None:
        return  # what was held goes with the machine
    receiver = association._receiver
    reassembly = receiver.reassembly
    held = sum(run.size + len(run.parts) * OVERHEAD for run in reassembly._by_first.values())
    held += sum(message.cost for messages in reassembly._waiting.values() for message in messages.values())
    assert receiver.used == held + end._charged, "the receive window leaks"
    assert held <= _CONFIG.receive_window + _CONFIG.max_message_size
    assert end.send_buffer_used <= _CONFIG.send_buffer


def _corrupted(script: bytes) -> str:
    link = _HostileLink(script, repairs=False)
    link.connect()
    said = _talk(link)
    assert [link.messages(1), link.messages(0)] == said
    dropped = sum(end.drops["checksum"] + end.drops["packet-length"] for end in link.ends)
    assert dropped == link.damaged, "a damaged packet was not counted"
    for end in link.ends:
        _check(end)
    return TAKEN


def _broken_peer(script: bytes) -> str:
    options = script[0] if script else 0
    link = _HostileLink(script[1:], repairs=True, loss=(0.0, 0.1, 0.3, 0.0)[options & 3])
    for end in link.ends:
        end.start(now=link.now)
    link.run(30.0)
    _talk(link, wishes=options >> 2 & 15)
    for end in link.ends:
        _check(end)
    if options & 0x40:
        link.client.shutdown(now=link.now)
        link.run(60.0)
    for end in link.ends:
        end.abort("done", now=link.now)
    link.drain()
    assert all(end.ended is not None for end in link.ends)
    outcomes = {end.ended[0] for end in link.ends if end.ended is not None and end.ended[0] != "done"}
    return "ended" if outcomes else TAKEN


class _Application:
    """What both ends do with their channels on a bad link, as a script says, and what has to come of it.

    Args:
        script: Two bytes for each deed; the first of all is the link.
    """

    def __init__(self, script: bytes) -> None:
        kind = script[0] if script else 0
        self.link = Link(
            _CONFIG,
            loss=(0.05, 0.1, 0.2, 0.3)[kind & 3],
            duplicate=(0.0, 0.1)[kind >> 2 & 1],
            reorder=(0.0, 0.3)[kind >> 3 & 1],
            seed=kind,
        )
        for end in self.link.ends:
            end.start(now=self.link.now)
        self.link.run(30.0)
        #: By channel: who opened it, whether it keeps order, whether it may give up.
        self.channels: dict[int, tuple[int, bool, bool]] = {}
        self.closed: set[int] = set()
        #: What was sent, by channel and the side that received it.
        self.sent: dict[tuple[int, int], list[bytes]] = {}
        self._serial = 0
        for at in range(1, min(len(script) - 1, 160), 2):
            self._act(script[at], script[at + 1])
            self.link.run((0.0, 0.05, 0.3, 0.05)[script[at] >> 4 & 3])

    def _act(self, deed: int, value: int) -> None:
        side = deed >> 3 & 1
        link, end = self.link, self.link.ends[side]
        if end.ended is not None:
            return
        # Each end may not know of the other's channels yet.
        has_room = max(len(each._channels) for each in link.ends) < _CONFIG.max_channels // 2 - 1
        if not end._channels or (deed & 7 <= 1 and value < 64 and has_room):
            partial = bool(deed & 1) and bool(value & 1)
            ordered = not deed & 1 or bool(value & 2)
            channel = end.open(
                "label",
                now=link.now,
                ordered=ordered,
                max_retransmits=value >> 2 & 1 if partial and value & 8 else None,
                max_lifetime=value if partial and not value & 8 else None,
            )
            # An id may be used again once both ends have closed it: then what was sent on it before is history.
            self.channels[channel] = side, ordered, partial
            self.closed.discard(channel)
            self.sent.pop((channel, 0), None)
            self.sent.pop((channel, 1), None)
            self._forget(channel)
        elif deed & 7 == 4 and value < 64:
            self._close(side, value)
        elif deed & 7 == 5:
            link.run(value / 200)
        elif deed & 7 == 6 and value < 64:
            end.path_changed(now=link.now)
        else:
            self._send(side, value, 40 if deed & 1 else 4000)

    def _forget(self, channel: int) -> None:
        for events in self.link.events:
            events[:] = [e for e in events if not (isinstance(e, MessageReceived) and e.channel_id == channel)]

    def _send(self, side: int, value: int, most: int) -> None:
        end = self.link.ends[side]
        ids = [each for each in end._channels if not end._channels[each].closing]
        if ids:
            channel = ids[value % len(ids)]
            self._serial += 1
            data = self._serial.to_bytes(4, "big") * (1 + value * most // 1020)
            end.send(channel, data, now=self.link.now)
            self.sent.setdefault((channel, 1 - side), []).append(data)

    def _close(self, side: int, value: int) -> None:
        mine = [channel for channel, terms in self.channels.items() if terms[0] == side and channel not in self.closed]
        if mine:
            channel = mine[value % len(mine)]
            self.closed.add(channel)
            self.link.ends[side].close_channel(channel, now=self.link.now)

    def settle(self) -> None:
        """Let the link be good and everything arrive; then look."""
        link = self.link
        link._loss = 0.0
        link.run(200.0)
        for (channel, receiver), sent in self.sent.items():
            opener, ordered, partial = self.channels[channel]
            if channel in self.closed and receiver == opener:
                continue  # who closes reads no more
            received = link.messages(receiver, channel)
            assert len(set(received)) == len(received), "a message came twice"
            if partial:
                assert set(received) <= set(sent)
            else:
                assert sorted(map(_bytes, received)) == sorted(sent), "a message is missing"
            if ordered:
                places = [sent.index(_bytes(data)) for data in received]
                assert places == sorted(places), "out of order"
        for end in link.ends:
            assert end.ended is None, end.ended
            assert set(end._channels) == set(self.channels) - self.closed
            assert end._association.sender.idle
            _check(end)


def _bytes(data: bytes | str) -> bytes:
    assert isinstance(data, bytes)
    return data


def _honest(script: bytes) -> str:
    _Application(script).settle()
    return TAKEN


def _deeds() -> tuple[bytes, ...]:
    dice = Random(5)
    return tuple(dice.randbytes(120) for _ in range(8))


ASSOCIATIONS = (
    Target(name="sctp-bad-link", seeds=_deeds, check=_honest, examples=60),
    Target(name="sctp-damaged", seeds=partial(example_scripts, 8, 20), check=_corrupted, examples=40),
    Target(name="sctp-broken-peer", seeds=partial(example_scripts, 8, 20), check=_broken_peer, examples=60),
)
