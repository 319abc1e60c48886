"""Bundling: control chunks, an acknowledgment and data share packets (RFC 9260 §6.10)."""

from __future__ import annotations

from collections import deque

from edgeice.sctp.chunks import COMMON_HEADER, HEADER_SIZE, encode_packet
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.crc32c import crc32c
from edgeice.sctp.receiver import Receiver
from edgeice.sctp.sender import Sender

__all__ = ["Outbox"]


class Outbox:
    """Builds packets and holds them until they are polled; the windows of the sender bound them."""

    __slots__ = ("_burst", "_config", "_header", "_packets", "_room", "_seed", "control")

    def __init__(self, config: SctpConfig) -> None:
        self._config = config
        self._room = config.mtu - HEADER_SIZE
        self._burst = config.max_burst
        self._packets: deque[bytes] = deque()
        self._header = b""
        self._seed = 0
        #: Chunks that go with the next packet.
        self.control: list[bytes] = []

    def header(self, tag: int) -> tuple[bytes, int]:
        """The common header without its checksum for packets with this tag, and the CRC to start from."""
        header = COMMON_HEADER.pack(self._config.local_port, self._config.remote_port, tag)
        return header, crc32c(header + bytes(4))

    def set_tag(self, tag: int) -> None:
        """The peer's verification tag for all further packets."""
        self._header, self._seed = self.header(tag)

    def emit(self, body: bytes, *, tag: int | None = None) -> None:
        """A packet of its own, with another tag where one is given."""
        header, seed = (self._header, self._seed) if tag is None else self.header(tag)
        self._packets.append(encode_packet(header, body, seed))

    def poll(self) -> bytes | None:
        """The next packet."""
        return self._packets.popleft() if self._packets else None

    def discard(self) -> None:
        """Forget the packets that were not polled."""
        self._packets.clear()

    def emit_with_data(self, chunk: bytes, sender: Sender, *, now: float) -> None:
        """One packet with a chunk and as much data as fits beside it."""
        chunks, _new = sender.fill(self._room - len(chunk), fresh=True, now=now)
        self.emit(b"".join((chunk, *chunks)))

    def flush(self, sender: Sender, receiver: Receiver, *, sending: bool, now: float) -> None:
        """Send control chunks, the acknowledgment if it is due, and what the windows allow of the data.

        An acknowledgment that is not due yet goes along with data.  New packets are limited to those that replace
        acknowledged ones and a burst (RFC 9260 §6.1 rule D); the next acknowledgment lets the next go.
        """
        burst = self._burst + sender.replaceable // self._room
        sender.replaceable = 0
        control = self.control
        while True:
            room = self._room
            parts: list[bytes] = []
            while control and len(control[0]) <= room:
                room -= len(control[0])
                parts.append(control.pop(0))
            sack = receiver.sack_size(room) if receiver.sack_wanted else 0
            if sending:
                chunks, new = sender.fill(room - sack, fresh=burst > 0, now=now)
                if new:
                    burst -= 1
            else:
                chunks = []
            if sack and (chunks or parts or receiver.sack_due):
                parts.append(receiver.take_sack(sack))
            if chunks:
                parts += chunks
            if not parts:
                return
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._packets.append(encode_packet(self._header, body, self._seed))

    def emit_sack(self, receiver: Receiver) -> None:
        """A packet with nothing but the acknowledgment."""
        self.emit(receiver.take_sack(self._room))
