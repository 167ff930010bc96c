"""The command line: parses arguments, calls `hwsearch.commands`, prints. Nothing heavy is imported until used."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from hwsearch import __version__
from hwsearch.cli import cluster, comparing, looking, nets, predicting, running, spaces, starting

app = typer.Typer(
    name="hwsearch",
    help="Find the sub-networks of a super-network that are best on your device, sparse ones included.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
PANELS = {
    "Search and train": {**starting.COMMANDS, **running.COMMANDS},
    "Look": looking.COMMANDS,
    "Nets and devices": nets.COMMANDS,
    "Predict": predicting.COMMANDS,
    "Spaces": spaces.COMMANDS,
    "Compare": comparing.COMMANDS,
    "Cluster": cluster.COMMANDS,
}
"""Heading in `hwsearch --help` -> name of a command -> its function."""
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


for panel, commands in PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(spaces.weights_app, name="weights", rich_help_panel="Spaces")
app.add_typer(spaces.import_app, name="import", rich_help_panel="Spaces")
app.add_typer(cluster.runs_app, name="runs", rich_help_panel="Look")


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
