"""Two ICE sessions that know mobility, each on several interfaces, in virtual time."""

from __future__ import annotations

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import IceConfig, SendPathChanged
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World

__all__ = ["Roaming", "at", "moves", "nominating"]

#: Interfaces by number, with what they cost.
INTERFACES = {1: ("eth0", 0), 2: ("wlan0", 10), 3: ("wwan0", 900)}


def at(host: int, interface: int, port: int = 4000) -> TransportAddress:
    """The address of agent A (1) or B (2) on an interface."""
    return TransportAddress(f"192.0.2.{host * 10 + interface}", port)


def moves(agent: Agent) -> list[tuple[TransportAddress | None, TransportAddress | None, str]]:
    """Where an agent's data went, from and to, and why."""
    return [
        (
            None if event.path is None else event.path.local,
            None if event.path is None else event.path.remote,
            event.cause,
        )
        for event in agent.of(SendPathChanged)
        if isinstance(event, SendPathChanged)
    ]


def nominating(agent: Agent) -> list[tuple[Path, int, bool]]:
    """Requests of an agent that tell a nomination or a move: where, its number, whether with USE-CANDIDATE."""
    found = []
    for sent in agent.sent:
        message = stun.decode(sent.data)
        number = message.get(stun.Attribute.NOMINATION)
        if message.message_class is stun.MessageClass.REQUEST and number:
            found.append((sent.path, number, bool(message.get(stun.Attribute.USE_CANDIDATE))))
    return found


class Roaming(World):
    """A (controlling) and B, connected, with their backups valid and nothing under way.

    Args:
        a: A's interfaces, of `INTERFACES`.
        b: B's.
        delay: One way, seconds.
        connected: Wait until everything is valid.

    Attributes:
        broken: Interfaces (agent number, interface number) that carry nothing.
        filtering: Agents (1, 2) that only hear from where they sent to, as behind most NATs.
    """

    def __init__(
        self,
        a: tuple[int, ...] = (2, 3),
        b: tuple[int, ...] = (1,),
        *,
        delay: float = 0.010,
        connected: bool = True,
        config: IceConfig | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(delay=delay, config=config, seed=seed)
        self.broken: set[tuple[int, int]] = set()
        self.filtering: set[int] = set()
        self._opened: set[tuple[TransportAddress, TransportAddress]] = set()
        self.filter = self._passes
        for number, agent, interfaces in ((1, self.a, a), (2, self.b, b)):
            agent.mobile = True
            for interface in interfaces:
                self.plug(number, interface)
            agent.end()
        self.exchange()
        if connected:
            self.run(10.0)
            assert self.states == ("completed", "completed")
            self.forget()

    def _passes(self, _agent: Agent, sent: Transmit) -> bool:
        self._opened.add((sent.path.local, sent.path.remote))
        if {self._link(sent.path.local), self._link(sent.path.remote)} & self.broken:
            return False
        filtered = self._link(sent.path.remote)[0] in self.filtering
        return not filtered or (sent.path.remote, sent.path.local) in self._opened

    @staticmethod
    def _link(address: TransportAddress) -> tuple[int, int]:
        last = int(address.ip.rpartition(".")[2])
        return last // 10, last % 10

    def agent(self, number: int) -> Agent:
        """A (1) or B (2)."""
        return self.a if number == 1 else self.b

    def plug(self, number: int, interface: int, port: int = 4000) -> None:
        """An interface comes up."""
        self.agent(number).add_base(at(number, interface, port), *INTERFACES[interface])

    def pull(self, number: int, interface: int, port: int = 4000) -> None:
        """An interface goes, and everything that is on its way to it."""
        self.agent(number).remove_base(at(number, interface, port))

    def forget(self) -> None:
        """What was sent and heard until now does not matter."""
        for agent in (self.a, self.b):
            agent.events.clear()
            agent.sent.clear()
            agent.sent_at.clear()

    @property
    def ends(self) -> tuple[Path | None, Path | None]:
        """Where both send, each as A sees it."""
        theirs = self.b.ice.send_path
        return self.a.ice.send_path, None if theirs is None else Path(theirs.remote, theirs.local)

    def agree_on(self, a: int, b: int) -> bool:
        """Whether both send between these interfaces, and have nominated the pair."""
        path = Path(at(1, a), at(2, b))
        return self.ends == (path, path) and self.states == ("completed", "completed")
