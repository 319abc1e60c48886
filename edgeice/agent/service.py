"""The device service: what `edgeice-agent run` runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from edgeice import __version__
from edgeice.agent.clock import wall_clock
from edgeice.agent.config import AgentConfig, changed_keys, load_config
from edgeice.agent.failures import Failures
from edgeice.agent.log import Log, trace_to
from edgeice.agent.memory import release_memory_after
from edgeice.agent.networks import NetworkLog
from edgeice.agent.presence import Presence
from edgeice.agent.sessions import Sessions, check_description
from edgeice.agent.state import EpochFile
from edgeice.agent.status import check_status_socket, open_status_socket, serve_status
from edgeice.errors import ConfigError, DecodeError
from edgeice.files import read_secret, read_trusted
from edgeice.sansio import DropCounter, Entropy, Event
from edgeice.services import (
    EXEC_PROTOCOL,
    FORWARD_PROTOCOL,
    PING_PROTOCOL,
    SHELL_PROTOCOL,
    LocalSpawner,
    ServiceRegistry,
    standard_services,
)
from edgeice.services.privileges import keep_capabilities_from_children, why_not_run_as
from edgeice.services.telemetry import TELEMETRY_PROTOCOL, Telemetry
from edgeice.settings import broker_address
from edgeice.signaling import (
    Audit,
    AuthorizedOperators,
    ByeCode,
    DeviceSignaling,
    Info,
    Limits,
    Party,
    PrivateKey,
    PublishInfo,
    SendSignal,
    SignalAction,
    TopicKind,
    Topics,
    open_info,
    sign_audit,
    sign_info,
)
from edgeice.trace import Record
from edgeice.transport import (
    SIGNAL_PROTOCOL,
    NetworkChange,
    Node,
    NodeConfig,
    RelaySource,
    SignalPump,
    broker_config,
    open_node,
    ways_to_broker,
)

__all__ = ["Agent", "load_key", "load_trust"]


def load_key(path: Path) -> PrivateKey:
    """Read the device's key; raises ConfigError that says what to do."""
    return PrivateKey.load(read_secret(path, "the device's key"), source=str(path))


def load_trust(path: Path) -> AuthorizedOperators:
    """Read the operators' keys; a file that does not exist trusts nobody.  Raises ConfigError."""
    return AuthorizedOperators.parse(read_trusted(path, "whom the device trusts"), source=str(path))


