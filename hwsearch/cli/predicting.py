"""Commands about predictors: predict, query, fit, measure-for-predictor, serve."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsearch.cli.options import JsonFlag, print_json

ModelOption = Annotated[
    str, typer.Option(help="auto, gp, ridge, non_negative, svr, trees or ensemble; auto chooses and combines.")
]
LogOption = Annotated[bool, typer.Option("--log", help="Fit the logarithm of the labels.")]
FromDevicesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PREDICTOR|TABLE.csv", help="Other devices to learn from: few rows are enough; repeatable."),
]
SpaceOption = Annotated[
    str, typer.Option(help="Configuration (.yaml), YAML file of genes, folder of a run, or a family: ofa_mobilenet_v3")
]


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
    as_json: JsonFlag = False,
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
        print_json(rows)
        return
    Console().print(rows_table(rows, columns, ", ".join(map(str, sources))))
    if any(row.get("outside") for row in rows):
        typer.echo(f"outside of the range that the predictor was trained on: {_outside(rows)}")


def _outside(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['metric']} of {row['key']}" for row in rows if row.get("outside"))


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
    as_json: JsonFlag = False,
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
        print_json(answer)
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
    if any(found["label"] == "measured" for found in answer["answers"]):
        typer.echo("Measured in the search; `hwsearch front` has values of the hold-out, measured again: they differ.")
    if any(v["outside"] for found in answer["answers"] for v in found["values"].values()):
        typer.echo("! outside of the range that the predictor was trained on")


def _shown(value: dict[str, Any] | None) -> str:
    """Returns a value of an answer for a table: with its deviation where it was predicted."""
    if value is None or value["value"] is None:
        return "-"
    spread = f" ± {value['std']:.2g}" if value["kind"] == "predicted" and value["std"] is not None else ""
    return f"{value['value']:.6g}{spread}{' !' if value['outside'] else ''}"


def fit(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE.csv", help="A column per gene, a column of labels; repeats are allowed.")
    ],
    space: SpaceOption,
    target: Annotated[str, typer.Option(help="Column of the labels: latency_ms, accuracy, ...")],
    out: Annotated[Path, typer.Option(help="File of the predictor, ending in .safetensors.")],
    model: ModelOption = "auto",
    log: LogOption = False,
    rank: Annotated[bool, typer.Option("--rank", help="Fit the labels' ranks: where their order counts.")] = False,
    zero_cost: Annotated[
        list[str] | None,
        typer.Option(help="Read this zero-cost score of the untrained networks, too, or all; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Name of the device that the labels are of.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of the labels (default: that of the metric).")] = None,
    maximize: Annotated[
        bool | None, typer.Option("--maximize/--minimize", help="Which labels are good (default: as the metric says).")
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples per measured call.")] = 1,
    from_devices: FromDevicesOption = None,
    curve: Annotated[bool, typer.Option(help="Fit the learning curve, too.")] = True,
    figure: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
    as_json: JsonFlag = False,
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
        rank=rank,
        zero_cost=zero_cost or [],
        device=device,
        unit=unit,
        maximize=maximize,
        batch=batch,
        from_devices=from_devices or [],
        curve=curve,
        figure=figure,
    )
    if as_json:
        print_json(answer)
        return
    typer.echo(fit_text(answer))
    typer.echo(str(out))


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
    as_json: JsonFlag = False,
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
        print_json(answer)
        return
    typer.echo(fit_text(answer))
    reached = "reached" if answer["ended"] == "target" else "not reached within the budget"
    typer.echo(f"target error    {answer['target_error']:g} %: {reached} with {answer['tried']} networks")
    typer.echo(f"{answer['file']}, {answer['measurements']}")


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


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict,
    "query": query_,
    "fit": fit,
    "measure-for-predictor": measure_for_predictor,
    "serve": serve,
}
