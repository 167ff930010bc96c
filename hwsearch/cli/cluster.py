"""Commands about runs elsewhere and runs on the disk: submit, logs, attach, stop, runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hwsearch.cli.options import JsonFlag, RunArg, SetOption, print_json

AddressOption = Annotated[str, typer.Option(metavar="URL", help="Dashboard of the cluster: http://head:8265")]
JobArg = Annotated[str, typer.Argument(metavar="JOB", help="Id that `hwsearch submit` printed.")]
runs_app = typer.Typer(help="Runs on the disk: list, show, clean.", no_args_is_help=True)


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the run.")],
    address: AddressOption,
    overrides: SetOption = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", help="Folder of the run on the cluster (default: ~/hwsearch-runs/NAME).")
    ] = None,
    pip: Annotated[list[str] | None, typer.Option(help="Package to install for the job; may be given again.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image that the job runs in.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start a run on a Ray cluster. hwsearch and the configuration travel with it; the same command continues.

    Example: hwsearch submit configs/quickstart.yaml --address http://head:8265
    """
    from hwsearch.commands.jobs import submit as command

    job, folder = command(
        config, address=address, overrides=overrides or [], run_dir=run_dir, pip=pip or [], image=image
    )
    if as_json:
        print_json({"job": job, "run_dir": folder})
        return
    typer.echo(f"{job}: {folder} on the cluster")
    typer.echo(f"hwsearch attach {job} --address {address}", err=True)


def logs(job: JobArg, address: AddressOption) -> None:
    """Show what a job has printed so far.

    Example: hwsearch logs quickstart-1a2b3c4d --address http://head:8265
    """
    from hwsearch.commands.jobs import logs as command

    typer.echo(command(job, address=address), nl=False)


def attach(job: JobArg, address: AddressOption) -> None:
    """Follow a job until it ends; Ctrl-C leaves it running. The exit code is 1 if the job failed.

    Example: hwsearch attach quickstart-1a2b3c4d --address http://head:8265
    """
    from hwsearch.commands import jobs

    for text in jobs.attach(job, address=address):
        typer.echo(text, nl=False)
    state = jobs.state(job, address=address)
    typer.echo(f"{job}: {state.status.lower()}; {state.run_dir}", err=True)
    if state.status == "FAILED":
        raise typer.Exit(1)


def stop(
    target: Annotated[str, typer.Argument(metavar="RUN|JOB", help="Folder of a run here, or a job of --address.")],
    address: Annotated[str | None, typer.Option(metavar="URL", help="Dashboard of the cluster.")] = None,
) -> None:
    """End a run as Ctrl-C would: what is recorded stays, and the same command continues.

    Example: hwsearch stop runs/quickstart
    """
    from hwsearch.commands.jobs import stop as command

    typer.echo(command(target, address=address))


@runs_app.command("list")
def runs_list(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of runs.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """List the runs below a folder.

    Example: hwsearch runs list runs
    """
    from hwsearch.commands.runs import list_runs
    from hwsearch.report.table import size

    found = list_runs(root)
    if as_json:
        print_json([asdict(run) for run in found])
        return
    for run in found:
        typer.echo(
            f"{run.folder}: {run.state}, {run.trials} trials asked for, front of {run.front}, {run.exported} exported, "
            f"{size(run.bytes)}"
        )


@runs_app.command("show")
def runs_show(run: RunArg, as_json: JsonFlag = False) -> None:
    """Show a run's state and what takes its space.

    Example: hwsearch runs show runs/quickstart
    """
    from hwsearch.commands.runs import show
    from hwsearch.report.table import size

    found = show(run)
    if as_json:
        print_json(found)
        return
    for name in ("name", "state", "trials", "front", "exported"):
        typer.echo(f"{name}: {found[name]}")
    for name, n_bytes in found["parts"].items():
        typer.echo(f"  {name}: {size(n_bytes)}")


@runs_app.command("clean")
def runs_clean(
    run: RunArg,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove what a complete run no longer needs: training checkpoints, artifacts of nets that are not on its front.

    Example: hwsearch runs clean runs/quickstart --dry-run
    """
    from hwsearch.commands.runs import clean
    from hwsearch.report.table import size

    found = clean(run, dry_run=dry_run)
    if as_json:
        print_json(found)
        return
    done = "would free" if dry_run else "freed"
    typer.echo(f"{found['folder']}: {done} {size(found['bytes'])} in {found['files']} files")


COMMANDS: dict[str, Callable[..., None]] = {"submit": submit, "logs": logs, "attach": attach, "stop": stop}
