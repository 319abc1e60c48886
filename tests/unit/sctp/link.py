"""Two machines back to back over a link in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import TypeVar

from edgeice.sansio import Entropy, Event
from edgeice.sctp import DataChannels, MessageReceived, SctpConfig
from edgeice.sctp.chunks import COMMON_HEADER, DATA_HEADER, encode_packet, split_chunks
from edgeice.sctp.crc32c import crc32c

E = TypeVar("E", bound=Event)


class Link:
    """Carries packets both ways; `script` may drop one: (direction, number, packet) -> True to drop.

    A run that takes too many steps fails: two machines that keep each other busy are a bug.
    """

    def __init__(
        self,
        config: SctpConfig | None = None,
        *,
        delay: float = 0.01,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        seed: int = 1,
        entropy: tuple[Entropy, Entropy] | None = None,
        configs: tuple[SctpConfig, SctpConfig] | None = None,
    ) -> None:
        one, two = configs or (config or SctpConfig(), config or SctpConfig())
        first, second = entropy or (Entropy.seeded(seed), Entropy.seeded(seed + 100))
        self.client = DataChannels("client", one, first)
        self.server = DataChannels("server", two, second)
        self.ends = (self.client, self.server)
        self.events: tuple[list[Event], list[Event]] = ([], [])
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        self.script: Callable[[int, int, bytes], bool] | None = None
        self.poll_events = [True, True]
        #: Whether the applications take the messages that they hear of.
        self.consumes = [True, True]
        self.now = 0.0
        self.delay = delay
        self._loss, self._duplicate, self._reorder = loss, duplicate, reorder
        self._random = Random(seed)
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._serial = 0

    def drain(self) -> None:
        """Empty both machines onto the link."""
        for side, end in enumerate(self.ends):
            busy = True
            while busy:
                busy = False
                while (packet := end.poll_transmit()) is not None:
                    busy = True
                    self._carry(side, packet)
                while self.poll_events[side] and (event := end.poll_event()) is not None:
                    busy = True
                    self.events[side].append(event)
                    if isinstance(event, MessageReceived) and self.consumes[side]:
                        end.consumed(event.charge, now=self.now)

    def _carry(self, side: int, packet: bytes) -> None:
        number = len(self.sent[side])
        self.sent[side].append(packet)
        if self.script is not None and self.script(side, number, packet):
            return
        if self._random.random() < self._loss:
            return
        for _ in range(2 if self._random.random() < self._duplicate else 1):
            late = self.delay * 3 * self._random.random() if self._random.random() < self._reorder else 0.0
            self._serial += 1
            heapq.heappush(self._flying, (self.now + self.delay + late, self._serial, 1 - side, packet))

    def next_at(self) -> float | None:
        """When something happens next."""
        times = [at for end in self.ends if (at := end.next_timeout()) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        return min(times, default=None)

    def run(self, seconds: float = 1.0, *, steps: int = 200_000) -> None:
        """Let so much virtual time pass."""
        until = self.now + seconds
        self.drain()
        while (at := self.next_at()) is not None and at <= until:
            steps -= 1
            assert steps, "livelock"
            self.now = max(self.now, at)
            while self._flying and self._flying[0][0] <= self.now:
                _at, _serial, side, packet = heapq.heappop(self._flying)
                self.ends[side].receive_packets([packet], now=self.now)
                self.drain()
            for end in self.ends:
                due = end.next_timeout()
                if due is not None and due <= self.now:
                    end.handle_timeout(now=self.now)
            self.drain()
        self.now = until

    def connect(self) -> None:
        """Establish with both ends starting."""
        for end in self.ends:
            end.start(now=self.now)
        self.run(1.0)
        assert self.client.established
        assert self.server.established

    def of(self, side: int, kind: type[E]) -> list[E]:
        """Events of one kind that one end gave."""
        return [event for event in self.events[side] if isinstance(event, kind)]

    def messages(self, side: int, channel_id: int | None = None) -> list[bytes | str]:
        """Data that one end received."""
        received = self.of(side, MessageReceived)
        return [event.data for event in received if channel_id is None or event.channel_id == channel_id]


def forge(target: DataChannels, *chunks: bytes, tag: int | None = None, good: bool = True) -> bytes:
    """A packet for `target` with its tag or another, and a right or wrong checksum."""
    association = target._association
    own = association._handshake.local_tag if tag is None else tag
    header = COMMON_HEADER.pack(5000, 5000, own)
    packet = encode_packet(header, b"".join(chunks), crc32c(header + bytes(4)))
    return packet if good else packet[:8] + bytes(4) + packet[12:]


def data_chunk(tsn: int, payload: bytes, *, stream_id: int = 0, ssn: int = 0, ppid: int = 53, flags: int = 3) -> bytes:
    """A DATA chunk with its padding."""
    head = DATA_HEADER.pack(0, flags, 16 + len(payload), tsn & 0xFFFFFFFF, stream_id, ssn, ppid)
    return head + payload + bytes(-len(payload) % 4)


def kinds(packet: bytes) -> list[int]:
    """Types of the chunks in a packet."""
    return [span[0] for span in split_chunks(packet)]


def values(packet: bytes, kind: int) -> list[bytes]:
    """Values of the chunks of one type in a packet."""
    return [packet[start:end] for each, _flags, start, end in split_chunks(packet) if each == kind]
