"""The fleet as the broker shows it: presence and birth documents."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.operator.link import BrokerLink
from edgeice.signaling import Info, Party, State, Status, TopicKind, open_info, seen_state
from edgeice.signaling.broker import Message

__all__ = ["DeviceEntry", "device_filters", "list_devices"]

#: Retained messages come in a burst after SUBACK; silence this long means that it is over, seconds.
_QUIET: Final = 0.3


@attrs.define
class DeviceEntry:
    """One device in the table."""

    party: Party
    status: Status | None = None
    info: Info | None = None

    @property
    def state(self) -> State:
        """What to believe of its state."""
        return seen_state(self.status, self.info.epoch if self.info else None)


def device_filters(root: str, fleet: str) -> tuple[str, ...]:
    """What to subscribe to for `list_devices`."""
    return f"{root}/{fleet}/d/+/{TopicKind.STATUS}", f"{root}/{fleet}/d/+/{TopicKind.INFO}"


async def list_devices(link: BrokerLink, patience: float) -> list[DeviceEntry]:
    """All devices that ever announced themselves, by name; documents that do not verify are left out."""
    entries: dict[Party, DeviceEntry] = {}
    with trio.move_on_after(patience):
        while True:
            with trio.move_on_after(_QUIET) as quiet:
                _take(entries, link, await link.messages.receive())
            if quiet.cancelled_caught:
                break
    return sorted(entries.values(), key=lambda entry: entry.party.name)


def _take(entries: dict[Party, DeviceEntry], link: BrokerLink, message: Message) -> None:
    try:
        topic = link.topics.parse(message.topic)
        entry = entries.get(topic.owner) or DeviceEntry(topic.owner)
        if topic.kind is TopicKind.STATUS:
            entry.status = Status.decode(message.payload)
        elif topic.kind is TopicKind.INFO:
            signed = open_info(message.payload)
            if signed.device != topic.owner:
                return
            entry.info = signed.info
    except DecodeError:
        return
    entries[topic.owner] = entry
