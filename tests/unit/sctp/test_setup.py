import attrs
import pytest

from edgeice.sansio import Entropy
from edgeice.sctp import AssociationClosed, AssociationEstablished, DataChannels, SctpConfig
from edgeice.sctp.chunks import (
    ChunkType,
    ParameterType,
    decode_causes,
    decode_init,
    encode_chunk,
    encode_init,
    encode_parameter,
    split_chunks,
)
from edgeice.sctp.handshake import Handshake
from edgeice.sctp.lifecycle import Timer
from edgeice.sctp.states import TRANSITIONS, Input, State
from tests.unit.sctp.link import Link, forge, kinds, values


def test_handshake_of_one_initiator_is_four_packets() -> None:
    link = Link()
    link.client.start(now=0.0)
    link.run(1.0)
    assert [kinds(p) for p in link.sent[0]] == [[ChunkType.INIT], [ChunkType.COOKIE_ECHO]]
    assert [kinds(p) for p in link.sent[1]] == [[ChunkType.INIT_ACK], [ChunkType.COOKIE_ACK]]
    assert link.events == ([AssociationEstablished()], [AssociationEstablished()])


def test_first_message_goes_with_the_cookie() -> None:
    link = Link()
    channel = link.client.open("l", now=0.0)
    link.client.send(channel, b"x", now=0.0)
    link.client.start(now=0.0)
    link.run(0.04)
    assert [kinds(p) for p in link.sent[0]] == [[1], [10, 0, 0], [3]]
    assert link.messages(1) == [b"x"]


def test_sctp_01_both_initiate_and_one_association_results() -> None:
    link = Link()
    link.connect()
    assert [len(sent) for sent in link.sent] == [4, 4]
    channel = link.client.open("l", now=link.now)
    link.client.send(channel, "a", now=link.now)
    link.run(0.1)
    link.server.send(channel, "b", now=link.now)
    link.run(0.1)
    assert (link.messages(1), link.messages(0)) == (["a"], ["b"])


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("side", [0, 1])
def test_sctp_01_collision_survives_each_loss(side: int, lost: int) -> None:
    link = Link()
    link.script = lambda s, number, _packet: (s, number) == (side, lost)
    for end in link.ends:
        end.start(now=0.0)
    link.run(5.0)
    assert link.client.established
    assert link.server.established
    assert link.of(0, AssociationEstablished) == link.of(1, AssociationEstablished) == [AssociationEstablished()]


