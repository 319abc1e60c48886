"""What a device goes through that is carried around: one thing after the other, at random, and never all at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import attrs

from tests.lab.networks import Router
from tests.lab.roaming.stage import Stage
from tests.lab.uplinks import Uplink

__all__ = ["Mover"]

#: Seconds for which a router is away.
_REBOOT = 0.3


def _nothing() -> None:
    pass


@attrs.frozen
class _Place:
    """An uplink of the device's, and the router behind it."""

    uplink: Uplink
    router: Router

    def lose_carrier(self) -> Callable[[], None]:
        self.uplink.unplug()
        return self.uplink.plug

    def set_down(self) -> Callable[[], None]:
        self.uplink.down()
        return self.uplink.up

    def lose_address(self) -> Callable[[], None]:
        self.uplink.remove_address()
        return self.uplink.up

    def go_dark(self) -> Callable[[], None]:
        self.uplink.blackhole()
        return partial(self.uplink.blackhole, on=False)

    def readdress(self, number: int) -> Callable[[], None]:
        network = self.uplink.lease.address.network
        self.uplink.readdress(str(network[number]))
        return _nothing

    def renumber(self) -> Callable[[], None]:
        self.router.renumber()
        return _nothing

    def reboot(self) -> Callable[[], None]:
        self.router.reboot(lambda: time.sleep(_REBOOT), new_ports=True)
        return _nothing


class Mover:
    """Does things to the uplinks of a device that has three of them.

    Args:
        stage: The device.
        seed: Of what happens, and to which uplink.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self._dice = random.Random(seed)
        self._places = {name: _Place(stage.device.uplinks[name], router) for name, router in stage.routers.items()}
        #: The uplink that was harmed last, and what makes it good again.
        self._harmed, self._repair = "", _nothing
        self._numbers = iter(range(100, 250))

    def move(self) -> str:
        """Harm an uplink that is good, and make good the one before; the others are good.  Says what happened."""
        name = self._dice.choice([name for name in self._places if name != self._harmed])
        place = self._places[name]
        kinds: dict[str, Callable[[], Callable[[], None]]] = {
            "carrier lost": place.lose_carrier,
            "set down": place.set_down,
            "address removed": place.lose_address,
            "black hole": place.go_dark,
            "address changed": partial(place.readdress, next(self._numbers)),
            "renumbered outside": place.renumber,
            "NAT rebooted": place.reboot,
        }
        kind = self._dice.choice(list(kinds))
        repair_the_last, self._harmed = self._repair, name
        self._repair = kinds[kind]()
        repair_the_last()
        return f"{name}: {kind}"

    def flap(self) -> None:
        """Let an uplink lose its carrier, or set it down, and at once have it again."""
        place = self._places[self._dice.choice(list(self._places))]
        repair = self._dice.choice([place.lose_carrier, place.set_down])()
        self.pause(0.01, 0.10)
        repair()

    def pause(self, least: float, most: float) -> None:
        """Let a random time pass, seconds."""
        time.sleep(self._dice.uniform(least, most))

    def settle(self) -> None:
        """Make good what is harmed."""
        self._repair()
        self._harmed, self._repair = "", _nothing
