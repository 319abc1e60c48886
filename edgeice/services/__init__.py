"""What runs over a data channel: shell, exec and ping, each with a half for the device and one for the operator.

A device makes one `ServiceRegistry`, and a `ChannelServer` for each session.  An operator opens a channel of the
service's protocol and hands it to `open_shell`, `open_exec` or `PingClient`.
"""

from __future__ import annotations

from edgeice.services.channel import MAX_BINARY, MAX_CONTROL, Channel
from edgeice.services.control import ErrorCode, PeerError, ServiceError
from edgeice.services.exec import EXEC_PROTOCOL, serve_exec
from edgeice.services.exec_client import STDERR, STDIN, STDOUT, ExecClient, open_exec
from edgeice.services.ping import PING_PROTOCOL, PingClient, serve_ping
from edgeice.services.registry import ChannelServer, Service, ServiceRegistry, standard_services
from edgeice.services.shell import SHELL_PROTOCOL, serve_shell
from edgeice.services.shell_client import ShellClient, open_shell
from edgeice.services.signals import ExitStatus, signal_name, signal_number
from edgeice.services.spawner import LimitedSpawner, LocalSpawner, Process, Spawner, Terminal

__all__ = [
    "EXEC_PROTOCOL",
    "MAX_BINARY",
    "MAX_CONTROL",
    "PING_PROTOCOL",
    "SHELL_PROTOCOL",
    "STDERR",
    "STDIN",
    "STDOUT",
    "Channel",
    "ChannelServer",
    "ErrorCode",
    "ExecClient",
    "ExitStatus",
    "LimitedSpawner",
    "LocalSpawner",
    "PeerError",
    "PingClient",
    "Process",
    "Service",
    "ServiceError",
    "ServiceRegistry",
    "ShellClient",
    "Spawner",
    "Terminal",
    "open_exec",
    "open_shell",
    "serve_exec",
    "serve_ping",
    "serve_shell",
    "signal_name",
    "signal_number",
    "standard_services",
]
