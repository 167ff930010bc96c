"""Commands that compare: benchmark-engines."""

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


COMMANDS: dict[str, Callable[..., None]] = {"benchmark-engines": benchmark_engines}