class Agent:
    """One device.  Everything that can be wrong with files is said by `load`, as ConfigError, before anything runs."""

    def __init__(
        self,
        config: AgentConfig,
        path: Path,
        *,
        key: PrivateKey,
        trust: AuthorizedOperators,
        log: Log,
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._path = path
        self._key = key
        self._log = log
        self._entropy = entropy
        self._party = Party.device(config.fleet, config.device)
        self._topics = Topics(config.fleet, config.broker.root)
        self._tracer = trace_to(log)
        self._started_at = trio.current_time()
        self._failures = Failures(log)
        self._network_log = NetworkLog(log)
        self._status_drops = DropCounter()
        self._telemetry = Telemetry(config.telemetry_socket, config.telemetry.mounts, entropy=entropy)
        self._registry = ServiceRegistry(
            service
            for service in standard_services(broker_address(config.broker.url)[:2], self._telemetry)
            if service.protocol in self._offered(config)
        )
        self._signaling = DeviceSignaling(
            me=self._party,
            key=key,
            trust=trust,
            check_sdp=check_description,
            max_sessions=config.limits.sessions,
            entropy=entropy,
        )
        self._relays = RelaySource(config.turn, self._party)
        self._presence = Presence(
            party=self._party,
            key=key,
            topics=self._topics,
            broker=broker_config(config.broker, self._party),
            epochs=EpochFile(config.state),
            make_info=self._info,
            on_connected=lambda: self._signaling.connected(now=trio.current_time()),
            on_message=self._receive,
            on_relay=self._take_relay if self._relays.has_issuer else None,
            log=log,
            entropy=entropy,
        )
        self._pump = SignalPump(self._signaling, self._act, self._take, wall_clock)
        self._sessions: Sessions
        self._node: Node

    @classmethod
    def load(cls, path: Path, log: Log, entropy: Entropy | None = None) -> Agent:
        """Read configuration, key and trust; raises ConfigError."""
        config = load_config(path)
        trust = load_trust(config.trust)
        for refused in trust.refused:
            log.error("trust-line-refused", reason=refused)
        return cls(config, path, key=load_key(config.key), trust=trust, log=log, entropy=entropy or Entropy())

    def check(self) -> None:
        """Make what `run` would, but open nothing; raises ConfigError for what would end it or hide the device."""
        self._check_user()
        self._node = Node(self._node_config(self._config), self._entropy, self._tracer)
        self._sessions = self._make_sessions()
        file = self._config.trace.file
        if file is not None and file.is_dir():
            raise ConfigError(f"{file}: cannot be written: it is a folder")
        if file is not None and not os.access(file if file.exists() else file.parent, os.W_OK):
            raise ConfigError(f"{file}: cannot be written")
        try:
            open_info(sign_info(self._party, self._info(1), self._key, iat=int(time.time())))
        except DecodeError as error:
            raise ConfigError(f"{self._path}: operators would refuse what the device says of itself: {error}") from None
        EpochFile(self._config.state).check()
        check_status_socket(self._config.socket)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until SIGTERM or SIGINT, or until canceled; sessions get `bye`, presence `off`."""
        self._check_user()
        keep_capabilities_from_children()  # before there is a thread that has them
        listener = open_status_socket(self._config.socket)
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals, self._tracing():
                config = self._node_config(self._config)
                async with open_node(config, self._entropy, self._tracer, self._network_changed) as self._node:
                    ways = ways_to_broker(self._node.usable, self._node.host_addresses)
                    self._presence.client.network_changed(ways)
                    self._sessions = self._make_sessions()
                    async with trio.open_nursery() as nursery:
                        self._sessions.use(self._pump, nursery)
                        nursery.start_soon(self._pump.run)
                        nursery.start_soon(self._presence.run)
                        nursery.start_soon(release_memory_after, self._sessions.wait_ended)
                        nursery.start_soon(serve_status, listener, self.status, self._status_drops)
                        self._log.info(
                            "started", version=__version__, device=self._party, key=self._key.public.fingerprint
                        )
                        task_status.started()
                        await self._obey(signals)
                        await self._leave()
                        nursery.cancel_scope.cancel()
        finally:
            listener.close()
            self._config.socket.unlink(missing_ok=True)
        self._log.info("stopped")

    def status(self) -> dict[str, object]:
        """What the agent knows of itself."""
        drops = {f"signaling.{reason}": count for reason, count in self._signaling.drops.snapshot().items()}
        drops |= {f"mqtt.{reason}": count for reason, count in self._presence.client.drops.snapshot().items()}
        drops |= {f"presence.{reason}": count for reason, count in self._presence.drops.snapshot().items()}
        drops |= {f"status.{reason}": count for reason, count in self._status_drops.snapshot().items()}
        drops |= {f"telemetry.{reason}": count for reason, count in self._telemetry.drops.snapshot().items()}
        drops |= self._node.drops() | self._sessions.drops.snapshot()
        return {
            "version": __version__,
            "device": str(self._party),
            "key": self._key.public.fingerprint,
            "seconds": round(trio.current_time() - self._started_at, 1),
            "broker": {"connected": self._presence.client.connected, "announced": self._presence.announced},
            "epoch": self._presence.epoch,
            "time_synced": wall_clock() is not None,
            "bases": [{"address": str(base.address), "interface": base.interface} for base in self._node.bases],
            "interfaces": [
                {
                    "interface": each.interface,
                    "link": each.link.kind if each.link else None,
                    "metered": each.link.is_metered if each.link else None,
                    "default_route": list(each.default_route),
                    "addresses": list(each.addresses),
                    "sent": each.sent,
                    "received": each.received,
                }
                for each in self._node.interfaces()
            ],
            "left_out": [
                {"interface": each.interface, "address": each.ip or None, "why": each.why}
                for each in self._node.left_out()
            ],
            "sessions": self._sessions.report(),
            "kept_shells": self._sessions.report_kept(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "drops": drops,
            "failures": self._failures.snapshot(),
        }

    # Inside

    async def _obey(self, signals: trio.abc.AsyncIterator[int]) -> None:  # type: ignore[name-defined]
        async for number in signals:
            if number != signal.SIGHUP:
                self._log.info("stopping", signal=signal.Signals(number).name)
                return
            self._reload()

    def _reload(self) -> None:
        """SIGHUP: take over what can change under way, the trust file and the addresses; keep what is running."""
        try:
            config = load_config(self._path)
            trust = load_trust(config.trust)
            running = self._with_changes(config)
            node_config = self._node_config(running)
        except ConfigError as error:
            self._log.error("reload-failed", reason=error)
            return
        for refused in trust.refused:
            self._log.error("trust-line-refused", reason=refused)
        self._signaling.trust_changed(trust, now=trio.current_time(), wall=wall_clock())
        self._pump.touch()
        self._sessions.end_kept(trust)
        self._node.reconfigure(node_config)
        self._config = running
        if keys := changed_keys(running, config):
            self._log.warning("restart-needed", keys=",".join(keys))
        self._log.info("reloaded")

    def _with_changes(self, config: AgentConfig) -> AgentConfig:
        """The configuration that runs, with what can be taken over from another one."""
        running = self._config.ice
        # Servers and what candidates say are decided once for all sessions.
        ice = attrs.evolve(
            config.ice,
            stun=running.stun,
            public=running.public,
            policy=running.policy,
            resolve_names=running.resolve_names,
        )
        if bool(ice.loopback) != bool(running.loopback):
            ice = attrs.evolve(ice, loopback=running.loopback)  # whether they are allowed at all, likewise
        return attrs.evolve(self._config, trust=config.trust, ice=ice)

    async def _leave(self) -> None:
        self._signaling.set_draining(draining=True)
        await self._sessions.end_all(ByeCode.SHUTDOWN, "the agent stops")
        with trio.move_on_after(3):
            await self._sessions.wait_idle()
        await self._presence.leave()

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Trace to the file too, where there is one; raises ConfigError where it cannot be written."""
        section, to_log = self._config.trace, self._tracer
        if section.file is None:
            yield
            return
        from edgeice.redaction import Pseudonyms  # noqa: PLC0415  # most devices never need them
        from edgeice.trace_file import TraceFile  # noqa: PLC0415

        def failed(error: OSError) -> None:
            self._log.error("trace-ended", file=section.file, reason=error.strerror)

        with TraceFile(
            section.file,
            wall=time.time,
            clock=trio.current_time,
            pseudonyms=Pseudonyms() if section.redact else None,
            size=section.size << 20,
            on_failure=failed,
        ) as file:

            def trace(record: Record) -> None:
                to_log(record)
                file.write(record)

            self._tracer = trace
            yield

    def _make_sessions(self) -> Sessions:
        return Sessions(
            signaling=self._signaling,
            node=self._node,
            registry=self._registry,
            spawner=LocalSpawner(self._config.services.user),
            limits=self._config.limits,
            wall=wall_clock,
            log=self._log,
            failures=self._failures,
            audit=self._audit,
            tracer=self._tracer,
            probe=self._presence.client.probe,
        )

    def _check_user(self) -> None:
        user = self._config.services.user
        if user is not None and (why := why_not_run_as(user)) is not None:
            raise ConfigError(f"{self._path}: services.user: {why}")

    @staticmethod
    def _offered(config: AgentConfig) -> set[str]:
        services = config.services
        offered = {
            SHELL_PROTOCOL: services.shell,
            EXEC_PROTOCOL: services.exec,
            FORWARD_PROTOCOL: services.forward,
            TELEMETRY_PROTOCOL: services.telemetry,
            PING_PROTOCOL: services.ping,
        }
        return {protocol for protocol, on in offered.items() if on}

    def _node_config(self, config: AgentConfig) -> NodeConfig:
        return NodeConfig.from_section(config.ice, self._relays, broker=broker_address(config.broker.url)[:2])

    def _info(self, epoch: int) -> Info:
        link = self._node.uplink
        return Info(
            version=__version__,
            nonce=self._signaling.nonce,
            epoch=epoch,
            time_synced=wall_clock() is not None,
            key=self._key.public,
            labels=self._config.labels,
            services=(*self._registry.protocols, SIGNAL_PROTOCOL),
            link=link.kind,
            metered=link.is_metered,
            keepalive=self._config.broker.keepalive,
            limits=Limits(self._config.limits.sessions, self._sessions.active, self._config.limits.channels),
        )

    def _network_changed(self, change: NetworkChange) -> None:
        self._presence.client.network_changed(ways_to_broker(change.usable, change.host_addresses))
        if self._config.ice.interfaces:
            self._network_log.note(change)
        self._presence.info_changed()

    def _receive(self, sender: Party, payload: bytes) -> None:
        try:
            self._signaling.receive(sender, payload, now=trio.current_time(), wall=wall_clock())
        except Exception as error:  # noqa: BLE001  # a defect that one message meets is not to end the sessions
            self._failures.note("signaling", error, sender=sender)
        self._pump.touch()

    def _take_relay(self, payload: bytes) -> None:
        try:
            relay = self._relays.take(payload, wall=wall_clock())
        except DecodeError as error:
            self._log.error("relay-credentials-refused", reason=error)
            return
        self._log.info("relay-credentials", issuer=relay.iss, until=relay.exp, urls=",".join(relay.urls))
        self._node.set_turn_servers(self._relays.servers)

    def _take(self, event: Event) -> None:
        self._sessions.take(event)

    def _act(self, action: SignalAction) -> None:
        if isinstance(action, PublishInfo):
            self._presence.post_info()
            return
        try:
            self._send(action)
        except Exception as error:  # noqa: BLE001  # nor one that one session's message meets
            self._sessions.fail(action.session, error)

    def _send(self, action: SendSignal) -> None:
        if action.road in ("channel", "both"):
            self._sessions.send_on_channel(action.session, action.jws)
        if action.road in ("mqtt", "both"):
            topic = self._topics.rx(action.session.peer, self._party)
            self._presence.post(topic, action.jws, expiry=action.expiry)

    def _audit(self, audit: Audit) -> None:
        jws = sign_audit(self._party, audit, self._key, iat=int(time.time()))
        self._presence.post(self._topics.of(TopicKind.AUDIT, self._party), jws)
        self._presence.info_changed()  # a session began or ended
