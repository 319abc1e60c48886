"""`edgeice-agent check`: whether the configuration is right, and what the agent would do with it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import trio

from edgeice.agent.config import AgentConfig, load_config
from edgeice.agent.log import Log
from edgeice.agent.service import Agent, load_key, load_trust
from edgeice.agent.status import check_status_socket
from edgeice.errors import ConfigError
from edgeice.net import InterfaceMonitor, InterfacePolicy, Snapshot, assess
from edgeice.sansio import Entropy
from edgeice.services.account import Account
from edgeice.signaling import AuthorizedOperators, Party
from edgeice.transport import NodeConfig, broker_config, is_plain_and_remote

__all__ = ["check"]


def check(path: Path, *, as_json: bool) -> None:
    """Print what the agent would do; raises ConfigError for what would end it or hide the device."""
    config = load_config(path)
    key = load_key(config.key)
    trust = load_trust(config.trust)

    async def look() -> Snapshot:
        log = Log("error", wall=time.time)
        Agent(config, path, key=key, trust=trust, log=log, entropy=Entropy()).check()
        if not config.ice.interfaces:
            return Snapshot()
        with InterfaceMonitor() as monitor:
            return monitor.read()

    snapshot = trio.run(look)
    policy = NodeConfig.from_section(config.ice).policy
    assessed = assess(snapshot, policy)
    party = Party.device(config.fleet, config.device)
    broker = broker_config(config.broker, party)
    addresses = [*config.ice.loopback, *(each.ip for each in assessed if not each.why)]
    facts: dict[str, object] = {
        "device": str(party),
        "key": key.public.fingerprint,
        "broker": f"{broker.host}:{broker.port}",
        "tls": broker.tls is not None,
        "user": broker.username,
        "services": list(config.services.offered),
        "runs_as": Account.of(config.services.user).name,
        "stun": list(config.ice.stun),
        "addresses": addresses,
        "links": _links(snapshot, policy, {each.interface for each in assessed if not each.why}),
        "left_out": [
            {"interface": each.interface, "address": each.ip, "why": each.why} for each in assessed if each.why
        ],
        "sessions": config.limits.sessions,
        "operators": [
            {"operator": line.operator, "key": line.key.fingerprint, "can": list(line.can)} for line in trust.lines
        ],
        "warnings": _warnings(config, trust, addresses),
    }
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        for item in value if isinstance(value, list) else [value]:
            words = item.items() if isinstance(item, dict) else ()
            shown = " ".join(f"{k}={','.join(v) if isinstance(v, list) else v}" for k, v in words if v) or item
            print(f"{name:10} {shown}")


def _links(snapshot: Snapshot, policy: InterfacePolicy, used: set[str]) -> list[dict[str, object]]:
    """What the links of the interfaces are that the agent would use."""
    links = {each.name: policy.link(each) for each in snapshot.interfaces.values() if each.name in used}
    return [{"interface": name, "link": link.kind, "metered": link.is_metered} for name, link in links.items()]


def _warnings(config: AgentConfig, trust: AuthorizedOperators, addresses: list[str]) -> list[str]:
    warnings = [str(refused) for refused in trust.refused]
    if is_plain_and_remote(config.broker):
        warnings.append(f"broker.url: {config.broker.url} is not encrypted; use mqtts:// outside of loopback")
    runs_as = Account.of(config.services.user)
    if config.services.user is None and runs_as.uid == 0 and (config.services.shell or config.services.exec):
        warnings.append("shells and commands run as root; services.user names another user")
    if config.services.telemetry:
        try:
            check_status_socket(config.telemetry_socket)
        except ConfigError as error:
            warnings.append(f"the stream local of telemetry will not be there: {error}")
    if not addresses:
        warnings.append("no address of this device is used at present; left_out says why")
    unused = [local for local in config.ice.public if local not in addresses]
    warnings += [f"ice.public: {local} is no address that is used at present" for local in unused]
    if not trust.lines:
        warnings.append(f"{config.trust}: no operator is trusted; add one with `edgeice-agent trust add`")
    return warnings
