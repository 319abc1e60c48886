"""One session with one device: from `info` to data channels, and kept through restarts."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import trio

from edgeice.errors import DecodeError, RemoteProtocolError
from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import OperatorError, RefusedError, UnreachableError
from edgeice.operator.explain import all_in_use, busy_error, explain, warning
from edgeice.operator.interface import USUAL_CHANNELS, Step, Watcher
from edgeice.operator.link import BrokerLink
from edgeice.operator.path import SessionPath
from edgeice.operator.roads import Roads, keep_roads
from edgeice.operator.timeline import Timeline
from edgeice.peer import ConnectionState, PathChanged, PathMoved, StateChanged
from edgeice.sansio import Entropy, Event
from edgeice.signaling import (
    AnswerReceived,
    ByeCode,
    ByeReceived,
    Connector,
    DeviceBusy,
    DeviceKeyPresented,
    DeviceNotSeen,
    DeviceSaidAway,
    NothingHeard,
    OfferNeeded,
    OperatorFailed,
    Party,
    PrivateKey,
    PublicKey,
    SendSignal,
    SignalAction,
    TopicKind,
)
from edgeice.signaling.broker import Message, MqttRefusedError
from edgeice.text import duration
from edgeice.trace import Tracer, ignore
from edgeice.transport import (
    SIGNAL_PROTOCOL,
    ConnectionFailedError,
    DataChannel,
    PeerConnection,
    Progress,
    SignaledConnection,
    SignalPump,
)

__all__ = ["ConfirmKey", "Session", "open_session"]

#: Asked at first contact; True pins the key.
ConfirmKey = Callable[[Party, PublicKey], Awaitable[bool]]


class Session:
    """A session with a device.  Made by `open_session`."""

    def __init__(
        self,
        roads: Roads,
        connector: Connector,
        *,
        device: Party,
        confirm: ConfirmKey,
        watch: Watcher,
        timeline: Timeline,
        fingerprint: str,
        lost_time: float,
    ) -> None:
        self.device = device
        self._fingerprint = fingerprint
        self._lost_time = lost_time
        self._roads = roads
        self._link = roads.link
        self._node = roads.node
        self._connector = connector
        self._confirm = confirm
        self._watch = watch
        self._timeline = timeline
        self._pump = SignalPump(connector, self._act, self._take, _wall)
        self._signaled: SignaledConnection | None = None
        self._path: SessionPath | None = None
        self._failure: OperatorError | None = None
        self._established = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._step = "device"
        self._bye = ""
        self._told_busy = False
        self._patience = math.inf
        self._attempt = trio.CancelScope()

    @property
    def name(self) -> str:
        """The device's name."""
        return self.device.name

    @property
    def max_channels(self) -> int:
        """How many channels of services the device takes at once, as it says."""
        info = self._connector.info
        return (info.limits.channels if info else None) or USUAL_CHANNELS

    @property
    def peer(self) -> PeerConnection:
        """The peer connection; for status and paths."""
        if self._signaled is None:
            raise UnreachableError("device", "no session was begun")
        return self._signaled.peer

    @property
    def heard_at(self) -> float:
        """When the device was heard last, by Trio's clock."""
        return self.peer.heard_at

    async def open(self, protocol: str) -> DataChannel:
        """Open a service's channel; raises UnreachableError if the session is over."""
        try:
            return await self.peer.open_channel(protocol, label=protocol)
        except Exception as error:
            if self.peer.ended is None:
                raise
            raise self.ended_error() from error

    async def wait_ended(self) -> NoReturn:
        """Wait for the session's end; raises UnreachableError that says why."""
        await self.peer.wait_closed()
        raise self.ended_error()

    def ended_error(self) -> OperatorError:
        """Why the session is over, for a service that lost its channel."""
        ended = self.peer.ended
        reason = self._bye or (ended.reason if ended else "the session is over")
        return UnreachableError("session", f"the session with {self.device.name} ended: {reason}", self._tried())

    async def connect(self, nursery: trio.Nursery, patience: float) -> None:
        """Reach the device; raises OperatorError that names the step that failed and what was tried.

        Args:
            nursery: Where the session's tasks run.
            patience: Seconds, those aside in which a person decides about the key.
        """
        self._nursery = nursery
        nursery.start_soon(self._pump.run)
        nursery.start_soon(self._read)
        self._say("device", f"looking for {self.device}")
        self._connector.start(now=trio.current_time())
        self._pump.touch()
        self._patience = patience
        with trio.move_on_after(patience) as self._attempt:
            await self._established.wait()
        if self._failure is not None:
            raise self._failure
        if self._attempt.cancelled_caught:
            raise self._timeout_error(patience)
        try:
            # The session's first channel (contract §8): before any service asks for one.
            channel = await self.peer.open_channel(SIGNAL_PROTOCOL, label="signal")
        except ConnectionFailedError:
            return  # over already; whoever uses the session is told why
        nursery.start_soon(self._run_signal_channel, channel)
        nursery.start_soon(self._keep_path)

    def close(self) -> None:
        """Say goodbye and end; done when the scope of `open_session` ends."""
        self._connector.close(ByeCode.DONE, "", wall=_wall())
        self._pump.touch()
        if self._signaled is not None:
            self._signaled.peer.abort()
            self._timeline.note("session", "verdict", **self.verdict())

    def verdict(self) -> dict[str, object]:
        """What was tried and what became of it so far, or when the session ended: see `edgeice.peer.verdict`.

        Its phases begin with the steps before the first check.
        """
        steps = self._timeline.seconds(before="checks")
        if self._signaled is None:
            return {"outcome": "failed", "step": self._step, "phases": steps}
        verdict = self._node.verdict(self._signaled.peer)
        if self._path is not None:
            verdict["recovery"] = self._path.report()
        phases = verdict.get("phases")
        if isinstance(phases, dict):
            verdict["phases"] = {**steps, **{name: spent for name, spent in phases.items() if name != "new"}}
        if self._bye and verdict["step"]:
            verdict["reason"] = self._bye
        return verdict

    # Inside

    async def _read(self) -> None:
        async for message in self._link.messages:
            self._receive(message)
            self._pump.touch()

    def _receive(self, message: Message) -> None:
        try:
            topic = self._link.topics.parse(message.topic)
        except DecodeError:
            return
        if topic.kind is TopicKind.INFO and topic.owner == self.device:
            self._connector.receive_info(message.payload)
        elif topic.kind is TopicKind.STATUS and topic.owner == self.device:
            self._connector.receive_status(message.payload)
        elif topic.kind is TopicKind.TURN and message.payload:
            self._roads.take_relay(message.payload, wall=_wall())
        elif topic.kind is TopicKind.RX and topic.sender is not None:
            self._connector.receive(topic.sender, message.payload, now=trio.current_time(), wall=_wall())

    def _act(self, action: SignalAction) -> None:
        assert isinstance(action, SendSignal)  # only devices publish documents
        if action.road in ("channel", "both") and self._signaled is not None:
            self._signaled.send_on_channel(action.jws)
        if action.road in ("mqtt", "both"):
            topic = self._link.topics.rx(self.device, self._link.party)

            def refused(error: MqttRefusedError) -> None:
                self._refused_by_broker(topic, error)

            self._link.client.post(topic, action.jws, expiry=action.expiry, on_refused=refused)

    def _refused_by_broker(self, topic: str, error: MqttRefusedError) -> None:
        """Nothing that is said by the broker reaches the device; a session that stands has its own road."""
        self._timeline.note("broker", "refused", topic=topic, reason=str(error))
        if not self._established.is_set():
            self._fail(RefusedError("broker", f"the broker does not let {self._link.party} write {topic}: {error}"))

    def _take(self, event: Event) -> None:
        self._timeline.event("signaling", event)
        match event:
            case DeviceKeyPresented():
                assert self._nursery is not None
                self._nursery.start_soon(self._ask, event)
            case OfferNeeded():
                self._offer()
            case DeviceBusy() | DeviceSaidAway() | DeviceNotSeen() | NothingHeard():
                self._warn(event)
            case OperatorFailed():
                self._fail(explain(event, self.device, self._fingerprint, self._connector.info))
            case ByeReceived():
                self._bye = f"{event.code}: {event.reason}".rstrip(": ")
                if self._signaled is not None:
                    self._signaled.peer.abort()
            case AnswerReceived(gen=0):
                self._say("checks", "checking paths")
                self._carry(event)
            case _:
                self._carry(event)

    def _warn(self, event: DeviceBusy | DeviceSaidAway | DeviceNotSeen | NothingHeard) -> None:
        if isinstance(event, DeviceBusy):
            self._timeline.note("session", "busy", reason=event.reason, again_in=round(event.again_in, 1))
            if self._told_busy:
                return
            self._told_busy = True
        self._pass_on(Step("notice", warning(event, self.device, self._connector.info)))

    def _carry(self, event: Event) -> None:
        if self._signaled is None:
            return
        try:
            self._signaled.take(event)
            if self._path is not None:
                self._path.take(event)
        except (DecodeError, RemoteProtocolError) as error:
            self._fail(OperatorError("offer", f"the device's answer cannot be used: {error}"))

    def _offer(self) -> None:
        if self._signaled is not None:
            self._signaled.peer.abort()  # a stale nonce: what was made for the first offer is void
        machine = self._connector.session
        assert machine is not None  # that is what the event says
        signaled = SignaledConnection(machine, _wall, self._pump.touch, self._link.client.probe)
        signaled.attach(self._node.connection(watch=self._progress, offerer=True))
        self._signaled = signaled
        self._path = SessionPath(signaled, self._node, self._pass_on, device=self.device.name, patience=self._lost_time)
        self._say("offer", "offering a session")
        self._connector.offer(signaled.describe_first(), now=trio.current_time(), wall=_wall())

    async def _ask(self, event: DeviceKeyPresented) -> None:
        self._attempt.deadline = math.inf  # people may take their time
        accepted = await self._confirm(event.device, event.key)
        self._attempt.deadline = trio.current_time() + self._patience
        if accepted:
            self._connector.accept_key(event.key)
        else:
            self._connector.close(ByeCode.DONE, wall=_wall())
            self._fail(RefusedError("device", f"the key of {event.device} was not accepted"))
        self._pump.touch()

    def _progress(self, progress: Progress) -> None:
        if self._signaled is None:
            return
        self._signaled.watch(progress)
        if not isinstance(progress, PathChanged | PathMoved):  # which are said as steps
            self._timeline.event("connection", progress)
        match progress:
            case StateChanged(state=ConnectionState.SECURING):
                self._say("securing", "securing the path")
            case StateChanged(state=ConnectionState.CONNECTED):
                if not self._established.is_set():
                    self._say("connected", "connected")
                self._established.set()
            case StateChanged(state=ConnectionState.CLOSED):
                assert self._nursery is not None
                self._nursery.start_soon(self._after_end)
            case _:
                pass
        if self._path is not None:
            self._path.watch(progress)

    async def _after_end(self) -> None:
        # The reason follows the change of state within the same batch of events.
        ended = await self.peer.wait_closed()
        if not self._established.is_set() and self._failure is None:
            self._fail(UnreachableError(ended.step, f"{ended.step}: {self._bye or ended.reason}", self._tried()))

    async def _keep_path(self) -> None:
        assert self._path is not None  # there is a session
        await self._path.run()
        reason = f"no path for {duration(self._lost_time)}"
        self._bye = f"{ByeCode.LOST}: {reason}"
        self._connector.close(ByeCode.LOST, reason, wall=_wall())
        self._pump.touch()
        self.peer.abort()

    async def _run_signal_channel(self, channel: DataChannel) -> None:
        assert self._signaled is not None

        def receive(text: str) -> None:
            self._connector.receive_channel(text, now=trio.current_time(), wall=_wall())

        await self._signaled.run_channel(channel, receive)

    def _fail(self, error: OperatorError) -> None:
        if self._failure is None:
            self._failure = error
        self._established.set()

    def _say(self, name: str, text: str) -> None:
        """Take a step on the way to the device."""
        self._step = name
        self._timeline.step(name, text)
        self._watch(Step(name, text))

    def _pass_on(self, step: Step) -> None:
        """Say what is of interest."""
        facts = {} if step.move is None else step.move.as_dict()
        self._timeline.note("session", step.name, text=step.text, **facts)
        self._watch(step)

    def _timeout_error(self, patience: float) -> OperatorError:
        if self._step == "offer" and self._connector.busy:
            return busy_error(self._connector.busy, self.device, self._tried(), patience)
        full = all_in_use(self._connector.info)
        said = {
            "device": f"{self.device.name} did not show itself",
            "offer": f"{self.device.name} did not answer, and {full}"
            if full
            else f"{self.device.name} did not answer: it may be away, or may not know your key"
            f" {self._fingerprint} (add it there with `edgeice-agent trust add`)",
            "checks": "no candidate pair answered",
            "securing": "a path was found, but DTLS or SCTP did not come up on it",
        }
        message = said.get(self._step, self._step)
        return UnreachableError(self._step, f"{message} (waited {patience:g} s)", self._tried())

    def _tried(self) -> dict[str, object]:
        verdict = self.verdict()
        if verdict["outcome"] == "open":
            verdict["outcome"] = "failed"  # it is given up
        return {"verdict": verdict}


