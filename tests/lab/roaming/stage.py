r"""A device that roams: three uplinks behind three NATs, an operator behind another one, a broker and a relay.

```
device   wlan0 10 ms - NAT -\
         wwan0 30 ms - NAT ---- internet ---- NAT - 10 ms  eth0   operator
         eth0   5 ms - NAT -/       |    \--- NAT - 15 ms  wlan0 (where asked for)
                          mosquitto, coturn
```

Times are one way.  No host has policy routing, as a Raspberry Pi has none: what is not pinned to a device leaves by the
default route of the lowest metric.  The NATs map independently of the destination and filter by address and port; where
the session is to need the relay, they map anew for each destination.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.agent.kit import AgentProcess, Device, Key, Operator
from tests.lab.lab import Host, Impairment, Lab
from tests.lab.nat import APDM_APDF, EIM_APDF
from tests.lab.networks import Router
from tests.lab.services import Broker, Coturn, coturn, mosquitto
from tests.lab.uplinks import Uplink

__all__ = ["DELAYS", "Setting", "Stage", "staged"]

#: One way, seconds; the default routes' metrics are those of a Raspberry Pi.
DELAYS = {"wlan0": 0.010, "wwan0": 0.030, "eth0": 0.005}
_METRICS = {"eth0": 100, "wlan0": 600, "wwan0": 700}
_OPERATOR_DELAYS = {"eth0": 0.010, "wlan0": 0.015}
#: What the names mean; the laboratory's devices are all of one kind to the kernel.
_LINKS = '[ice.links]\nwired = ["eth*"]\nwifi = ["wlan*"]\ncellular = ["wwan*"]'


@attrs.frozen(kw_only=True)
class Setting:
    """What a fault needs."""

    #: The device's uplinks that are up from the beginning; the others are there, without carrier and address.
    device: tuple[str, ...] = ("wlan0", "wwan0")
    later: tuple[str, ...] = ()
    operator: tuple[str, ...] = ("eth0",)
    #: Only the relay leads from one end to the other.
    relayed: bool = False


@attrs.frozen
class Stage:
    """What runs; `strike` of a fault does something to it."""

    lab: Lab
    device: Host
    operator: Host
    #: By the device's uplinks.
    routers: dict[str, Router]
    broker: Broker
    turn: Coturn
    agent: AgentProcess
    #: The operator's configuration, its key, and the device's.
    config: Path
    operator_key: Key
    device_key: Key
    #: What the device's agent traces.
    trace: Path

    @property
    def carrying(self) -> Uplink:
        """The device's uplink that a session takes first: the fastest, where nothing says better."""
        return self.device.uplinks["wlan0"]


class _Placed(Device):
    """A device whose commands run on a host."""

    def __init__(self, host: Host, folder: Path, url: str, extra: str) -> None:
        self._host = host
        super().__init__(folder, url, extra=extra)

    def command(self, *arguments: str) -> list[str]:
        return self._host.command(*super().command(*arguments))


@contextlib.contextmanager
def staged(setting: Setting, folder: Path, *, can: str = "exec", more: str = "") -> Iterator[Stage]:
    """Build it all, with the agent announced at the broker.

    Args:
        setting: What is to be there.
        folder: For the files of all.
        can: What the operator may.
        more: Further tables of the agent's configuration.
    """
    nat = APDM_APDF if setting.relayed else EIM_APDF
    with Lab() as lab, contextlib.ExitStack() as stack:
        server, meeting = lab.public_host("server", addresses=2), lab.public_host("broker")
        device, operator = lab.host("device"), lab.host("operator")
        routers = {
            name: lab.router(name, nat=nat, lan=f"192.168.{number}.0/24")
            for number, name in enumerate((*setting.device, *setting.later), start=1)
        }
        for name, router in routers.items():
            uplink = lab.connect(device, router, name, metric=_METRICS[name], emulated=True)
            uplink.impair(Impairment(delay=DELAYS[name]), seed=1)
        for number, name in enumerate(setting.operator, start=11):
            router = lab.router(f"there-{name}", nat=nat, lan=f"192.168.{number}.0/24")
            uplink = lab.connect(operator, router, name, metric=_METRICS[name], emulated=True)
            uplink.impair(Impairment(delay=_OPERATOR_DELAYS[name]), seed=1)
        for name in ("turn", "mqtt"):
            (folder / name).mkdir()
        turn = stack.enter_context(coturn(server, folder / "turn", mobility=True))
        broker = stack.enter_context(mosquitto(meeting, folder / "mqtt"))
        lab.settle()
        for name in setting.later:
            device.uplinks[name].unplug(managed=True)
        (login,) = turn.ice_servers("udp")
        extra = _extra(turn, login, folder)
        pi = _Placed(device, folder / "pi", broker.url, f'{extra}[trace]\nfile = "trace"\n{more}')
        alice = Operator(folder / "alice", broker.url, "alice")
        alice.config.write_text(f"{alice.config.read_text()}{extra}")
        for config in (pi.config, alice.config):
            _take_interfaces(config, turn)
        pi.trust(alice, can=can)
        alice.pin(pi)
        agent = stack.enter_context(AgentProcess(pi))
        agent.wait_log_sync("^announced ")
        keys, trace = (alice.key, pi.key), pi.folder / "trace"
        yield Stage(lab, device, operator, routers, broker, turn, agent, alice.config, *keys, trace)


def _extra(turn: Coturn, login: dict[str, str], folder: Path) -> str:
    secret = folder / "turn.password"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(login["credential"])
    lines = [f'urls = ["{login["urls"]}"]', f'username = "{login["username"]}"', f'password_file = "{secret}"']
    return "\n".join([_LINKS, "[turn]", *lines, ""])


def _take_interfaces(config: Path, turn: Coturn) -> None:
    """Use the host's interfaces, not loopback; and be as patient with the broker as one is in the field."""
    text = re.sub(r"\[ice\]\n(?:.+ = .+\n)*", f'[ice]\nstun = ["{turn.stun}"]\n', config.read_text())
    config.write_text(text.replace("will_delay = 0\n", "").replace('level = "debug"', 'level = "info"'))
