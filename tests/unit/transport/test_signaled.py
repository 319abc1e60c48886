"""The session's second road, over a real channel."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from edgeice.addresses import Path, TransportAddress
from edgeice.errors import DecodeError
from edgeice.peer import CandidateGathered, CandidatesEnded, CandidateWithdrawn, PathChanged
from edgeice.signaling import AnswerReceived, CandidatesReceived, Party, SessionId, SignalingSession
from edgeice.transport import NodeConfig, PeerConnection, SignaledConnection, open_node

PATH = Path(TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", 2))


@attrs.define
class Signaling:
    """What a road tells its session."""

    channel_open: bool = False
    next_gen: int = 1
    ended: bool = False
    offers: list[str] = attrs.field(factory=list)

    def offer(self, sdp: str, **_when: float | None) -> None:
        self.offers.append(sdp)


def refuse(_text: str) -> None:
    raise AssertionError("nothing was sent here")


@pytest.mark.parametrize("closed_first", [False, True])
async def test_a_goodbye_still_goes_out_when_the_reader_was_canceled(closed_first: bool) -> None:
    config = NodeConfig.loopback_only()
    with trio.fail_after(10):
        async with open_node(config) as here, open_node(config) as there, trio.open_nursery() as nursery:
            a, b = here.connection(offerer=True), there.connection()
            a.accept_answer(b.accept_offer(a.create_offer()))
            machine = Signaling()
            signaled = SignaledConnection(cast("SignalingSession", machine), lambda: None, lambda: None)
            channel = await a.open_channel("signal")
            reader = await b.incoming.receive()
            nursery.start_soon(signaled.run_channel, channel, refuse)
            await trio.testing.wait_all_tasks_blocked()
            assert machine.channel_open
            if closed_first:
                await reader.aclose()
                while machine.channel_open:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                signaled.send_on_channel(b"bye")
                if not closed_first:
                    assert await reader.receive() == "bye"
            assert machine.channel_open is not closed_first


SESSION = SessionId(Party.device("home", "pi"), "kid", "sid")


@pytest.mark.parametrize("answer", ["", "nonsense", "v=0\r\n", "the present one"])
async def test_an_answer_to_a_restart_that_cannot_be_used_takes_the_restart_back(answer: str) -> None:
    config = NodeConfig.loopback_only()
    with trio.fail_after(10):
        async with open_node(config) as here, open_node(config) as there:
            a, b = here.connection(offerer=True), there.connection()
            present = b.accept_offer(a.create_offer())
            a.accept_answer(present)
            machine = Signaling()
            signaled = SignaledConnection(cast("SignalingSession", machine), lambda: None, lambda: None)
            signaled.attach(a)
            channel = await a.open_channel("echo")
            signaled.restart()
            assert len(machine.offers) == 1
            signaled.take(AnswerReceived(SESSION, 1, present if answer == "the present one" else answer))
            assert not a.awaits_answer
            assert signaled.drops()["signal.answer"] == 1
            await channel.send("still there")
            assert await (await b.incoming.receive()).receive() == "still there"
            signaled.restart()
            assert len(machine.offers) == 2


async def test_without_an_answer_to_the_first_offer_there_is_no_session() -> None:
    async with open_node(NodeConfig.loopback_only()) as node:
        signaled = SignaledConnection(cast("SignalingSession", Signaling()), lambda: None, lambda: None)
        signaled.attach(node.connection(offerer=True))
        signaled.describe_first()
        with pytest.raises(DecodeError):
            signaled.take(AnswerReceived(SESSION, 0, "nonsense"))


@attrs.define
class Peer:
    """A peer connection that takes notes."""

    ufrag: str = "One"
    state: object = None
    awaits_answer: bool = False
    calls: list[tuple[str, str]] = attrs.field(factory=list)

    def add_candidate(self, line: str, _ufrag: str) -> None:
        self.calls.append(("add", line))

    def remove_candidate(self, line: str, _ufrag: str) -> None:
        self.calls.append(("remove", line))

    def create_offer(self) -> str:
        return ""

    def restart(self) -> str:
        self.ufrag += "x"
        return ""


@attrs.define
class Told(Signaling):
    """Notes what candidates it is to send."""

    candidates: list[tuple[int, str, tuple[str, ...], tuple[str, ...], bool]] = attrs.field(factory=list)

    def send_candidates(
        self, gen: int, ufrag: str, lines: tuple[str, ...], *, removed: tuple[str, ...], end: bool, **_when: object
    ) -> None:
        self.candidates.append((gen, ufrag, lines, removed, end))


def joined(machine: Told, peer: Peer, probes: list[str] | None = None) -> SignaledConnection:
    asked: list[str] = [] if probes is None else probes
    signaled = SignaledConnection(
        cast("SignalingSession", machine), lambda: None, lambda: None, lambda: asked.append("probe")
    )
    signaled.attach(cast("PeerConnection", peer))
    return signaled


async def test_candidates_that_go_are_told_like_those_that_come() -> None:
    machine = Told()
    signaled = joined(machine, Peer())
    signaled.describe_first()
    signaled.watch(CandidateGathered("candidate:1", "One"))
    signaled.watch(CandidatesEnded("One"))
    signaled.watch(CandidateWithdrawn("candidate:1", "One"))
    signaled.watch(CandidateWithdrawn("candidate:1", "unknown"))
    assert machine.candidates == [
        (0, "One", ("candidate:1",), (), False),
        (0, "One", (), (), True),
        (0, "One", (), ("candidate:1",), False),
    ]


async def test_what_the_peer_withdraws_goes_before_what_it_adds_comes() -> None:
    peer = Peer()
    signaled = joined(Told(), peer)
    signaled.take(CandidatesReceived(SESSION, 0, "U", ("candidate:1", "candidate:2"), ("candidate:1",)))
    assert peer.calls == [("remove", "candidate:1"), ("add", "candidate:1"), ("add", "candidate:2")]


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (PathChanged(None, cause="base_gone"), True),
        (PathChanged(PATH, fading=True), True),
        (PathChanged(PATH, cause="silent"), True),
        (PathChanged(PATH, nominated=True, cause="nominated"), False),
        (PathChanged(PATH, cause="better"), False),
    ],
)
async def test_the_broker_is_probed_where_the_path_is_silent(path: PathChanged, *, asks: bool) -> None:
    probes: list[str] = []
    joined(Told(), Peer(), probes).watch(path)
    assert probes == ["probe"] * asks


async def test_the_broker_is_probed_at_a_restart_and_generations_that_are_over_are_forgotten() -> None:
    machine, probes = Told(), list[str]()
    signaled = joined(machine, Peer(), probes)
    signaled.describe_first()
    for number in range(50):
        machine.next_gen = number + 1
        signaled.restart()
    assert (len(probes), len(signaled._generations)) == (50, 4)