@pytest.mark.parametrize(("side", "number"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_sctp_07_each_lost_packet_is_repeated(side: int, number: int) -> None:
    link = Link()
    link.script = lambda s, n, _packet: (s, n) == (side, number)
    channel = link.client.open("l", now=0.0)
    link.client.send(channel, b"x", now=0.0)
    link.client.start(now=0.0)
    link.run(3.0)
    assert link.client.established
    assert link.messages(1) == [b"x"]


def test_sctp_07_nine_inits_then_failure() -> None:
    link = Link()
    link.script = lambda *_args: True
    link.client.start(now=0.0)
    link.run(120.0)
    assert len(link.sent[0]) == 9
    assert link.of(0, AssociationClosed) == [AssociationClosed("no answer to association setup", True)]
    assert link.client.next_timeout() is None


def test_start_twice_is_once() -> None:
    link = Link()
    link.client.start(now=0.0)
    link.client.start(now=0.0)
    link.drain()
    assert len(link.sent[0]) == 1


def test_sctp_08_unknown_init_parameters_are_reported_both_ways() -> None:
    unknown = encode_parameter(0xC123, b"what")
    link = Link()
    link.client.start(now=0.0)
    init = link.client.poll_transmit()
    assert init is not None
    value = values(init, ChunkType.INIT)[0]
    link.server.receive_packets([forge(link.server, encode_chunk(1, value + unknown), tag=0)], now=0.0)
    answer = link.server.poll_transmit()
    assert answer is not None
    ack = values(answer, ChunkType.INIT_ACK)[0]
    assert decode_init(ack).reported == (unknown,)
    link.client.receive_packets([forge(link.client, encode_chunk(2, ack + unknown))], now=0.0)
    echo = link.client.poll_transmit()
    assert echo is not None
    assert kinds(echo) == [ChunkType.COOKIE_ECHO, ChunkType.ERROR]
    assert decode_causes(values(echo, ChunkType.ERROR)[0]) == [(8, unknown)]
    link.server.receive_packets([echo], now=0.0)
    assert link.server.established


def test_answer_to_a_flood_of_unknown_parameters_fits_a_packet() -> None:
    link = Link()
    init = Handshake(SctpConfig(), Entropy.seeded(9)).init()
    flood = b"".join(encode_parameter(0xC100 + n, bytes(40)) for n in range(23))
    link.server.receive_packets([forge(link.server, encode_chunk(1, init[4:] + flood), tag=0)], now=0.0)
    answer = link.server.poll_transmit()
    assert answer is not None
    assert len(answer) <= 1200


def test_host_21_init_flood_leaves_no_state() -> None:
    link = Link()
    server = link.server._association
    for seed in range(100):
        init = Handshake(SctpConfig(), Entropy.seeded(seed)).init()
        link.server.receive_packets([forge(link.server, init, tag=0)], now=0.0)
        assert link.server.poll_transmit() is not None
    assert server.state is State.CLOSED
    assert server._peer is None
    assert link.server.next_timeout() is None


@pytest.mark.parametrize(
    "fields", [{"outbound_streams": 0}, {"inbound_streams": 0}, {"a_rwnd": 1499}], ids=lambda each: next(iter(each))
)
def test_init_with_impossible_fields_is_aborted(fields: dict[str, int]) -> None:
    init = attrs.evolve(decode_init(Handshake(SctpConfig(), Entropy.seeded(3)).init()[4:]), **fields)  # type: ignore[arg-type]
    link = Link()
    link.server.receive_packets([forge(link.server, encode_init(init, ChunkType.INIT), tag=0)], now=0.0)
    answer = link.server.poll_transmit()
    assert answer is not None
    assert decode_causes(values(answer, ChunkType.ABORT)[0])[0][0] == 7
    assert link.server.drops.snapshot() == {"init-fields": 1}


def until_cookie(link: Link) -> bytes:
    """Run a handshake up to the packet with the COOKIE ECHO, which is returned, not delivered."""
    link.client.start(now=0.0)
    init = link.client.poll_transmit()
    assert init is not None
    link.server.receive_packets([init], now=0.0)
    ack = link.server.poll_transmit()
    assert ack is not None
    link.client.receive_packets([ack], now=0.0)
    echo = link.client.poll_transmit()
    assert echo is not None
    return echo


def test_sctp_06_stale_cookie_is_told_and_setup_begins_anew() -> None:
    link = Link()
    echo = until_cookie(link)
    link.server.receive_packets([echo], now=61.0)
    error = link.server.poll_transmit()
    assert error is not None
    assert decode_causes(values(error, ChunkType.ERROR)[0]) == [(3, (1_000_000).to_bytes(4, "big"))]
    assert link.server._association.state is State.CLOSED
    link.client.receive_packets([error], now=0.1)
    again = link.client.poll_transmit()
    assert again is not None
    assert kinds(again) == [ChunkType.INIT]
    link.now = 61.0
    link.server.receive_packets([again], now=61.0)
    link.run(1.0)
    assert link.client.established


def test_sctp_06_forged_cookie_is_dropped_in_silence() -> None:
    link = Link()
    echo = until_cookie(link)
    cookie = bytearray(values(echo, ChunkType.COOKIE_ECHO)[0])
    for at in (0, 12, len(cookie) - 1):
        bad = bytearray(cookie)
        bad[at] ^= 1
        link.server.receive_packets([forge(link.server, encode_chunk(10, bytes(bad)))], now=0.0)
    link.server.receive_packets([forge(link.server, encode_chunk(10, b"short"))], now=0.0)
    assert link.server.poll_transmit() is None
    assert link.server.drops.snapshot() == {"cookie-mac": 3, "cookie-length": 1}


def test_host_21_cookie_of_another_association_is_dropped() -> None:
    other, link = Link(seed=50), Link()
    echo = until_cookie(other)
    link.server.receive_packets([forge(link.server, *[encode_chunk(10, values(echo, 10)[0])])], now=0.0)
    assert link.server.drops.snapshot() == {"cookie-mac": 1}


def test_host_21_cookie_replayed_after_the_end_revives_nothing() -> None:
    link = Link()
    link.client.start(now=0.0)
    link.run(1.0)
    link.client.abort("done", now=link.now)
    link.run(1.0)
    link.server.receive_packets([link.sent[0][1]], now=link.now)
    assert link.server._association.state is State.ENDED
    assert not link.server.established


def test_repeated_cookie_is_acknowledged_again() -> None:
    link = Link()
    link.client.start(now=0.0)
    link.run(1.0)
    link.server.receive_packets([link.sent[0][1]], now=link.now)
    answer = link.server.poll_transmit()
    assert answer is not None
    assert kinds(answer) == [ChunkType.COOKIE_ACK]
    assert len(link.of(1, AssociationEstablished)) == 1


@pytest.mark.parametrize("kind", [ChunkType.INIT, ChunkType.INIT_ACK, ChunkType.SHUTDOWN_COMPLETE])
def test_sctp_02_chunks_that_must_be_alone(kind: int) -> None:
    link = Link()
    link.connect()
    link.server.receive_packets([forge(link.server, encode_chunk(kind, bytes(16)), encode_chunk(132))], now=link.now)
    assert link.server.drops.snapshot() == {"bundled": 1}
    assert link.server.established


def test_sctp_02_init_is_not_bundled_with_tag_0() -> None:
    link = Link()
    init = Handshake(SctpConfig(), Entropy.seeded(3)).init()
    link.server.receive_packets([forge(link.server, init, encode_chunk(132), tag=0)], now=0.0)
    assert link.server.poll_transmit() is None
    assert link.server.drops.snapshot() == {"verification-tag": 1}


@pytest.mark.parametrize("tag", [0, 1, 0xFFFFFFFF])
def test_sctp_03_wrong_tag_is_dropped(tag: int) -> None:
    link = Link()
    link.connect()
    for kind in (0, 3, 4, 6, 7, 8, 9, 11, 14, 130, 192):
        link.server.receive_packets([forge(link.server, encode_chunk(kind, bytes(16)), tag=tag)], now=link.now)
    assert link.server.drops.snapshot() == {"verification-tag": 11}
    assert link.server.poll_transmit() is None
    assert link.server.established


@pytest.mark.parametrize(
    ("own_tag", "reflected", "ends"),
    [(True, False, True), (True, True, False), (False, True, True), (False, False, False)],
)
def test_sctp_03_abort_and_the_t_bit(own_tag: bool, reflected: bool, ends: bool) -> None:
    link = Link()
    link.connect()
    server = link.server._association
    assert server._peer is not None
    tag = server._handshake.local_tag if own_tag else server._peer.tag
    link.server.receive_packets([forge(link.server, encode_chunk(6, b"", int(reflected)), tag=tag)], now=link.now)
    assert (link.server.ended is not None) is ends


def test_sctp_04_sctp_05_wrong_or_zero_checksum_is_dropped() -> None:
    link = Link()
    link.connect()
    link.server.receive_packets([forge(link.server, encode_chunk(6), good=False)], now=link.now)
    link.server.receive_packets([forge(link.server, encode_chunk(6), tag=0, good=False)], now=link.now)
    assert link.server.drops.snapshot() == {"checksum": 2}
    assert link.server.established


def test_sctp_05_zero_checksum_offer_is_tolerated_and_not_used() -> None:
    link = Link()
    link.client.start(now=0.0)
    init = link.client.poll_transmit()
    assert init is not None
    offer = encode_parameter(ParameterType.ZERO_CHECKSUM_ACCEPTABLE, (1).to_bytes(4, "big"))
    link.server.receive_packets([forge(link.server, encode_chunk(1, values(init, 1)[0] + offer), tag=0)], now=0.0)
    link.run(1.0)
    assert link.client.established
    assert all(packet[8:12] != bytes(4) for packet in link.sent[0] + link.sent[1])
    assert decode_init(values(link.sent[1][0], 2)[0]).reported == ()


def test_peer_that_restarts_ends_the_association() -> None:
    link = Link()
    link.connect()
    newcomer = DataChannels("client", SctpConfig(), Entropy.seeded(77))
    newcomer.start(now=link.now)
    for _ in range(2):
        packet = newcomer.poll_transmit()
        assert packet is not None
        link.server.receive_packets([packet], now=link.now)
        while (answer := link.server.poll_transmit()) is not None:
            newcomer.receive_packets([answer], now=link.now)
    assert link.server.ended == ("peer restarted", True)


def test_init_into_an_association_changes_nothing() -> None:
    link = Link()
    link.connect()
    stranger = Handshake(SctpConfig(), Entropy.seeded(5)).init()
    link.server.receive_packets([forge(link.server, stranger, tag=0)], now=link.now)
    answer = link.server.poll_transmit()
    assert answer is not None
    assert decode_init(values(answer, 2)[0]).initiate_tag != link.server._association._handshake.local_tag
    channel = link.client.open("l", now=link.now)
    link.client.send(channel, b"x", now=link.now)
    link.run(0.1)
    assert link.messages(1) == [b"x"]


def test_sctp_21_all_streams_are_offered_and_none_allocated() -> None:
    link = Link()
    link.connect()
    init = decode_init(values(link.sent[0][0], 1)[0])
    assert (init.outbound_streams, init.inbound_streams) == (65535, 65535)
    assert link.client._association.queue._streams == {}


def test_timers_have_names() -> None:
    link = Link()
    assert link.client._association.next_timer() is None
    link.client.start(now=0.0)
    assert link.client._association.next_timer() is Timer.T1
    link.run(1.0)
    assert link.client._association.next_timer() is Timer.HEARTBEAT
    link.client.open("l", now=link.now)
    assert link.client._association.next_timer() is Timer.PROBE


def test_table_ends_everything_and_leaves_nothing_after_the_end() -> None:
    for state in State:
        assert ((state, Input.END) in TRANSITIONS) is (state is not State.ENDED)
        for event in Input:
            if state is State.ENDED:
                assert (state, event) not in TRANSITIONS
    reached = set(TRANSITIONS.values()) | {State.CLOSED}
    assert reached == set(State)


def test_transitions_by_state_and_input() -> None:
    association = DataChannels("client")._association
    for state in State:
        for event in Input:
            association.state = state
            moved = association._move(event)
            assert moved is ((state, event) in TRANSITIONS)
            assert association.state is TRANSITIONS.get((state, event), state)


def test_packets_have_the_negotiated_ports() -> None:
    configs = (SctpConfig(local_port=4000, remote_port=6000), SctpConfig(local_port=6000, remote_port=4000))
    link = Link(configs=configs)
    link.connect()
    link.server.receive_packets([forge(link.server, encode_chunk(6))], now=link.now)
    assert link.server.drops.snapshot() == {"ports": 1}
    assert len(split_chunks(link.sent[0][0])) == 1
