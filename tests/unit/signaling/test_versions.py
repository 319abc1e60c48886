from __future__ import annotations

from edgeice.signaling.broker import BrokerConfig
from edgeice.signaling.versions import VersionMemory


def broker(host: str = "a", port: int = 1883) -> BrokerConfig:
    return BrokerConfig(host=host, port=port, client_id="c")


def test_version_5_unless_a_broker_was_silent() -> None:
    memory = VersionMemory()
    assert memory.version(broker(), now=0.0) == "5"
    memory.met_silence(broker(), now=10.0)
    assert memory.version(broker(), now=10.0) == "3.1.1"
    assert memory.version(broker(port=1884), now=10.0) == "5"
    assert memory.version(broker("b"), now=10.0) == "5"
    memory.forget(broker())
    memory.forget(broker())
    assert memory.version(broker(), now=10.0) == "5"


def test_a_finding_holds_an_hour_however_often_it_is_made() -> None:
    memory = VersionMemory()
    memory.met_silence(broker(), now=0.0)
    memory.met_silence(broker(), now=3000.0)
    assert memory.version(broker(), now=3599.9) == "3.1.1"
    assert memory.version(broker(), now=3600.0) == "5"
    memory.met_silence(broker(), now=3600.0)
    assert memory.version(broker(), now=7199.9) == "3.1.1"


def test_sixty_four_brokers_are_remembered_and_the_oldest_forgotten() -> None:
    memory = VersionMemory()
    for port in range(1, 66):
        memory.met_silence(broker(port=port), now=0.0)
    assert [port for port in range(1, 66) if memory.version(broker(port=port), now=0.0) == "5"] == [1]