def _wall() -> int:
    return int(time.time())


@asynccontextmanager
async def open_session(
    config: OperatorConfig,
    key: PrivateKey,
    device: str,
    *,
    pinned: PublicKey | None,
    want: tuple[str, ...],
    confirm: ConfirmKey,
    watch: Watcher,
    timeout: float = 10.0,  # noqa: ASYNC109  # bounds the way to the session, not the scope
    trace: Tracer = ignore,
    entropy: Entropy | None = None,
) -> AsyncIterator[Session]:
    """A session with a device, for as long as the scope lasts; it says goodbye also where it is canceled.

    Args:
        config: Fleet, broker, addresses.
        key: The operator's key.
        device: The device's name.
        pinned: Its key, None at first contact.
        want: Capabilities that the session will use.
        confirm: Asked at first contact.
        watch: Hears the steps.
        timeout: Seconds for the broker, and again for the device.
        trace: Hears everything that is tried, without secrets, with times from the beginning on.
        entropy: For tests.

    Raises:
        OperatorError: It could not be reached, or the session ended; `detail["timeline"]` holds what was tried.
    """
    entropy = entropy or Entropy()
    party = Party.device(config.fleet, device)
    me = Party.operator(config.fleet, config.operator)
    topics = BrokerLink.topics_of(config)
    filters = (topics.rx_filter(me, party), topics.of(TopicKind.STATUS, party), topics.of(TopicKind.INFO, party))
    timeline = Timeline(trace)
    connecting = Step("broker", f"connecting to {config.broker.url}")
    timeline.step(connecting.name, connecting.text)
    watch(connecting)
    connector = Connector(
        me=me, key=key, device=party, pinned=pinned, want=want, entropy=entropy, timeout=max(timeout, 1.0)
    )
    over = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            keep = partial(keep_roads, config, entropy, filters, patience=timeout, tracer=timeline.take, over=over)
            session = Session(
                await nursery.start(keep),
                connector,
                device=party,
                confirm=confirm,
                watch=watch,
                timeline=timeline,
                fingerprint=key.public.fingerprint,
                lost_time=config.patience,
            )
            try:
                await session.connect(nursery, timeout)
                yield session
            finally:
                session.close()
                over.set()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        for error in _operator_errors(group):
            error.detail |= {"timeline": timeline.entries(), "timeline_dropped": timeline.dropped}
        raise


def _operator_errors(group: BaseExceptionGroup[BaseException]) -> Iterator[OperatorError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _operator_errors(error)
        elif isinstance(error, OperatorError):
            yield error
