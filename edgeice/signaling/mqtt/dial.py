"""paho's blocking connect, in a worker thread that can be given up.

paho looks names up, connects and does the TLS handshake in blocking calls.  The thread that makes them is bounded by
the connect timeout, but for the look-up, which nothing can interrupt.  Whoever waits for it may leave at any moment:
then the thread finds out and closes the socket.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, cast

import paho.mqtt.client as paho

from edgeice.signaling.broker import BrokerConfig, FailureKind
from edgeice.signaling.failures import ConnectError, from_error, not_resolved

__all__ = ["Dial"]

#: Addresses of one name that are tried.
_MAX_ADDRESSES = 6
#: Longest time without an acknowledgement from the other end's kernel, seconds: a path that went dead shows half a
#: minute after the next byte, not after a quarter of an hour.
_USER_TIMEOUT = 30


class Dial:
    """paho's blocking connect, in a worker thread that can be given up."""

    def __init__(
        self, client: paho.Client, config: BrokerConfig, context: ssl.SSLContext | None, arguments: dict[str, Any]
    ) -> None:
        self._client = client
        self._config = config
        self._context = context
        self._arguments = arguments
        self._lock = threading.Lock()
        self._done = self._given_up = False
        self._sockets: list[socket.socket] = []
        #: What did not happen if time runs out now.
        self.step = "was not found by name"
        client.on_socket_open = self._on_socket_open
        if context is not None:
            client.tls_set_context(cast("ssl.SSLContext", self))

    def give_up(self) -> None:
        """Close the socket, now or as soon as the thread comes back from its blocking call."""
        with self._lock:
            self._given_up = True
            sock = self._client.socket() if self._done else None
            for pending in self._sockets:
                # Ends a handshake under way, so that no broker keeps the thread by dripping bytes.
                with contextlib.suppress(OSError):
                    pending.shutdown(socket.SHUT_RDWR)
        if sock is not None:
            sock.close()

    def run(self) -> None:
        """Connect and send CONNECT; raises ConnectError."""
        addresses = self._resolve()
        deadline = time.monotonic() + self._config.connect_timeout
        error: OSError = TimeoutError()
        for index, address in enumerate(addresses):
            # A silent address must not use up the time of those after it.
            budget = (deadline - time.monotonic()) / (len(addresses) - index)
            if self._given_up or budget <= 0:
                break
            try:
                self._connect(address, budget)
            except OSError as failed:
                error = failed
                self._close_pending()
                if isinstance(failed, ssl.SSLError):
                    break  # it is the broker, and it would say the same at its other addresses
            except ValueError as failed:
                self._close_pending()
                raise ConnectError(FailureKind.TLS, f"no certificate can carry this server name: {failed}") from None
            else:
                self._finish()
                return
        raise from_error(error, self._config)

    def _finish(self) -> None:
        with self._lock:
            self._done = True
            self._sockets.clear()
            sock = self._client.socket() if self._given_up else None
        if sock is not None:
            sock.close()

    def _resolve(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self._config.host, self._config.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise not_resolved(self._config, error.strerror or "unknown reason") from None
        except UnicodeError:
            raise not_resolved(self._config, "it is no valid name") from None
        return [_literal(address) for *_, address in found[:_MAX_ADDRESSES]]

    def _connect(self, address: str, timeout: float) -> None:
        client = self._client
        client.disconnect()  # there is no connection; but paho changes settings only in this state
        client.connect_timeout = timeout
        self.step = "did not answer"
        client.connect(address, self._config.port, self._config.keepalive, **self._arguments)
        sock = client.socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT * 1000)

    def _on_socket_open(self, _client: paho.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401  (paho's)
        # paho sends CONNECT next.  From an attempt that was given up it would take over the client id of the one after.
        with self._lock:
            self._sockets.append(sock)
            if self._given_up:
                raise ConnectionAbortedError

    def _close_pending(self) -> None:
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()

    # What paho uses of an SSLContext: it would verify the address that it connects to, not the name. ---------------

    check_hostname = True

    def wrap_socket(self, sock: socket.socket, **_arguments: object) -> ssl.SSLSocket:
        """Prepare the handshake under the configured name, and remember the socket, which paho forgets on failure."""
        assert self._context is not None
        assert self._config.tls is not None
        self.step = "did not finish the TLS handshake"
        with self._lock:
            self._sockets.append(sock)
        name = self._config.tls.server_name or self._config.host
        wrapped = self._context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        with self._lock:
            self._sockets.append(wrapped)
            if self._given_up:
                raise ConnectionAbortedError
        return wrapped


def _literal(address: tuple[Any, ...]) -> str:
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])
