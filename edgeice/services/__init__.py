"""What runs over a data channel: shell, exec, forward, telemetry, ping; each with a device's half and an operator's.

A device makes one `ServiceRegistry`, and a `ChannelServer` for each session.  An operator opens a channel of the
service's protocol and hands it to `open_shell`, `open_exec`, `telemetry.client.open_telemetry` or `PingClient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.services.channel import MAX_BINARY, MAX_CONTROL, Channel
    from edgeice.services.control import ErrorCode, PeerError, ServiceError
    from edgeice.services.exec import EXEC_PROTOCOL, serve_exec
    from edgeice.services.exec_client import STDERR, STDIN, STDOUT, ExecClient, open_exec
    from edgeice.services.forward import FORWARD_PROTOCOL, ForwardTarget, forward_stream
    from edgeice.services.ping import PING_PROTOCOL, PingClient, serve_ping
    from edgeice.services.registry import ChannelServer, Service, ServiceContext, ServiceRegistry, standard_services
    from edgeice.services.relay import ByteStream, StreamBrokenError
    from edgeice.services.shell import SHELL_PROTOCOL, serve_shell
    from edgeice.services.shell_client import KeptEntry, ShellClient, list_shells, open_shell
    from edgeice.services.signals import ExitStatus, signal_name, signal_number
    from edgeice.services.spawner import LimitedSpawner, LocalSpawner, Process, Spawner, Terminal
    from edgeice.services.tcp import TcpStream
else:
    __getattr__ = names_of(  # noqa: S604  # a module's name
        __name__,
        channel="MAX_BINARY MAX_CONTROL Channel",
        control="ErrorCode PeerError ServiceError",
        exec="EXEC_PROTOCOL serve_exec",
        exec_client="STDERR STDIN STDOUT ExecClient open_exec",
        forward="FORWARD_PROTOCOL ForwardTarget forward_stream",
        ping="PING_PROTOCOL PingClient serve_ping",
        registry="ChannelServer Service ServiceContext ServiceRegistry standard_services",
        relay="ByteStream StreamBrokenError",
        shell="SHELL_PROTOCOL serve_shell",
        shell_client="KeptEntry ShellClient list_shells open_shell",
        signals="ExitStatus signal_name signal_number",
        spawner="LimitedSpawner LocalSpawner Process Spawner Terminal",
        tcp="TcpStream",
    )

__all__ = [
    "EXEC_PROTOCOL",
    "FORWARD_PROTOCOL",
    "MAX_BINARY",
    "MAX_CONTROL",
    "PING_PROTOCOL",
    "SHELL_PROTOCOL",
    "STDERR",
    "STDIN",
    "STDOUT",
    "ByteStream",
    "Channel",
    "ChannelServer",
    "ErrorCode",
    "ExecClient",
    "ExitStatus",
    "ForwardTarget",
    "KeptEntry",
    "LimitedSpawner",
    "LocalSpawner",
    "PeerError",
    "PingClient",
    "Process",
    "Service",
    "ServiceContext",
    "ServiceError",
    "ServiceRegistry",
    "ShellClient",
    "Spawner",
    "StreamBrokenError",
    "TcpStream",
    "Terminal",
    "forward_stream",
    "list_shells",
    "open_exec",
    "open_shell",
    "serve_exec",
    "serve_ping",
    "serve_shell",
    "signal_name",
    "signal_number",
    "standard_services",
]
