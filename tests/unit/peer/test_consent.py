"""What may be sent and taken on a path, and how long, with all layers in place (RFC 7675, RFC 7983)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.peer import ConnectionEnded, ConnectionState, PathChanged
from edgeice.sansio import Transmit
from edgeice.stun import is_stun
from tests.unit.peer.pair import End, Pair


def watch(pair: Pair, passes: Callable[[End, Transmit], bool]) -> list[tuple[float, End, Transmit]]:
    """Everything that is put on the link from now on; what does not pass is lost."""
    seen: list[tuple[float, End, Transmit]] = []
    carry = pair.carry

    def watched(_sender: End, sent: Transmit) -> None:
        seen.append((pair.now, _sender, sent))
        if passes(_sender, sent):
            carry(_sender, sent)

    pair.carry = watched  # type: ignore[method-assign]  # the link
    return seen


def data_of(seen: list[tuple[float, End, Transmit]], end: End) -> list[float]:
    """When an end sent anything but STUN."""
    return [at for at, sender, sent in seen if sender is end and not is_stun(sent.data)]


def test_con_01_no_dtls_leaves_before_a_check_succeeded_nor_after_consent_ended() -> None:
    pair = Pair()
    seen = watch(pair, lambda _sender, sent: not is_stun(sent.data))
    begun = pair.now
    for step in range(50):
        pair.send(pair.a, b"%d" % step)
        pair.run(1.0)
    times = data_of(seen, pair.a)
    lost = next(event for event in pair.a.of(PathChanged) if event.path is None)
    assert lost.path is None
    assert pair.a.connection.state is ConnectionState.INTERRUPTED
    # Until consent ended, 24 to 30 s after the last answer could come, and not a datagram later.
    assert 23.0 < max(times) - begun <= 30.0
    assert len(times) >= 23


def test_con_01_a_session_that_was_never_answered_sends_checks_only() -> None:
    pair = Pair(connected=False)
    seen = watch(pair, lambda _sender, _sent: False)
    pair.run(60.0)
    assert len(seen) >= 7
    assert all(is_stun(sent.data) for _, _, sent in seen)


@pytest.mark.parametrize("silent", ["a", "b"])
def test_con_01_one_way_is_not_enough(silent: str) -> None:
    """The side whose checks are answered may send, the other one may not."""
    pair = Pair(connected=False)
    mute = pair.a if silent == "a" else pair.b
    seen = watch(pair, lambda sender, sent: not (sender is mute and sent.data[:2] == b"\x00\x01"))
    pair.run(5.0)
    # B is the DTLS client: its ClientHello goes once its own checks succeed.
    assert data_of(seen, mute) == []


def test_con_06_an_end_that_is_told_revokes_at_once() -> None:
    pair = Pair()
    seen = watch(pair, lambda _sender, _sent: True)
    pair.a.connection.close(now=pair.now)
    pair.run(0.01)
    assert pair.b.of(ConnectionEnded) == [ConnectionEnded("closed", "closed by peer")]
    seen.clear()
    pair.run(120.0)
    assert seen == []


@pytest.mark.parametrize("kind", ["alert", "close_notify", "sealed", "garbage"])
def test_con_06_a_forged_end_revokes_nothing(kind: str) -> None:
    pair = Pair()
    record = {
        # Plaintext alerts (RFC 6347 §4.1): fatal handshake_failure, and close_notify.
        "alert": bytes.fromhex("15fefd00000000000000990002") + b"\x02\x28",
        "close_notify": bytes.fromhex("15fefd00000000000000990002") + b"\x01\x00",
        # An alert of the present epoch that nobody sealed.
        "sealed": bytes.fromhex("15fefd0001000000000099001a") + bytes(26),
        "garbage": bytes([21]) + bytes(40),
    }[kind]
    for _ in range(10):
        pair.a.receive(Transmit(Path(pair.b.base.address, pair.a.base.address), record))
    pair.send(pair.b, b"on")
    pair.run(60.0)
    assert pair.a.messages == [b"on"]
    assert pair.a.connection.state is ConnectionState.CONNECTED
    assert pair.a.of(ConnectionEnded) == []


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_host_09_a_storm_of_unreachables_ends_no_path_that_has_consent(code: int) -> None:
    pair = Pair()
    path = Path(pair.a.base.address, pair.b.base.address)
    for number in range(10_000):
        pair.a.endpoint.socket_error(path, code, now=pair.now)
        while pair.a.endpoint.poll_touched() is not None:
            pass
        if number % 1000 == 0:
            pair.a.drain()
            pair.send(pair.b, b"%d" % number)
            pair.run(6.0)
    assert pair.a.endpoint.drops["socket-error"] == 10_000
    assert pair.a.messages == [b"%d" % number for number in range(0, 10_000, 1000)]
    assert pair.a.of(PathChanged) == []
    # Consent decides: it ends when answers do, storm or not.
    watch(pair, lambda _sender, _sent: False)
    pair.run(31.0)
    assert pair.a.connection.state is ConnectionState.INTERRUPTED


STRANGER = TransportAddress("203.0.113.66", 6666)


def first_bytes(pair: Pair, source: TransportAddress) -> dict[str, set[int]]:
    """First bytes of datagrams from an address, by what A dropped them for."""
    found: dict[str, set[int]] = {}

    def dropped() -> dict[str, int]:
        endpoint = {f"endpoint.{reason}": count for reason, count in pair.a.endpoint.drops.snapshot().items()}
        return pair.a.connection.drop_counts() | endpoint

    for first in range(256):
        before = dropped()
        pair.a.receive(Transmit(Path(source, pair.a.base.address), bytes([first]) + b"\xff" * 40))
        after = dropped()
        (reason,) = (key for key in after if after[key] != before.get(key, 0))
        found.setdefault(reason, set()).add(first)
    return found


def test_ice_63_what_comes_on_a_sessions_path_is_told_apart_by_its_first_byte_and_the_rest_dropped() -> None:
    pair = Pair()
    found = first_bytes(pair, pair.b.base.address)
    dtls = {first for reason in found if reason.startswith("dtls.") for first in found[reason]}
    assert dtls == set(range(20, 64))
    # Nothing that looks like STUN and is none; no RTP here, and ChannelData only from a TURN server's address.
    assert found["peer.not-dtls"] == set(range(256)) - dtls
    assert len(found) == len([reason for reason in found if reason.startswith("dtls.")]) + 1
    pair.send(pair.b, b"on")
    pair.run(0.1)
    assert pair.a.messages == [b"on"]


def test_ice_63_what_comes_from_elsewhere_is_dropped_whatever_its_first_byte() -> None:
    pair = Pair()
    found = first_bytes(pair, STRANGER)
    assert found == {
        "endpoint.unroutable": set(range(20, 64)),
        "endpoint.unknown-kind": set(range(256)) - set(range(20, 64)),
    }
