"""Commands that search and train: run, train, finetune, verify."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, RunArg, SetOption, print_json


class Teacher(StrEnum):
    """Who teaches in a fine-tuning."""

    supernet = "supernet"
    original = "original"
    none = "none"


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the run.")],
    overrides: SetOption = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run (default: runs/NAME).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search, validate and export. The same command continues a run that was interrupted.

    Example: hwsearch run configs/quickstart.yaml --set search.trials=100
    """
    from rich.console import Console

    from hwsearch.commands.run import run as command
    from hwsearch.report.live import Live
    from hwsearch.report.table import front_table

    console = Console(stderr=as_json)
    with Live(console) as live:
        outcome = command(config, overrides=overrides or [], run_dir=run_dir, observer=live)
    content = outcome.front
    if as_json:
        print_json({"folder": str(outcome.folder.path), "n_trials": outcome.n_trials, **content})
        return
    console.print(front_table(content))
    failed = f", {outcome.n_failed} failed" if outcome.n_failed else ""
    ended = "; the space has no more architectures" if outcome.exhausted else ""
    console.print(f"{outcome.n_trials} trials{failed}{ended}; {len(outcome.exported)} nets exported", highlight=False)
    console.print(
        f"{outcome.folder.path}/: report.html, front.csv, models/<key>/model.onnx", highlight=False, soft_wrap=True
    )


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes one training.")],
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the result (default: runs/NAME).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train one network with sparse recipes; score and export it. The same command continues.

    Example: hwsearch train configs/training/gradual.yaml --set recipes.0.sparsity=0.9
    """
    from rich.console import Console

    from hwsearch.commands.train import train as command
    from hwsearch.report.live import Live

    console = Console(stderr=as_json)
    with Live(console) as live:
        outcome = command(config, overrides=overrides or [], folder=run_dir, observer=live)
    if as_json:
        print_json({"folder": str(outcome.folder), **outcome.card})
        return
    metrics = outcome.card["metrics"]
    accuracy, sparsity = metrics["accuracy"], metrics["sparsity"]["value"]
    console.print(
        f"hold-out accuracy {100 * accuracy['value']:.2f} % ± {100 * accuracy['std']:.2f}, "
        f"sparsity {100 * sparsity:.2f} %",
        highlight=False,
    )
    console.print(f"{outcome.folder}/: model.onnx, model.safetensors, card.json", highlight=False, soft_wrap=True)


def finetune(
    net: Annotated[str, typer.Argument(metavar="RUN:KEY", help="Net of a run's front.")],
    epochs: Annotated[int | None, typer.Option(help="Default: those of the run's training.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: a quarter of the run's.")] = None,
    teacher: Annotated[Teacher, typer.Option(help="Whose soft labels it learns from.")] = Teacher.supernet,
    as_json: JsonFlag = False,
) -> None:
    """Train a chosen net on, its zeros kept; score, measure and export it as a record of its own.

    Example: hwsearch finetune runs/quickstart:0123456789ab --epochs 10
    """
    from rich.console import Console

    from hwsearch.commands.chosen import finetune as command
    from hwsearch.report.live import Live

    console = Console(stderr=as_json)
    with Live(console) as live:
        live.phase("finetune")
        answer = command(net, epochs=epochs, learning_rate=learning_rate, teacher=teacher.value, progress=live.training)
    if as_json:
        print_json(answer)
        return
    for name, metric in answer["card"]["metrics"].items():
        before = answer["card"]["before"].get(name)
        was = "" if before is None else f" (was {before:.6g})"
        typer.echo(f"  {name}: {metric['value']:.6g}{was}")
    typer.echo(answer["folder"])


def verify(
    run: RunArg,
    key: Annotated[list[str] | None, typer.Option(help="Net of the front; may be given again.")] = None,
    nets: Annotated[int, typer.Option(help="How many nets, spread over the front.", min=1)] = 3,
    seeds: Annotated[int, typer.Option(help="Trainings of every control.", min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Default: those of the run's training.", min=1)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold found nets against trainings from scratch, random masks, and small dense networks.

    Example: hwsearch verify runs/quickstart --nets 2 --seeds 5
    """
    from rich.console import Console

    from hwsearch.commands.chosen import verify as command
    from hwsearch.report.live import Live

    with Live(Console(stderr=True)) as live:
        live.phase("verify")
        content = command(
            run, keys=key or [], nets=nets, seeds=seeds, epochs=epochs, note=live.note, progress=live.trainings
        )
    if as_json:
        print_json(content)
        return
    for row in content["nets"]:
        typer.echo(f"{row['key']}: hold-out accuracy {100 * row['accuracy']:.2f} %, sparsity {row['sparsity']:.2f}")
        for control in row["controls"]:
            mean = 100 * sum(control["accuracies"]) / len(control["accuracies"])
            typer.echo(f"  {control['name']}: {mean:.2f} %; found - control {_points(control['difference'])}")
        for dense in row["small_dense"]:
            if dense["dense_key"] is None:
                typer.echo(f"  no dense network has no more {dense['cost']} ({dense['value']:.6g})")
                continue
            typer.echo(
                f"  small dense {dense['dense_key']} ({dense['cost']} {dense['dense_value']:.6g} for "
                f"{dense['value']:.6g}): {100 * dense['dense_accuracy']:.2f} %; "
                f"found - dense {_points(dense['difference'])}"
            )


def _points(difference: dict[str, float]) -> str:
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}]"


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "train": train,
    "finetune": finetune,
    "verify": verify,
}
