"""Commands about nets and devices: export, measure, devices, profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, print_json


def export(
    run: Annotated[str, typer.Argument(metavar="RUN|RUN:KEY", help="Folder of a run, or a net of its front.")],
    key: Annotated[str | None, typer.Option(help="Key of a net on the front.")] = None,
    trial: Annotated[int | None, typer.Option(help="Number of a trial on the front.")] = None,
    prefer: Annotated[str | None, typer.Option(help="Take the net that is best in this metric.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="That the net must keep: accuracy:min=0.97, latency_ms@cpu:max=2")
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="onnx, onnx-int8, openvino, openvino-int8, pt2, safetensors, ...; repeatable."),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="To time it on besides the run's: YAML file or runtime's name; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: RUN/models).")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one net of the front in any format, each checked in its engine, with its weights and card.

    Example: hwsearch export runs/quickstart --prefer latency_ms --limit accuracy:min=0.97 --format onnx-int8
    """
    from rich.console import Console

    from hwsearch.commands.choosing import Choice
    from hwsearch.commands.choosing import export as command
    from hwsearch.report.table import exports_table

    choice = Choice(key=key, trial=trial, prefer=prefer, limits=limit or [])
    answer = command(run, choice, forms=form or [], devices=device or [], out=out, license=license)
    if as_json:
        print_json(answer)
        return
    typer.echo(answer["folder"])
    for name, metric in answer["card"]["metrics"].items():
        spread = f" ± {metric['std']:.3g}" if metric["std"] else ""
        typer.echo(f"  {name}: {metric['value']:.6g}{spread}")
    Console().print(exports_table(answer["card"]["exports"]))


def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx|RUN:KEY", help="What to measure.")],
    device: Annotated[
        list[str], typer.Option(help="YAML file of a device, a device of the run, or a runtime's name; repeatable.")
    ],
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per call.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a model on one or more devices. A device that cannot is one line; the others go on.

    Example: hwsearch measure model.onnx --device onnxruntime --device openvino
    """
    from rich.console import Console

    from hwsearch.commands.measuring import measure as command
    from hwsearch.report.table import rows_table

    rows = command(model, device, batch=batch)
    if as_json:
        print_json(rows)
        return
    shown = []
    for row in rows:
        if row["error"] is None:
            spread = f" ±{row['half_width']:.2g}" if row["half_width"] else ""
            shown.append(
                {
                    "device": row["device"],
                    "artifact": f"{row['format']} {row['precision']}",
                    "metric": row["metric"],
                    "value": f"{row['value']:.4g}{spread} {row['unit']}",
                    "repeats": row["repeats"],
                    "batch": row["batch"],
                }
            )
    typer.echo(model)
    Console().print(rows_table(shown, ["device", "artifact", "metric", "value", "repeats", "batch"], "Measured here"))
    for row in rows:
        if row["error"] is not None:
            typer.echo(f"{row['device']}: {row['error']}", err=True)


def devices(as_json: JsonFlag = False) -> None:
    """Show which runtimes can measure here, and what to install for the others.

    Example: hwsearch devices
    """
    from rich.console import Console

    from hwsearch.commands.devices import devices as command
    from hwsearch.report.table import rows_table

    rows = command()
    if as_json:
        print_json(rows)
        return
    shown = [
        {
            "runtime": row["runtime"],
            "available": "yes" if row["available"] else "no",
            "metrics": ", ".join(row["metrics"]),
            "detail": row["detail"],
        }
        for row in rows
    ]
    Console().print(rows_table(shown, ["runtime", "available", "metrics", "detail"], "Runtimes"))


def profile(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="YAML file of a device, or a runtime's name.")],
    out: Annotated[Path, typer.Option(help="Folder of the capability cards.")] = Path("devices"),
    as_json: JsonFlag = False,
) -> None:
    """Find out what pays on a device: sparsity, precision, kernels, widths; writes a capability card.

    Example: hwsearch profile onnxruntime
    """
    from hwsearch.commands.devices import profile as command

    def observe(subject: str, done: int, total: int) -> None:
        typer.echo(f"  {done + 1}/{total} {subject} ...", err=True)

    card, path = command(device, out=out, observe=observe)
    typer.echo(card.to_json() if as_json else card.table())
    typer.echo(f"{path}", err=True)


COMMANDS: dict[str, Callable[..., None]] = {
    "export": export,
    "measure": measure,
    "devices": devices,
    "profile": profile,
}
