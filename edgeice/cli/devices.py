"""`edgeice devices`: the fleet's presence."""

from __future__ import annotations

import json

import click

from edgeice.cli.common import load_options, reporting, run
from edgeice.cli.connecting import load_known
from edgeice.cli.options import timeout_option
from edgeice.operator.config import OperatorConfig
from edgeice.operator.devices import DeviceEntry, device_filters, list_devices
from edgeice.operator.link import open_broker
from edgeice.sansio import Entropy
from edgeice.signaling import KnownDevices

__all__ = ["command"]


@click.command(
    "devices",
    epilog="""\b
Examples:
  edgeice devices
  edgeice devices --json | jq '.[] | select(.state == "ready") | .name'""",
)
@click.option("--config", metavar="FILE", help="operator.toml to use instead of the one in ~/.config/edgeice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@timeout_option(10.0, "Seconds for the broker.")
def command(config: str | None, as_json: bool, timeout: float) -> None:
    """List the devices of the fleet, with what each says of itself and whether its key is known."""
    with reporting(as_json=as_json):
        settings = load_options(config)
        known = load_known(settings.known_devices)

        async def main() -> int:
            filters = device_filters(settings.broker.root, settings.fleet)
            async with open_broker(settings, Entropy(), filters, timeout) as link:
                entries = await list_devices(link, timeout)
            rows = [_row(entry, known) for entry in entries]
            if as_json:
                print(json.dumps(rows))
            else:
                _print_table(rows, settings)
            return 0

        run(main)


def _row(entry: DeviceEntry, known: KnownDevices) -> dict[str, object]:
    info = entry.info
    row: dict[str, object] = {"name": entry.party.name, "state": str(entry.state)}
    if info is not None:
        pinned = known.get(entry.party)
        row |= {
            "version": info.version,
            "key": info.key.fingerprint,
            "trust": "new" if pinned is None else "pinned" if pinned == info.key else "CHANGED",
            "link": info.link,
            "sessions": f"{info.limits.active}/{info.limits.sessions}",
            "services": list(info.services),
            "labels": dict(info.labels),
        }
    return row


def _print_table(rows: list[dict[str, object]], settings: OperatorConfig) -> None:
    if not rows:
        click.echo(f"no device of fleet {settings.fleet} has announced itself at {settings.broker.url}")
        return
    columns = ("name", "state", "trust", "version", "sessions", "labels")
    table = [[column.upper() for column in columns]]
    for row in rows:
        labels = row.get("labels")
        shown = {**row, "labels": " ".join(f"{k}={v}" for k, v in labels.items()) if isinstance(labels, dict) else ""}
        table.append([str(shown.get(column, "-")) for column in columns])
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
