"""What may happen to a device that roams, and what has to be there for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from tests.lab.roaming.stage import Setting, Stage

__all__ = ["FAULTS", "NONE", "Fault"]

#: Seconds for which a router is away that is rebooted.
_REBOOT = 1.0


@attrs.frozen
class Fault:
    """One thing that happens."""

    #: Does it; returns when it was done, which is when the network began to be another one.
    strike: Callable[[Stage], object]
    setting: Setting = attrs.field(factory=Setting)
    #: Nothing breaks: whatever the session does about it, it does without need.
    gentle: bool = False


def _carrier_loss(stage: Stage) -> None:
    stage.carrying.unplug()


def _admin_down(stage: Stage) -> None:
    stage.carrying.down()


def _address_removed(stage: Stage) -> None:
    stage.carrying.remove_address()


def _address_changed(stage: Stage) -> None:
    stage.carrying.readdress("192.168.1.77")


def _blackhole(stage: Stage) -> None:
    stage.carrying.blackhole()


def _wan_renumbered(stage: Stage) -> None:
    stage.routers["wlan0"].renumber()


def _nat_rebooted(stage: Stage) -> None:
    stage.routers["wlan0"].reboot(lambda: time.sleep(_REBOOT), new_ports=True)


def _broker_down_carrier_loss(stage: Stage) -> None:
    stage.broker.server.kill()
    _carrier_loss(stage)


def _relay_restarted(stage: Stage) -> None:
    stage.turn.server.restart()


def _both_move(stage: Stage) -> None:
    stage.operator.uplinks["eth0"].unplug()
    _carrier_loss(stage)


def _better_link(stage: Stage) -> None:
    stage.device.uplinks["eth0"].plug()


def _cold_carrier_loss(stage: Stage) -> None:
    _carrier_loss(stage)
    stage.device.uplinks["wwan0"].plug()


#: For a run in which nothing happens: what is found then is the silence of the tools.
NONE = Fault(lambda _stage: None)

FAULTS: dict[str, Fault] = {
    "carrier_loss": Fault(_carrier_loss),
    "admin_down": Fault(_admin_down),
    "address_removed": Fault(_address_removed),
    "address_changed": Fault(_address_changed),
    "blackhole": Fault(_blackhole),
    "wan_renumbered": Fault(_wan_renumbered),
    "nat_rebooted": Fault(_nat_rebooted),
    "broker_down_carrier_loss": Fault(_broker_down_carrier_loss),
    "relay_restarted": Fault(_relay_restarted, Setting(relayed=True)),
    "both_move": Fault(_both_move, Setting(operator=("eth0", "wlan0"))),
    "better_link": Fault(_better_link, Setting(later=("eth0",)), gentle=True),
    "cold_carrier_loss": Fault(_cold_carrier_loss, Setting(device=("wlan0",), later=("wwan0",))),
}
