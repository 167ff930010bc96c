"""The command line: parses arguments, calls `hwsearch.commands`, prints. Nothing heavy is imported until used."""

from __future__ import annotations

import os
import signal
import sys
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsearch import __version__
from hwsearch.cli import cluster, looking
from hwsearch.cli.cluster import runs_app

app = typer.Typer(
    name="hwsearch",
    help="Find the sub-networks of a super-network that are best on your device, sparse ones included.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/quickstart.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set search.trials=200")
]


class Teacher(StrEnum):
    """Who teaches in a fine-tuning."""

    supernet = "supernet"
    original = "original"
    none = "none"


SpaceOption = Annotated[
    str, typer.Option(help="Configuration (.yaml), YAML file of genes, folder of a run, or a family: ofa_mobilenet_v3")
]
ModelOption = Annotated[
    str, typer.Option(help="auto, gp, ridge, non_negative, svr, trees or ensemble; auto chooses and combines.")
]
LogOption = Annotated[bool, typer.Option("--log", help="Fit the logarithm of the labels.")]
FromDevicesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PREDICTOR|TABLE.csv", help="Other devices to learn from: few rows are enough; repeatable."),
]
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _version(show: bool) -> None:
    if show:
        typer.echo(f"hwsearch {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    pass


def _json(value: Any) -> None:
    from hwsearch.runfolder import to_json

    typer.echo(to_json(value))


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the run.")],
    overrides: SetOption = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run (default: runs/NAME).")] = None,
    as_json: JsonOption = False,
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
        _json({"folder": str(outcome.folder.path), "n_trials": outcome.n_trials, **content})
        return
    console.print(front_table(content))
    failed = f", {outcome.n_failed} failed" if outcome.n_failed else ""
    ended = "; the space has no more architectures" if outcome.exhausted else ""
    console.print(f"{outcome.n_trials} trials{failed}{ended}; {len(outcome.exported)} nets exported", highlight=False)
    console.print(
        f"{outcome.folder.path}/: report.html, front.csv, models/<key>/model.onnx", highlight=False, soft_wrap=True
    )


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes one training.")],
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the result (default: runs/NAME).")
    ] = None,
    as_json: JsonOption = False,
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
        _json({"folder": str(outcome.folder), **outcome.card})
        return
    metrics = outcome.card["metrics"]
    accuracy, sparsity = metrics["accuracy"], metrics["sparsity"]["value"]
    console.print(
        f"hold-out accuracy {100 * accuracy['value']:.2f} % ± {100 * accuracy['std']:.2f}, "
        f"sparsity {100 * sparsity:.2f} %",
        highlight=False,
    )
    console.print(f"{outcome.folder}/: model.onnx, model.safetensors, card.json", highlight=False, soft_wrap=True)


