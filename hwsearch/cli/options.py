"""What several commands take and print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/quickstart.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set seed=1")
]


def print_json(value: Any) -> None:
    """Prints a value as JSON; what JSON lacks (NaN, paths) becomes null or text."""
    from hwsearch.runfolder import to_json

    typer.echo(to_json(value))
