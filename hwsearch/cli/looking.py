"""Commands that look at runs and configurations: status, schema, doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/quickstart.")],
    watch: Annotated[bool, typer.Option("--watch", help="Look again until no process works on the run.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Show how far a run is, from any shell; it only reads.

    Example: hwsearch status runs/quickstart --watch
    """
    from hwsearch.commands import status as command
    from hwsearch.runfolder import to_json

    def show(found: dict[str, Any]) -> None:
        if as_json:
            typer.echo(to_json(found))
            return
        best = ", ".join(f"{name} {value:.5g}" for name, value in found["best"].items() if value is not None)
        driver = found["driver"]
        who = "" if driver is None else f" (process {driver.get('pid', '?')} on {driver.get('host', '?')})"
        failed = f", {found['failed']} failed" if found["failed"] else ""
        typer.echo(f"{found['phase']}{who}: {found['trials']}/{found['budget']} trials{failed}, front {found['front']}")
        if best:
            typer.echo(f"  best: {best}")

    if watch:
        command.watch(run, show, every_s=every)
    else:
        show(command.status(run))


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write [standard output].")] = None,
) -> None:
    """Print the JSON Schema of configurations, for editors.

    Example: hwsearch schema --out configs/schema.json
    """
    from hwsearch.config import json_schema

    if out is None:
        typer.echo(json_schema(), nl=False)
    else:
        out.write_text(json_schema())


def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Also look at the record of this run.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check this installation and host: libraries, runtimes, timing noise, Ray, storage. Exit code 1 if one fails.

    Example: hwsearch doctor
    """
    from hwsearch.commands.doctor import doctor as command
    from hwsearch.runfolder import to_json

    checks = command(run)
    if as_json:
        typer.echo(to_json(checks))
    else:
        for check in checks:
            typer.echo(f"{check['state']:<8} {check['name']}: {check['found']}")
            if check["hint"]:
                typer.echo(f"         {check['hint']}")
    if any(check["state"] == "problem" for check in checks):
        raise typer.Exit(1)


COMMANDS: dict[str, Callable[..., None]] = {"status": status, "schema": schema, "doctor": doctor}
