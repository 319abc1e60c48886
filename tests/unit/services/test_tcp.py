"""How connections are made: to real sockets and routes, in virtual time; only names are resolved by the tests."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from edgeice.services import ErrorCode, ServiceError, TcpStream
from edgeice.services import tcp as tcp_module
from edgeice.services.tcp import connect_tcp
from tests.support.namespace import fresh_network_namespace, ip

#: By kind of route: an address that it is for, what the kernel says, and the code.
ROUTES = {
    "unreachable": ("192.0.2.1", "No route to host"),
    "prohibit": ("192.0.2.3", "Permission denied"),
}


async def nothing_barred(_ip: str, _port: int) -> bool:
    return False


async def failure(host: str, port: int) -> tuple[ErrorCode, str]:
    """How connecting fails."""
    with pytest.raises(ServiceError) as caught:
        await connect_tcp(host, port, nothing_barred)
    return caught.value.code, caught.value.reason


@contextlib.contextmanager
def listening(host: str, port: int = 0) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        yield listener


@contextlib.contextmanager
def silent(host: str, port: int = 0) -> Iterator[int]:
    """A port where the kernel drops each SYN, because as many connections wait as the program wanted."""
    with listening(host, port) as listener, contextlib.ExitStack() as stack:
        where = listener.getsockname()[:2]
        for _ in range(3):
            filler = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
            filler.setblocking(False)
            filler.connect_ex(where)
        yield int(where[1])


@contextlib.contextmanager
def closed(host: str, port: int = 0) -> Iterator[int]:
    """A port where nobody listens, nor will meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.bind((host, port))
        yield int(taken.getsockname()[1])


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps to the next deadline once nothing has happened for a while: the kernel may take a moment to answer."""
    return trio.testing.MockClock(autojump_threshold=0.05)


class Names:
    """Resolves names as the tests say; addresses are their own."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        #: Seconds that it takes.
        self.delay = 0.0

    async def look_up(self, host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
        await trio.sleep(self.delay)
        return [
            (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
            for address in self.addresses.get(host, [host])
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(tcp_module, "look_up", names.look_up)
    return names


@pytest.fixture
def routes() -> Iterator[None]:
    """A network of its own that has no way to some addresses."""
    with fresh_network_namespace():
        ip("link", "set", "lo", "up")
        for kind, (address, _said) in ROUTES.items():
            ip("route", "add", kind, address)
        yield


@pytest.mark.root
@pytest.mark.parametrize("kind", ROUTES)
async def test_an_address_without_a_way_is_unreachable_at_once(
    routes: None, clock: trio.testing.MockClock, kind: str
) -> None:
    address, said = ROUTES[kind]
    begun = trio.current_time()
    assert await failure(address, 80) == (ErrorCode.UNREACHABLE, f"{address}:80: {said}")
    assert trio.current_time() == begun


@pytest.mark.root
async def test_an_address_of_no_known_network_is_unreachable(routes: None) -> None:
    assert await failure("203.0.113.1", 80) == (ErrorCode.UNREACHABLE, "203.0.113.1:80: Network is unreachable")
    assert await failure("2001:db8::1", 80) == (ErrorCode.UNREACHABLE, "[2001:db8::1]:80: Network is unreachable")


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_an_address_that_does_not_answer_is_timeout_after_five_seconds(
    clock: trio.testing.MockClock, host: str, shown: str
) -> None:
    with silent(host) as port:
        begun = trio.current_time()
        assert await failure(host, port) == (ErrorCode.TIMEOUT, f"{shown}:{port} did not answer within 5 s")
        assert trio.current_time() - begun == pytest.approx(5)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_a_port_where_nobody_listens_is_refused_at_once(
    clock: trio.testing.MockClock, host: str, shown: str
) -> None:
    with closed(host) as port:
        begun = trio.current_time()
        assert await failure(host, port) == (ErrorCode.REFUSED, f"{shown}:{port}: Connection refused")
        assert trio.current_time() == begun


async def connected(host: str, port: int) -> str:
    """The address that it is connected to; and that connection is closed again."""
    stream, where = await connect_tcp(host, port, nothing_barred)
    assert isinstance(stream, TcpStream)
    await stream.aclose()
    return where


async def test_an_address_that_does_not_answer_holds_up_the_next_for_a_moment_only(
    names: Names, clock: trio.testing.MockClock
) -> None:
    names.addresses["two.example"] = ["127.0.0.2", "127.0.0.3"]
    with silent("127.0.0.2") as port, listening("127.0.0.3", port):
        begun = trio.current_time()
        assert await connected("two.example", port) == f"127.0.0.3:{port}"
        assert trio.current_time() - begun == pytest.approx(0.25)


async def test_an_address_that_refuses_does_not_hold_up_the_next(names: Names, clock: trio.testing.MockClock) -> None:
    names.addresses["two.example"] = ["127.0.0.2", "127.0.0.3"]
    with closed("127.0.0.2") as port, listening("127.0.0.3", port):
        begun = trio.current_time()
        assert await connected("two.example", port) == f"127.0.0.3:{port}"
        assert trio.current_time() == begun


async def test_the_first_address_wins_and_no_other_is_connected_to(names: Names) -> None:
    names.addresses["two.example"] = ["127.0.0.2", "127.0.0.3"]
    with listening("127.0.0.2") as first:
        port = first.getsockname()[1]
        with listening("127.0.0.3", port) as second:
            assert await connected("two.example", port) == f"127.0.0.2:{port}"
            second.setblocking(False)
            with pytest.raises(BlockingIOError):
                second.accept()


async def test_families_take_turns(names: Names, clock: trio.testing.MockClock) -> None:
    """A host whose IPv6 leads nowhere is reached after one moment, however many such addresses it has."""
    names.addresses["both.example"] = ["::1", *(f"2001:db8::{n}" for n in range(1, 12)), "127.0.0.2"]
    with silent("::1") as port, listening("127.0.0.2", port):
        begun = trio.current_time()
        assert await connected("both.example", port) == f"127.0.0.2:{port}"
        assert trio.current_time() - begun == pytest.approx(0.25)


async def test_all_that_happened_is_said_each_reason_once(names: Names, clock: trio.testing.MockClock) -> None:
    names.addresses["many.example"] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]

    async def bars(ip: str, _port: int) -> bool:
        return ip == "127.0.0.4"

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(silent("127.0.0.2"))
        for host in ("127.0.0.3", "127.0.0.5"):
            stack.enter_context(closed(host, port))
        stack.enter_context(silent("127.0.0.6", port))
        begun = trio.current_time()
        with pytest.raises(ServiceError) as caught:
            await connect_tcp("many.example", port, bars)
    assert caught.value.code == ErrorCode.REFUSED  # somebody answered
    assert caught.value.reason == (
        f"127.0.0.2:{port}, 127.0.0.6:{port} did not answer within 5 s; "
        f"127.0.0.3:{port}, 127.0.0.5:{port}: Connection refused; "
        f"forwards do not go to 127.0.0.4:{port}"
    )
    assert trio.current_time() - begun == pytest.approx(5.25)


@pytest.mark.parametrize(
    ("others", "code", "said"),
    [
        (["127.0.0.4"], ErrorCode.UNAUTHORIZED, "forwards do not go to 127.0.0.4:{0}"),
        (
            ["127.0.0.4", "127.0.0.3"],
            ErrorCode.REFUSED,
            "forwards do not go to 127.0.0.4:{0}; 127.0.0.3:{0}: Connection refused",
        ),
        (
            ["127.0.0.3", "127.0.0.2"],
            ErrorCode.REFUSED,
            "127.0.0.3:{0}: Connection refused; 127.0.0.2:{0} did not answer within 5 s",
        ),
        (
            ["127.0.0.2", "127.0.0.4"],
            ErrorCode.TIMEOUT,
            "127.0.0.2:{0} did not answer within 5 s; forwards do not go to 127.0.0.4:{0}",
        ),
    ],
    ids=["barred", "barred-refused", "refused-timeout", "timeout-barred"],
)
async def test_the_code_is_that_of_whoever_came_nearest_to_an_answer(
    names: Names, clock: trio.testing.MockClock, others: list[str], code: ErrorCode, said: str
) -> None:
    names.addresses["mixed.example"] = others

    async def bars(ip: str, _port: int) -> bool:
        return ip == "127.0.0.4"

    with silent("127.0.0.2") as port, closed("127.0.0.3", port), pytest.raises(ServiceError) as caught:
        await connect_tcp("mixed.example", port, bars)
    assert (caught.value.code, caught.value.reason) == (code, said.format(port))


async def test_where_the_whole_limit_comes_first_no_other_addresses_reason_is_given(
    names: Names, clock: trio.testing.MockClock
) -> None:
    """A slow resolver leaves little time: what was cut off is said to be that, and after how long."""
    names.addresses["slow.example"] = ["127.0.0.3", "127.0.0.2"]
    names.delay = 9
    with silent("127.0.0.2") as port, closed("127.0.0.3", port):
        begun = trio.current_time()
        assert await failure("slow.example", port) == (
            ErrorCode.REFUSED,
            f"127.0.0.3:{port}: Connection refused; 127.0.0.2:{port} did not answer within 1 s",
        )
        assert trio.current_time() - begun == pytest.approx(10)


async def test_what_was_not_tried_any_more_is_said(names: Names, clock: trio.testing.MockClock) -> None:
    names.addresses["slow.example"] = ["127.0.0.3", "127.0.0.2"]

    async def bars(ip: str, _port: int) -> bool:
        await trio.sleep(6)  # the broker's name is as slow
        return False

    with silent("127.0.0.2") as port, closed("127.0.0.3", port), pytest.raises(ServiceError) as caught:
        await connect_tcp("slow.example", port, bars)
    assert caught.value.reason == f"127.0.0.3:{port}: Connection refused; 127.0.0.2:{port} not tried within 10 s"


async def test_a_resolver_that_does_not_answer(names: Names, clock: trio.testing.MockClock) -> None:
    names.delay = 60
    begun = trio.current_time()
    assert await failure("slow.example", 80) == (
        ErrorCode.TIMEOUT,
        "slow.example: the device's resolver did not answer within 10 s",
    )
    assert trio.current_time() - begun == 10


async def test_no_more_than_eight_addresses_are_tried(names: Names) -> None:
    hosts = [f"127.0.1.{n}" for n in range(1, 11)]
    names.addresses["many.example"] = hosts
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(closed(hosts[0]))
        for host in hosts[1:]:
            stack.enter_context(closed(host, port))
        tried = ", ".join(f"{host}:{port}" for host in hosts[:8])
        assert await failure("many.example", port) == (ErrorCode.REFUSED, f"{tried}: Connection refused")


async def test_a_device_without_a_descriptor_left_says_so(names: Names) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closed("127.0.0.1") as port:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            found = await failure("127.0.0.1", port)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == (ErrorCode.LIMIT, f"127.0.0.1:{port}: Too many open files")


async def test_a_cancelled_race_leaves_no_socket(names: Names, clock: trio.testing.MockClock) -> None:
    """Counted by the fixture that looks at the descriptors of each test."""
    names.addresses["two.example"] = ["127.0.0.2", "127.0.0.3"]
    with silent("127.0.0.2") as port, silent("127.0.0.3", port), trio.move_on_after(0.3):
        await connect_tcp("two.example", port, nothing_barred)
