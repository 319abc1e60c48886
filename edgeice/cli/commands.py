"""The commands of `edgeice`, by name; each module is loaded when it is run."""

from __future__ import annotations

import importlib
from typing import Final

import click

from edgeice import __version__

__all__ = ["cli"]

#: Command -> (module, one line for the list).
_COMMANDS: Final = {
    "keys": ("keys", "Make, find and show your key."),
    "devices": ("devices", "List the fleet's devices and their presence."),
    "exec": ("exec", "Run a command on a device."),
    "shell": ("shell", "Open a shell on a device."),
    "forward": ("forward", "Open ports here that lead to the device or its network."),
    "proxy": ("proxy", "Connect standard input and output to a port of the device, as for ssh."),
    "session": ("session", "Keep a session open that other commands share."),
    "ssh-config": ("ssh_config", "Print what makes `ssh pi17.edgeice` work."),
    "telemetry": ("telemetry", "Show what a device measures, as it comes."),
    "relay": ("relay", "Hand out short-lived credentials for TURN servers."),
    "ping": ("ping", "Measure the round trip to a device over the data path."),
    "demo": ("demo", "See it work on this machine: broker, device and operator."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"edgeice.cli.{_COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in _COMMANDS.items()])


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  edgeice demo                    see it work, no set-up needed
  edgeice keys init --help        make a key, then have it trusted on the device
  edgeice shell pi17              a shell on pi17
  edgeice exec pi17 -- uname -a   one command
  edgeice forward pi17 8080:localhost:80

\b
Exit codes: the remote command's for exec and shell (128 + N for a signal; exec: 127
  for one that is not there, 126 for one that cannot be run), else
  0 done, 1 remote failure, 2 usage, 3 unreachable, 4 refused,
  5 a session is kept open already (session).
Completion: eval "$(_EDGEICE_COMPLETE=bash_source edgeice)" (or zsh_source, fish_source).""",
)
@click.version_option(__version__, prog_name="edgeice")
def cli() -> None:
    """Reach Raspberry Pis and other Linux devices peer to peer."""
