"""Commands that compare: runs, and engines on a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, print_json


def benchmark_engines(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="YAML file that describes a task, see docs/engines.md.")],
    engine: Annotated[list[str] | None, typer.Option(help="Engine to compare, such as nsga2; repeat.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Evaluations per search.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Searches per engine.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Evaluations proposed together.")] = 1,
    in_flight: Annotated[int, typer.Option(min=0, help="Evaluations always running, instead of batches.")] = 0,
    noise: Annotated[list[str] | None, typer.Option(help="METRIC=DEVIATION of Gaussian label noise; repeat.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Searches at the same time.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for curves (CSV, PNG) and summary.json.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare search engines on a table of results: how many evaluations does each need?

    Example: hwsearch benchmark-engines task.yaml --engine pareto --engine nsga2 --engine random --seeds 20
    """
    from rich.console import Console

    from hwsearch.commands import benchmark
    from hwsearch.report.table import comparison_table

    console = Console(stderr=as_json)
    spread = benchmark.parse_noise(noise or [])
    with console.status("searching") as status:
        result = benchmark.compare(
            benchmark.load_comparison(task),
            engines=engine or [],
            trials=trials,
            seeds=seeds,
            batch=batch,
            in_flight=in_flight,
            noise=spread,
            processes=processes,
            observe=lambda name, n: status.update(f"{name}: {n} of {seeds} searches"),
        )
    written = benchmark.save_comparison(result, out) if out is not None else []
    if as_json:
        print_json(
            {"task": result.task, "seeds": seeds, "references": result.tables, "files": [str(p) for p in written]}
        )
        return
    for reference, rows in result.tables.items():
        console.print(comparison_table(rows, title=f"{result.task}, reference {reference}, {seeds} seeds"))
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)


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

    content = command(runs, group=group, against=against, trials=trials, figure=figure)
    if as_json:
        print_json(content)
        return
    names = [o["name"] for o in content["objectives"]]
    rows = []
    for found in content["groups"]:
        share = found["hypervolume"]
        rows.append(
            {
                "group": found["label"],
                "runs": share["n"],
                "volume": f"{share['median']:.4f}",
                "quartiles": f"{share['low']:.3f}-{share['high']:.3f}",
                "front": f"{found['front']['median']:g}",
                **{name: f"{found['best'][name]:.5g}" for name in names},
            }
        )
    Console().print(rows_table(rows, ["group", "runs", "volume", "quartiles", "front", *names], "Runs compared"))
    typer.echo(basis(content))
    for text in content["sentences"]:
        typer.echo(f"\n{text}")
    if figure is not None:
        typer.echo(f"\n{figure}")


COMMANDS: dict[str, Callable[..., None]] = {"compare": compare, "benchmark-engines": benchmark_engines}
