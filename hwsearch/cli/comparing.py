"""Commands that hold runs against each other: compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs with the same objectives.")],
    group: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Setting that makes a group: search.engine (default: all but the seed)."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Group to hold the others against (default: random search, or the first)."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials of every run that count (default: as many as the shortest has).")
    ] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write FILE.svg, .png or .html.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: seeds of one configuration are a group; median, quartiles, rank test and effect size.

    Example: hwsearch compare runs/pareto-* runs/random-* --figure compare.html
    """
    from rich.console import Console

    from hwsearch.commands.compare import compare as command
    from hwsearch.report.comparison_figure import basis
    from hwsearch.report.table import rows_table
    from hwsearch.runfolder import to_json

    content = command(runs, group=group, against=against, trials=trials, figure=figure)
    if as_json:
        typer.echo(to_json(content))
        return
    names = [o["name"] for o in content["objectives"]]
    rows = []
    for found in content["groups"]:
        share = found["hypervolume"]
        rows.append(
            {
                "group": found["label"],
                "runs": share["n"],
                "hypervolume": f"{share['median']:.4f}",
                "quartiles": f"{share['low']:.4f}-{share['high']:.4f}",
                "front": f"{found['front']['median']:g}",
                **{name: f"{found['best'][name]:.5g}" for name in names},
            }
        )
    Console().print(rows_table(rows, ["group", "runs", "hypervolume", "quartiles", "front", *names], "Runs compared"))
    typer.echo(basis(content))
    for text in content["sentences"]:
        typer.echo(f"\n{text}")
    if figure is not None:
        typer.echo(f"\n{figure}")


COMMANDS: dict[str, Callable[..., None]] = {"compare": compare}
