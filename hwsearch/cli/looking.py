"""Commands that look at runs, configurations and this host: front, report, status, schema, doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsearch.cli.options import JsonFlag, RunArg, print_json


def front(
    run: RunArg,
    device: Annotated[str | None, typer.Option(help="Only the nets that are best for this device.")] = None,
    robust: Annotated[
        bool, typer.Option("--robust", help="Only the nets that were measured on all devices and keep all limits.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the validated front of a run, of one of its devices, or what does on all of them.

    Example: hwsearch front runs/quickstart --json
    """
    from rich.console import Console

    from hwsearch.commands.query import front as command
    from hwsearch.report.table import front_table

    content = command(run, device=device, robust=robust)
    if as_json:
        print_json(content)
    else:
        Console().print(front_table(content))


def report(
    run: RunArg,
    out: Annotated[Path | None, typer.Option(help="File to write (default: RUN/report.html).")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write every figure as PNG and SVG there.")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Run to hold it against, such as a random one; repeatable.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML file that shows a run: fronts, trials, predictors, genes, layers. Also while it is going on.

    Example: hwsearch report runs/quickstart --figures figures
    """
    from hwsearch.commands.report import report as command

    answer = command(run, out=out, figures_to=figures, baselines=baseline or [])
    if as_json:
        print_json(answer)
    else:
        typer.echo("\n".join(answer["files"]))


def status(
    run: RunArg,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until no process works on the run.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Show how far a run is, from any shell; it only reads.

    Example: hwsearch status runs/quickstart --watch
    """
    from hwsearch.commands import status as command

    def show(found: dict[str, Any]) -> None:
        if as_json:
            print_json(found)
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

    checks = command(run)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            typer.echo(f"{check['state']:<8} {check['name']}: {check['found']}")
            if check["hint"]:
                typer.echo(f"         {check['hint']}")
    if any(check["state"] == "problem" for check in checks):
        raise typer.Exit(1)


COMMANDS: dict[str, Callable[..., None]] = {
    "front": front,
    "report": report,
    "status": status,
    "doctor": doctor,
    "schema": schema,
}
