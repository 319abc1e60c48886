"""`edgeice`: finds the command and loads only what it needs."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `edgeice`; exits with the codes that its help lists."""
    try:
        from edgeice.cli.commands import cli  # noqa: PLC0415  # the device's installation has no click
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print(
            "edgeice: the operator's commands are not installed; run: pip install 'edgeice[operator]'", file=sys.stderr
        )
        sys.exit(2)
    cli()


if __name__ == "__main__":
    main()
