"""Commands to begin with: init."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, print_json


def init(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File to write (default: NAME.yaml).")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, cifar10, cifar100 or image_folder.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of the data; none for digits.")] = None,
    family: Annotated[str | None, typer.Option(help="mobilenet, mlp, or vit (not for digits).")] = None,
    goal: Annotated[str | None, typer.Option(help="Accuracy against: small, fast or both.")] = None,
    device: Annotated[str | None, typer.Option(help="onnxruntime, openvino, native, torch or simulated.")] = None,
    sparsity: Annotated[str | None, typer.Option(help="none, unstructured, n:m or blocks.")] = None,
    trials: Annotated[int | None, typer.Option(help="How many networks to try.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take the default of what is not given; ask nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a commented configuration that `hwsearch run` takes; asks for what is not given. Overwrites nothing.

    Example: hwsearch init --yes --goal fast --device native
    """
    from hwsearch.commands import starting

    def ask(question: starting.Question) -> str:
        choices = f" ({', '.join(question.choices)})" if question.choices else ""
        while True:
            answer: str = typer.prompt(f"{question.text}{choices}", default=question.default, err=True)
            if not question.choices or answer in question.choices:
                return answer
            typer.echo(f"  one of {', '.join(question.choices)}, please", err=True)

    asked = (lambda question: question.default) if yes else ask if sys.stdin.isatty() else None
    given = {"name": name, "data": data, "path": path, "family": family, "goal": goal, "device": device}
    given |= {"sparsity": sparsity, "trials": None if trials is None else str(trials)}
    told = starting.answers(given, asked)
    written = starting.init(file or Path(f"{told.name}.yaml"), told)
    if as_json:
        print_json({"files": [str(one) for one in written]})
        return
    typer.echo("\n".join(str(one) for one in written))
    typer.echo(f"hwsearch run {written[0]}", err=True)


COMMANDS: dict[str, Callable[..., None]] = {"init": init}
