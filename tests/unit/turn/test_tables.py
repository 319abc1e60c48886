"""Every state and every input of allocations, permissions and channels."""

from itertools import product

import pytest

from edgeice.addresses import TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.turn import TurnConfig
from edgeice.turn import allocation as allocations
from edgeice.turn import channel as channels
from edgeice.turn import permission as permissions
from edgeice.turn.allocation import TERMINAL, AllocationInput, AllocationState, next_state
from edgeice.turn.channel import Channel, ChannelInput, Channels, ChannelState
from edgeice.turn.permission import PermissionInput, Permissions, PermissionState

PEER = TransportAddress("198.51.100.3", 7000)

ALLOCATION = """
    allocating: granted=allocated refused=failed unusable=releasing gone=failed closed=abandoned
    allocated:  unusable=releasing gone=lost closed=releasing
    abandoned:  granted=releasing refused=released unusable=releasing gone=released closed=abandoned
    releasing:  gone=released closed=releasing
    failed:     gone=failed closed=failed
    lost:       gone=lost closed=lost
    released:   gone=released closed=released
"""
PERMISSION = """
    wanted:    asked=requested granted=installed
    requested: granted=installed refused=refused unanswered=refused
    installed: asked=renewing granted=installed
    renewing:  granted=installed refused=refused unanswered=installed
    refused:   granted=installed
"""
CHANNEL = """
    binding:  asked=binding granted=bound refused=refused unanswered=ended
    bound:    asked=renewing expired=ended
    renewing: granted=bound refused=refused unanswered=bound expired=ended
    ended:    asked=binding granted=bound refused=refused
    refused:
"""


def parsed(text: str) -> dict[tuple[str, str], str]:
    table: dict[tuple[str, str], str] = {}
    for line in text.split("\n"):
        state, _, rest = line.strip().partition(":")
        for cell in rest.split():
            happened, _, following = cell.partition("=")
            table[state, happened] = following
    return table


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (allocations.TRANSITIONS, ALLOCATION),
        (permissions.TRANSITIONS, PERMISSION),
        (channels.TRANSITIONS, CHANNEL),
    ],
    ids=["allocation", "permission", "channel"],
)
def test_the_table_is_this_one(table: dict[tuple[object, object], object], text: str) -> None:
    assert {
        (state.value, happened.value): following.value  # type: ignore[attr-defined]
        for (state, happened), following in table.items()
    } == parsed(text)


@pytest.mark.parametrize(("state", "happened"), list(product(AllocationState, AllocationInput)))
def test_every_state_and_input_of_an_allocation(state: AllocationState, happened: AllocationInput) -> None:
    expected = parsed(ALLOCATION).get((state.value, happened.value))
    if expected is None:
        with pytest.raises(LocalProtocolError):
            next_state(state, happened)
        return
    assert next_state(state, happened) == AllocationState(expected)
    assert (state not in TERMINAL) or AllocationState(expected) is state


@pytest.mark.parametrize(("state", "happened"), list(product(PermissionState, PermissionInput)))
def test_every_state_and_input_of_a_permission(state: PermissionState, happened: PermissionInput) -> None:
    table = Permissions(TurnConfig())
    permission = table.want(PEER.ip, now=0.0)
    assert permission is not None
    permission.state = state
    expected = parsed(PERMISSION).get((state.value, happened.value))
    done = table.happened(PEER.ip, happened, asked_at=1.0, now=2.0)
    assert (done is None) == (expected is None)
    assert permission.state == PermissionState(expected or state.value)
    assert table.is_live(PEER.ip) == (permission.state.value in {"installed", "renewing"})
    if happened is PermissionInput.GRANTED and expected:
        assert (permission.ends_at, permission.ask_at) == (301.0, 241.0)


def test_what_happens_to_a_permission_that_nobody_has() -> None:
    assert Permissions(TurnConfig()).happened(PEER.ip, PermissionInput.GRANTED, asked_at=0.0, now=1.0) is None


@pytest.mark.parametrize(("state", "happened"), list(product(ChannelState, ChannelInput)))
def test_every_state_and_input_of_a_channel(state: ChannelState, happened: ChannelInput) -> None:
    table = Channels(TurnConfig())
    assert table.bind(PEER, now=0.0)
    channel = table._by_peer[PEER]
    channel.state = state
    table.happened(PEER, happened, asked_at=1.0, now=2.0)
    expected = parsed(CHANNEL).get((state.value, happened.value), state.value)
    assert channel.state == ChannelState(expected)
    found: Channel | None = table.receiving(channel.number)
    assert (found is channel) == (expected in {"binding", "bound", "renewing"})
    found = table.sending(PEER, now=2.0)
    assert (found is channel) == (expected in {"bound", "renewing"})


def test_what_happens_to_a_channel_that_nobody_has() -> None:
    table = Channels(TurnConfig())
    table.happened(PEER, ChannelInput.GRANTED, asked_at=0.0, now=1.0)
    assert len(table) == 0
    assert table.sending(PEER, now=1.0) is None
