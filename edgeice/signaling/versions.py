"""Which brokers were found to speak MQTT 3.1.1 alone."""

from __future__ import annotations

from typing import Final

from edgeice.signaling.broker import BrokerConfig, MqttVersion

__all__ = ["VersionMemory"]

#: How long a finding holds, seconds: a broker's weakness that passed for it does not cost version 5 for ever.
_HOLDS: Final = 3600.0
#: Brokers remembered; beyond it the oldest finding is forgotten.
_LIMIT: Final = 64


class VersionMemory:
    """Findings about brokers, shared by the clients of a process that connect to them one after another."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], float] = {}

    def version(self, config: BrokerConfig, *, now: float) -> MqttVersion:
        """The version to begin with."""
        return "3.1.1" if self._until.get(_key(config), now) > now else "5"

    def met_silence(self, config: BrokerConfig, *, now: float) -> None:
        """The broker said nothing to version 5, and accepted us with 3.1.1; does not prolong an earlier finding."""
        if self.version(config, now=now) != "5":
            return
        self.forget(config)  # so that the newest stands last
        self._until[_key(config)] = now + _HOLDS
        if len(self._until) > _LIMIT:
            del self._until[next(iter(self._until))]

    def forget(self, config: BrokerConfig) -> None:
        """The broker did not take 3.1.1 either."""
        self._until.pop(_key(config), None)


def _key(config: BrokerConfig) -> tuple[str, int]:
    return config.host, config.port