@app.command()
def finetune(
    net: Annotated[str, typer.Argument(metavar="RUN:KEY", help="Net of a run's front.")],
    epochs: Annotated[int | None, typer.Option(help="Default: those of the run's training.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: a quarter of the run's.")] = None,
    teacher: Annotated[Teacher, typer.Option(help="Whose soft labels it learns from.")] = Teacher.supernet,
    as_json: JsonOption = False,
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
        _json(answer)
        return
    for name, metric in answer["card"]["metrics"].items():
        before = answer["card"]["before"].get(name)
        was = "" if before is None else f" (was {before:.6g})"
        typer.echo(f"  {name}: {metric['value']:.6g}{was}")
    typer.echo(answer["folder"])


@app.command()
def verify(
    run: RunArg,
    key: Annotated[list[str] | None, typer.Option(help="Net of the front; may be given again.")] = None,
    nets: Annotated[int, typer.Option(help="How many nets, spread over the front.", min=1)] = 3,
    seeds: Annotated[int, typer.Option(help="Trainings of every control.", min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Default: those of the run's training.", min=1)] = None,
    as_json: JsonOption = False,
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
        _json(content)
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


@app.command()
def front(
    run: RunArg,
    device: Annotated[str | None, typer.Option(help="Only the nets that are best for this device.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the validated front of a run, or of one of its devices.

    Example: hwsearch front runs/quickstart --json
    """
    from rich.console import Console

    from hwsearch.commands.query import front as command
    from hwsearch.report.table import front_table

    content = command(run, device=device)
    if as_json:
        _json(content)
    else:
        Console().print(front_table(content))


@app.command()
def report(
    run: RunArg,
    out: Annotated[Path | None, typer.Option(help="File to write (default: RUN/report.html).")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write every figure as PNG and SVG there.")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Run to hold it against, such as a random one; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file that shows a run: fronts, trials, predictors, genes, layers. Also while it is going on.

    Example: hwsearch report runs/quickstart --figures figures
    """
    from hwsearch.commands.report import report as command

    answer = command(run, out=out, figures_to=figures, baselines=baseline or [])
    if as_json:
        _json(answer)
    else:
        typer.echo("\n".join(answer["files"]))


@app.command()
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
    as_json: JsonOption = False,
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
        _json(answer)
        return
    typer.echo(answer["folder"])
    for name, metric in answer["card"]["metrics"].items():
        spread = f" ± {metric['std']:.3g}" if metric["std"] else ""
        typer.echo(f"  {name}: {metric['value']:.6g}{spread}")
    Console().print(exports_table(answer["card"]["exports"]))


@app.command()
def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx|RUN:KEY", help="What to measure.")],
    device: Annotated[
        list[str], typer.Option(help="YAML file of a device, a device of the run, or a runtime's name; repeatable.")
    ],
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per call.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on one or more devices. A device that cannot is one line; the others go on.

    Example: hwsearch measure model.onnx --device onnxruntime --device openvino
    """
    from rich.console import Console

    from hwsearch.commands.measuring import measure as command
    from hwsearch.report.table import rows_table

    rows = command(model, device, batch=batch)
    if as_json:
        _json(rows)
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


@app.command()
def devices(as_json: JsonOption = False) -> None:
    """Show which runtimes can measure here, and what to install for the others.

    Example: hwsearch devices
    """
    from rich.console import Console

    from hwsearch.commands.devices import devices as command
    from hwsearch.report.table import rows_table

    rows = command()
    if as_json:
        _json(rows)
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


@app.command()
def profile(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="YAML file of a device, or a runtime's name.")],
    out: Annotated[Path, typer.Option(help="Folder of the capability cards.")] = Path("devices"),
    as_json: JsonOption = False,
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


@app.command()
def predict(
    sources: Annotated[
        list[Path], typer.Argument(metavar="RUN|PREDICTOR...", help="Folder of a run, or predictor files of one space.")
    ],
    arch: Annotated[
        list[str], typer.Option(help="JSON of gene values, a file with it, a key, 'smallest' or 'largest'; repeatable.")
    ],
    metric: Annotated[list[str] | None, typer.Option(help="Metric, such as latency_ms@cpu; repeatable.")] = None,
    level: Annotated[float, typer.Option(help="Of intervals, of predictor files.")] = 0.9,
    config: Annotated[
        Path | None, typer.Option(help="YAML file whose network gives layer costs to predictors in files.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict metrics of architectures that were not measured.

    Example: hwsearch predict runs/quickstart --arch largest --metric latency_ms@cpu
    """
    from rich.console import Console

    from hwsearch.commands.query import predict as command
    from hwsearch.commands.query_service import predict_files
    from hwsearch.report.table import rows_table

    columns = ["key", "metric", "mean", "std", "unit", "kind"]
    if any(path.is_file() for path in sources) or len(sources) > 1:
        rows = predict_files(sources, arch, metrics=metric or [], level=level, config=config)
        columns[4:4] = ["lower", "upper"]
    else:
        rows = command(sources[0], arch, metrics=metric or [])
    if as_json:
        _json(rows)
        return
    Console().print(rows_table(rows, columns, ", ".join(map(str, sources))))
    if any(row.get("outside") for row in rows):
        typer.echo(f"outside of the range that the predictor was trained on: {_outside(rows)}")


def _outside(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['metric']} of {row['key']}" for row in rows if row.get("outside"))


@app.command()
def space(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes a run.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the genes, size and cost range of a configuration's search space.

    Example: hwsearch space configs/quickstart.yaml
    """
    from rich.console import Console

    from hwsearch.commands.query import space as command
    from hwsearch.report.table import number, rows_table

    answer = command(config, overrides=overrides or [])
    if as_json:
        _json(answer)
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


@app.command()
def fit(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE.csv", help="A column per gene, a column of labels; repeats are allowed.")
    ],
    space: SpaceOption,
    target: Annotated[str, typer.Option(help="Column of the labels: latency_ms, accuracy, ...")],
    out: Annotated[Path, typer.Option(help="File of the predictor, ending in .safetensors.")],
    model: ModelOption = "auto",
    log: LogOption = False,
    device: Annotated[str | None, typer.Option(help="Name of the device that the labels are of.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of the labels (default: that of the metric).")] = None,
    maximize: Annotated[
        bool | None, typer.Option("--maximize/--minimize", help="Which labels are good (default: as the metric says).")
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples per measured call.")] = 1,
    from_devices: FromDevicesOption = None,
    curve: Annotated[bool, typer.Option(help="Fit the learning curve, too.")] = True,
    figure: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a predictor of your own measurements and show how good it is; no run needed.

    Example: hwsearch fit pixel.csv --space ofa_mobilenet_v3 --target latency_ms --out pixel.safetensors
    """
    from hwsearch.commands.fit import fit as command
    from hwsearch.report.fit_text import fit_text

    answer = command(
        table,
        space=space,
        target=target,
        out=out,
        model=model,
        log=log,
        device=device,
        unit=unit,
        maximize=maximize,
        batch=batch,
        from_devices=from_devices or [],
        curve=curve,
        figure=figure,
    )
    if as_json:
        _json(answer)
        return
    typer.echo(fit_text(answer))
    typer.echo(str(out))


@app.command("measure-for-predictor")
def measure_for_predictor(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|FAMILY", help="Configuration, folder of a run or family to measure.")
    ],
    device: Annotated[str, typer.Option(help="YAML file of a device, a device of CONFIG, or a runtime's name.")],
    target_error: Annotated[float, typer.Option(help="Mean error, in percent, that is good enough.")],
    budget: Annotated[int, typer.Option(help="Networks to measure at most, those of earlier calls included.")],
    out: Annotated[Path, typer.Option(help="File of the predictor, ending in .safetensors.")],
    metric: Annotated[str, typer.Option(help="Out of what the device measures.")] = "latency_ms",
    model: ModelOption = "auto",
    log: LogOption = False,
    from_devices: FromDevicesOption = None,
    seed: Annotated[int, typer.Option(help="Of the choice of networks.")] = 0,
    figure: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the networks that tell a predictor most, until it is good enough. The same command continues.

    Example: hwsearch measure-for-predictor ofa_mobilenet_v3 --device onnxruntime --target-error 3 --budget 100
    --out cpu.safetensors
    """
    from hwsearch.commands.measure_for_predictor import Progress
    from hwsearch.commands.measure_for_predictor import measure_for_predictor as command
    from hwsearch.report.fit_text import fit_text

    def observe(progress: Progress) -> None:
        error = "-" if progress.error is None else f"{progress.error:.2f} ± {progress.error_std:.2f} %"
        failed = f", {progress.tried - progress.measured} failed" if progress.tried > progress.measured else ""
        typer.echo(f"  {progress.measured}/{progress.budget} measured{failed}, error {error}", err=True)

    answer = command(
        config,
        device=device,
        target_error=target_error,
        budget=budget,
        out=out,
        metric=metric,
        model=model,
        log=log,
        from_devices=from_devices or [],
        seed=seed,
        figure=figure,
        observe=observe,
    )
    if as_json:
        _json(answer)
        return
    typer.echo(fit_text(answer))
    reached = "reached" if answer["ended"] == "target" else "not reached within the budget"
    typer.echo(f"target error    {answer['target_error']:g} %: {reached} with {answer['tried']} networks")
    typer.echo(f"{answer['file']}, {answer['measurements']}")


@app.command("query")
def query_(
    sources: Annotated[
        list[Path], typer.Argument(metavar="RUN|PREDICTOR...", help="Folder of a run, predictor files, of one space.")
    ],
    prefer: Annotated[str, typer.Option(help="Metric to be best in: latency_ms@cpu")],
    limit: Annotated[
        list[str] | None, typer.Option(help="That answers keep: accuracy:min=0.97, latency_ms@cpu:max=2; repeatable.")
    ] = None,
    which: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="trials|predictors", help="Where from (default: both); repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(help="Measured and predicted answers, of each at most.")] = 5,
    candidates: Annotated[int, typer.Option(help="Architectures that predictors are asked about.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the candidates.")] = 0,
    level: Annotated[float, typer.Option(help="Of intervals.")] = 0.9,
    cautious: Annotated[bool, typer.Option(help="Judge predictions by the worse end of their interval.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file whose network gives layer costs to predictors in files.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the best architectures under limits, among stored trials and by prediction; each says which it is.

    Example: hwsearch query runs/quickstart --prefer latency_ms@cpu --limit accuracy:min=0.97
    """
    from rich.console import Console

    from hwsearch.commands.query_service import best
    from hwsearch.report.table import rows_table

    answer = best(
        sources,
        prefer=prefer,
        limits=limit or [],
        sources=which or [],
        count=count,
        candidates=candidates,
        seed=seed,
        level=level,
        cautious=cautious,
        config=config,
    )
    if as_json:
        _json(answer)
        return
    names = list(dict.fromkeys(name for found in answer["answers"] for name in found["values"]))
    # The table shows what was asked for; --json has every metric.
    asked = {text.split(":")[0].split("@")[0] for text in [prefer, *(limit or [])]}
    names = [name for name in names if name.split("@")[0] in asked]
    rows = [
        {
            "key": found["key"],
            "label": found["label"],
            **{name: _shown(found["values"].get(name)) for name in names},
        }
        for found in answer["answers"]
    ]
    if not rows:
        typer.echo("no architecture keeps the limits")
        return
    Console().print(rows_table(rows, ["key", "label", *names], f"best {answer['prefer']} under the limits"))
    if any(v["outside"] for found in answer["answers"] for v in found["values"].values()):
        typer.echo("! outside of the range that the predictor was trained on")


def _shown(value: dict[str, Any] | None) -> str:
    """Returns a value of an answer for a table: with its deviation where it was predicted."""
    if value is None or value["value"] is None:
        return "-"
    spread = f" ± {value['std']:.2g}" if value["kind"] == "predicted" and value["std"] is not None else ""
    return f"{value['value']:.6g}{spread}{' !' if value['outside'] else ''}"


@app.command()
def serve(
    sources: Annotated[
        list[Path], typer.Argument(metavar="PREDICTOR|RUN...", help="Predictor files, folder of a run, of one space.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; use a key for any other.")] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8642,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that requests must carry (default: $HWSEARCH_API_KEY).")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 16 * 2**20,
    max_architectures: Annotated[int, typer.Option(min=1, help="In one prediction.")] = 10_000,
    timeout_s: Annotated[float, typer.Option(help="For a request to arrive, and again for its answer.")] = 30.0,
    config: Annotated[
        Path | None, typer.Option(help="YAML file whose network gives layer costs to predictors in files.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster (default: one is started here).")] = None,
) -> None:
    """Answer predictions and queries over HTTP until interrupted.

    Example: hwsearch serve runs/quickstart --replicas 2
    """
    import threading

    from hwsearch.serve import is_local, read_key, serving
    from hwsearch.service.settings import Settings

    settings = Settings(
        max_bytes=max_bytes,
        max_architectures=max_architectures,
        timeout_s=timeout_s,
        key_digest=read_key(api_key_file),
    )
    if settings.key_digest is None and not is_local(host):
        typer.echo(f"Warning: anyone who reaches {host} can ask; --api-key-file asks for a key.", err=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serving(
        sources, host=host, port=port, replicas=replicas, settings=settings, config=config, address=address
    ) as running:
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray sets its own
            signal.signal(number, lambda *_: stop.set())
        typer.echo(f"{running.url}/v1/predict, /v1/query, /v1/devices, /v1/space, /openapi.json, /metrics")
        stop.wait()


weights_app = typer.Typer(
    help="Look into checkpoints of super-networks and convert published ones.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")
FamilyOption = Annotated[str | None, typer.Option(help="Family that the weights should fit: ofa_mobilenet_v3, ...")]
ParamOption = Annotated[
    list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="Argument of the family: width_mult=1.2")
]


@weights_app.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="torch or safetensors checkpoint.")],
    family: FamilyOption = None,
    param: ParamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint holds and whether it fits a family; nothing in it is executed.

    Example: hwsearch weights inspect ofa_mbv3_w1.2 --family ofa_mobilenet_v3 --param width_mult=1.2
    """
    from hwsearch.commands.weights import inspect as command

    answer = command(file, family=family, params=param or [])
    if as_json:
        _json(answer)
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


@app.command("benchmark-engines")
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
    as_json: JsonOption = False,
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
        _json({"task": result.task, "seeds": seeds, "references": result.tables, "files": [str(p) for p in written]})
        return
    for reference, rows in result.tables.items():
        console.print(comparison_table(rows, title=f"{result.task}, reference {reference}, {seeds} seeds"))
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)


import_app = typer.Typer(help="Take over results of other systems.", no_args_is_help=True)
app.add_typer(import_app, name="import")


@import_app.command("dynas")
def import_dynas(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Result CSV of DyNAS-T.")],
    space: Annotated[str, typer.Option(help="Configuration whose run gets the trials; or a family, with --out.")],
    device: Annotated[str | None, typer.Option(help="Device of the configuration that measured the latencies.")] = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run (default: runs/NAME).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a table of genes and metrics instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Import results of DyNAS-T as finished trials of a run, or as a table for predictors.

    Example: hwsearch import dynas results.csv --space configs/ofa.yaml
    """
    from hwsearch.commands.imports import import_dynas as command

    answer = command(file, space, device=device, run_dir=run_dir, out=out)
    if as_json:
        _json(answer)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in answer.items()))


for name, command in {**cluster.COMMANDS, **looking.COMMANDS}.items():
    app.command(name)(command)
app.add_typer(runs_app, name="runs")


def main() -> None:
    """Entry point: user mistakes are one clear line and exit code 2; a traceback only with --debug."""
    # Idle OpenMP threads sleep instead of spinning: on a busy machine a training step is then many times faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `hwsearch stop`, a cluster's end of a job: as Ctrl-C
    try:
        code = app(standalone_mode=False)  # typer answers an interrupt, and Exit, with a number
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        show = getattr(error, "show", None)
        if callable(show):  # usage errors of the argument parser
            show()
            sys.exit(2)
        from hwsearch.errors import DeviceError, NoResultError, WorkerError

        if isinstance(error, ValueError | DeviceError | NoResultError | WorkerError | OSError):
            typer.echo(f"Error: {error}", err=True)
            sys.exit(2 if isinstance(error, ValueError) else 1)
        typer.echo(f"Error: {type(error).__name__}: {error} (--debug shows where)", err=True)
        sys.exit(1)
    if code == INTERRUPTED:
        typer.echo("interrupted; the same command continues", err=True)
    if isinstance(code, int) and code:
        sys.exit(code)
