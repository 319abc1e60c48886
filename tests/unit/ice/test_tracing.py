"""A session's trace: every change of every pair and every timer, and nothing where nobody listens."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from edgeice.addresses import TransportAddress
from edgeice.ice import IceConfig, IceSession, Pacer
from edgeice.sansio import Entropy
from edgeice.trace import Record, entry_of
from tests.support.ice_pair import Agent, World, address


class Traced:
    """A world whose agent A is traced."""

    def __init__(self, config: IceConfig | None = None) -> None:
        self.records: list[Record] = []
        self.world = World(config=config)
        role = self.world.a.ice.role
        self.world.a.ice = IceSession(
            config or IceConfig(),
            role=role,
            pacer=Pacer(),
            entropy=Entropy.seeded(1),
            now=self.world.now,
            tracer=self.records.append,
        )

    @property
    def a(self) -> Agent:
        return self.world.a

    def named(self, *names: str) -> list[dict[str, object]]:
        return [entry_of(record) for record in self.records if record.name in names]

    def pairs(self) -> Iterator[tuple[str, dict[str, object]]]:
        """What the trace says that each pair has become, after each record."""
        known: dict[object, dict[str, object]] = {}
        for entry in self.named("pair_formed", "pair_changed", "pair_dropped"):
            key = entry.pop("generation"), entry.pop("path")
            name = str(entry.pop("name"))
            assert (key in known) is (name != "pair_formed")
            if name == "pair_dropped":
                yield name, known.pop(key)
            else:
                known[key] = {**known.get(key, {}), **entry}
                yield name, known[key]


def test_what_the_trace_says_of_a_pair_is_what_became_of_it() -> None:
    traced = Traced()
    traced.world.connect()
    traced.world.run(30)
    (pair,) = list(traced.a.ice._slots.current.checklist)
    (final,) = [facts for name, facts in list(traced.pairs())[-1:]]
    assert final["state"] == "succeeded"
    assert (final["sent"], final["received"]) == (pair.requests_sent, pair.requests_received)
    assert final["answered"] == pair.responses_received
    assert (final["nominated"], final["local"], final["remote"]) == (True, "host", "host")
    assert final["consent_left"] == IceConfig().consent_expiry  # at the last answer
    states = [entry["state"] for entry in traced.named("pair_formed", "pair_changed") if "state" in entry]
    # The first check left when the pair was formed, the second one in answer to the peer's.
    assert states == ["in_progress", "waiting", "in_progress", "succeeded"]


def test_every_request_is_in_the_trace() -> None:
    traced = Traced()
    traced.world.filter = lambda sender, _sent: sender is traced.world.b  # all of A's are lost
    traced.world.gather()
    traced.world.exchange()
    traced.world.run(5)
    totals = [entry["sent"] for entry in traced.named("pair_formed", "pair_changed") if "sent" in entry]
    requests = [sent for sent in traced.a.sent if sent.data[:2] == b"\0\1"]
    assert totals == list(range(1, len(requests) + 1))
    assert len(requests) > 3


def test_a_pair_that_fails_says_why_and_one_that_goes_is_told() -> None:
    traced = Traced(IceConfig(patience=1.0, check_transmissions=2))
    traced.world.filter = lambda _sender, _sent: False
    traced.world.gather()
    traced.world.exchange()
    traced.world.run(20)
    assert [entry["result"] for entry in traced.named("pair_failed")] == ["timeout"]
    assert [entry["state"] for entry in traced.named("pair_changed") if "state" in entry][-1] == "failed"
    traced.a.remove_base(address(1))
    assert [name for name, _ in traced.pairs()][-1] == "pair_dropped"


def test_timers_say_what_they_were_for() -> None:
    traced = Traced()
    traced.world.connect()
    traced.world.run(60)
    timers = Counter(entry["timer"] for entry in traced.named("timer"))
    assert set(timers) == {"settling", "consent", "patience"}
    assert timers["settling"] == timers["patience"] == 1
    assert 10 <= timers["consent"] <= 15  # every 4 to 6 s, in 60 s
    assert all(entry["late"] == 0 for entry in traced.named("timer"))


def test_what_is_dropped_says_why() -> None:
    traced = Traced()
    traced.world.connect()
    for data in (b"\0\1" + bytes(18), b"\1\1\0\0\x21\x12\xa4\x42" + bytes(12)):
        path = traced.a.ice.send_path
        assert path is not None
        traced.a.ice.receive_stun(data, path, now=traced.world.now)
    dropped = traced.named("stun_dropped")
    assert [entry["path"] for entry in dropped] == [str(path)] * 2
    assert all(entry["reason"] for entry in dropped)


@pytest.mark.parametrize("seed", range(3))
def test_the_deadline_is_the_earliest_of_those_that_have_names(seed: int) -> None:
    world = World(seed=seed)
    world.gather()
    world.exchange()
    for _ in range(50):
        world.run(0.3)
        for generation in world.a.ice._slots.all():
            named = [at for _, at in generation.deadlines() if at is not None]
            assert generation.next_timeout() == min(named, default=None)


def test_a_session_that_nobody_traces_does_not_load_what_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgeice.ice.tracing", raising=False)
    world = World()
    world.connect()
    assert world.states == ("completed", "completed")
    assert "edgeice.ice.tracing" not in sys.modules


def test_no_credential_is_in_the_trace() -> None:
    traced = Traced()
    traced.world.connect()
    traced.world.restart()
    traced.world.run(5)
    text = str([entry_of(record) for record in traced.records])
    for agent in (traced.world.a, traced.world.b):
        for generation in agent.ice._slots.all():
            assert generation.local.pwd not in text


def test_addresses_in_the_trace_are_those_of_the_pairs() -> None:
    traced = Traced()
    traced.world.connect()
    there = TransportAddress("192.0.2.2", 4000)
    assert {entry["path"] for entry in traced.named("pair_formed")} == {f"{address(1)}->{there}"}
