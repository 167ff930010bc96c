"""Commands about search spaces, their weights and results of other systems: space, weights, import."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, SetOption, print_json

weights_app = typer.Typer(
    help="Look into checkpoints of super-networks and convert published ones.", no_args_is_help=True
)
import_app = typer.Typer(help="Take over results of other systems.", no_args_is_help=True)
FamilyOption = Annotated[str | None, typer.Option(help="Family that the weights should fit: ofa_mobilenet_v3, ...")]
ParamOption = Annotated[
    list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="Argument of the family: width_mult=1.2")
]


def space(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes a run.")],
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the genes, size and cost range of a configuration's search space.

    Example: hwsearch space configs/quickstart.yaml
    """
    from rich.console import Console

    from hwsearch.commands.query import space as command
    from hwsearch.report.table import number, rows_table

    answer = command(config, overrides=overrides or [])
    if as_json:
        print_json(answer)
        return
    genes = [
        {
            "gene": g["name"],
            "choices": ", ".join(map(str, g["choices"])),
            "active when": "; ".join(f"{k} in {v}" for k, v in g["active_when"].items()) or "always",
        }
        for g in answer["genes"]
    ]
    console = Console()
    size = f"{Decimal(answer['size']):.4g}"  # may be larger than any float
    title = f"{answer['family']}: {answer['n_genes']} genes, {size} architectures"
    console.print(rows_table(genes, ["gene", "choices", "active when"], title))
    if answer["fixed"]:
        columns = ["layer", "channels", "of", "reason"]
        console.print(rows_table(answer["fixed"], columns, "stays fixed"))
    for which in ("smallest", "largest"):
        costs = ", ".join(f"{name} {number(v)}" for name, v in answer[which].items() if name != "key")
        console.print(f"{which}: {costs}", highlight=False, soft_wrap=True)


@weights_app.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="torch or safetensors checkpoint.")],
    family: FamilyOption = None,
    param: ParamOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a checkpoint holds and whether it fits a family; nothing in it is executed.

    Example: hwsearch weights inspect ofa_mbv3_w1.2 --family ofa_mobilenet_v3 --param width_mult=1.2
    """
    from hwsearch.commands.weights import inspect as command

    answer = command(file, family=family, params=param or [])
    if as_json:
        print_json(answer)
        return
    for name in ("format", "wrapper", "sha256", "n_tensors", "n_values", "fits"):
        if answer.get(name) not in (None, ""):
            typer.echo(f"{name}: {answer[name]}")
    for name in ("missing", "unexpected", "misshaped"):
        for line in answer.get(name, []):
            typer.echo(f"  {name}: {line}")


@weights_app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Published checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET.safetensors", help="File to write.")],
    family: Annotated[str, typer.Option(help="Family of the checkpoint: ofa_mobilenet_v3, ...")],
    param: ParamOption = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that the source must have.")] = None,
) -> None:
    """Write a published checkpoint as safetensors, for `supernet.weights` of a configuration.

    Example: hwsearch weights convert ofa_resnet50.pth r50.safetensors --family ofa_resnet50
    """
    from hwsearch.commands.weights import convert as command

    answer = command(source, target, family=family, params=param or [], sha256=sha256)
    typer.echo(f"{answer['file']}: {answer['bytes']:,} bytes")


@import_app.command("dynas")
def import_dynas(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Result CSV of DyNAS-T.")],
    space: Annotated[str, typer.Option(help="Configuration whose run gets the trials; or a family, with --out.")],
    device: Annotated[str | None, typer.Option(help="Device of the configuration that measured the latencies.")] = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run (default: runs/NAME).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a table of genes and metrics instead.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Import results of DyNAS-T as finished trials of a run, or as a table for predictors.

    Example: hwsearch import dynas results.csv --space configs/ofa.yaml
    """
    from hwsearch.commands.imports import import_dynas as command

    answer = command(file, space, device=device, run_dir=run_dir, out=out)
    if as_json:
        print_json(answer)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in answer.items()))


COMMANDS: dict[str, Callable[..., None]] = {"space": space}
