from random import Random

import crc32c as package
import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.sctp.chunks import packet_checksum_holds
from edgeice.sctp.crc32c import Extend, crc32c, extend, fold_extend


@pytest.mark.parametrize("function", [extend, fold_extend])
def test_sctp_04_check_value(function: Extend) -> None:
    assert function(0, b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [*range(70), 333, 1188, 1199, 1200, 1201, 1500, 4096])
def test_sctp_04_implementations_agree(size: int) -> None:
    data = Random(size).randbytes(size)
    expected = google_crc32c.value(data)
    assert package.crc32c(data) == fold_extend(0, data) == crc32c(data) == expected


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_folding_continues_where_it_stopped(first: bytes, second: bytes) -> None:
    assert fold_extend(fold_extend(0, first), second) == google_crc32c.value(first + second)


def test_sctp_04_a_flipped_bit_anywhere_is_seen() -> None:
    packet = bytearray(Random(1).randbytes(40))
    packet[8:12] = crc32c(bytes(packet[:8]) + bytes(4) + bytes(packet[12:])).to_bytes(4, "little")
    assert packet_checksum_holds(bytes(packet))
    for bit in range(len(packet) * 8):
        packet[bit // 8] ^= 1 << bit % 8
        assert not packet_checksum_holds(bytes(packet))
        packet[bit // 8] ^= 1 << bit % 8
