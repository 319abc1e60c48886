"""What servers answered to this host's addresses, and what its kernel refused to send: for verdicts on sessions."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import ServerNameUnknown, ServerReflexiveLearned, ServerUnanswered
from edgeice.peer.relay_events import RelayFailed, RelayGained, RelayLost, RelayMoved
from edgeice.sansio import DropCounter, Event

__all__ = ["HostLog", "ServerReport"]

#: Servers times bases that are remembered; the one heard of longest ago makes room.
_SERVERS: Final = 256


@attrs.frozen(kw_only=True)
class ServerReport:
    """What a server answered last to one of this host's addresses."""

    #: As configured, `turn:…`; of a STUN server `stun:` and the address that its name stands for.
    server: str
    #: The address that it was asked from; None where that never came about.
    base: TransportAddress | None = None
    #: `answered`; `asked`, without an answer so far; or why not, as a slug: `timeout`, `error_NNN`, `unauthorized`,
    #: `redirect_loop`, `name_unknown`, ….
    result: str
    #: The error code that it gave, if it gave one.
    code: int | None = None
    #: The address that it sees `base` as, or relays for.
    address: TransportAddress | None = None


class HostLog:
    """Takes the events of an Endpoint that tell of servers, and what could not be sent."""

    __slots__ = ("_refused", "_reports")

    def __init__(self) -> None:
        self._reports: dict[tuple[str, TransportAddress | None], ServerReport] = {}
        #: By base, how often the kernel refused to send, by error.
        self._refused: dict[TransportAddress, DropCounter] = {}

    def take(self, event: Event) -> None:
        """Hear an event of the Endpoint."""
        report = _report(event)
        if report is None:
            return
        key = report.server, report.base
        self._reports.pop(key, None)
        if len(self._reports) >= _SERVERS:
            del self._reports[next(iter(self._reports))]
        self._reports[key] = report

    def refused(self, path: Path, code: int) -> None:
        """The kernel refused to send on a path."""
        self._refused.setdefault(path.local, DropCounter()).count(errno.errorcode.get(code, "UNKNOWN"))

    def base_removed(self, address: TransportAddress) -> None:
        """Forget what was asked and sent from there."""
        self._reports = {key: report for key, report in self._reports.items() if report.base != address}
        self._refused.pop(address, None)

    def servers(self, asked: Iterable[tuple[str, TransportAddress | None]]) -> list[dict[str, object]]:
        """Each server's last answer to each base, and those among the asked ones that gave none so far."""
        silent = dict.fromkeys(key for key in asked if key not in self._reports)
        reports = [*self._reports.values(), *(ServerReport(server=s, base=base, result="asked") for s, base in silent)]
        return [
            {
                "server": report.server,
                "base": None if report.base is None else str(report.base),
                "result": report.result,
                "code": report.code,
                "address": None if report.address is None else str(report.address),
            }
            for report in reports
        ]

    def bases(self, bases: Iterable[Base]) -> list[dict[str, object]]:
        """These bases, each with what the kernel refused."""
        return [
            {
                "address": str(base.address),
                "interface": base.interface,
                "relay": None if base.server is None else str(base.server),
                "unsent": self._refused[base.address].snapshot() if base.address in self._refused else {},
            }
            for base in bases
        ]


def _report(event: Event) -> ServerReport | None:
    match event:
        case ServerReflexiveLearned():
            return ServerReport(server=f"stun:{event.server}", base=event.base, result="answered", address=event.mapped)
        case ServerUnanswered():
            return ServerReport(server=f"stun:{event.server}", base=event.base, result=event.reason)
        case ServerNameUnknown():
            return ServerReport(server=event.uri, result="name_unknown")
        case RelayGained() | RelayMoved():
            return ServerReport(server=event.uri, base=event.base, result="answered", address=event.relayed)
        case RelayFailed() | RelayLost():
            code = event.code if isinstance(event, RelayFailed) else None
            return ServerReport(server=event.uri, base=event.base, result=event.reason, code=code)
        case _:
            return None
