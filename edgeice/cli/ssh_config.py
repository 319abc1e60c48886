"""`edgeice ssh-config`: what makes `ssh pi17.edgeice` work."""

from __future__ import annotations

import re
import shlex
from typing import Final

import click

__all__ = ["command"]

#: ssh's own words in its configuration file; anything else would need quoting that ssh does not have.
_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _word(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _WORD.fullmatch(value):
        raise click.BadParameter(f"{value!r}: letters, digits, '.', '_' and '-' only")
    return value


@click.command(
    "ssh-config",
    epilog="""\b
Examples:
  edgeice ssh-config --user pi   add the output to ~/.ssh/config

\b
Then ssh pi17.edgeice, scp and rsync work as to any host. The device has to allow it:
edgeice-agent trust add --can forward:localhost:22 …

\b
After `edgeice session --background pi17` each of them starts at once.""",
)
@click.option(
    "--user", metavar="NAME", callback=_word, help="Whom to log in as; ssh's own default where it is left out."
)
@click.option("--suffix", metavar="WORD", default="edgeice", show_default=True, callback=_word, help="DEVICE.WORD.")
@click.option("--config", metavar="FILE", help="operator.toml to use instead of the one in ~/.config/edgeice.")
def command(user: str | None, suffix: str, config: str | None) -> None:
    """Print the block for ~/.ssh/config that makes `ssh DEVICE.edgeice` work."""
    own = "edgeice proxy --quiet" + (f" --config {shlex.quote(config)}" if config else "")
    # ssh expands %h and %p, and %% to the % of the shell's "without this ending".
    script = f'exec {own} "${{1%.{suffix}}}" "$2"'.replace("%", "%%")
    lines = [f"Host *.{suffix}", f"    ProxyCommand sh -c {shlex.quote(script)} sh %h %p"]
    if user is not None:
        lines.append(f"    User {user}")
    click.echo("\n".join(lines))
