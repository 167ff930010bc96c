"""`hwsearch submit`, `logs`, `attach`, `stop`: runs on a cluster from anywhere; and ending a run of this machine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from hwsearch.config import parse, raise_problems, read_yaml
from hwsearch.distribution.submission import Jobs, JobState
from hwsearch.errors import UserError
from hwsearch.runfolder import holder


def submit(
    config: Path,
    *,
    address: str,
    overrides: Sequence[str] = (),
    run_dir: str | None = None,
    pip: Sequence[str] = (),
    image: str | None = None,
) -> tuple[str, str]:
    """Starts a run on a cluster; returns the id of the job and the folder of the run there.

    The configuration's shape is checked here. Paths in it are the cluster's, and so the rest is checked there.

    Raises:
        ConfigError: bad configuration.
        UserError: no cluster answers.
    """
    raw = read_yaml(config, overrides)
    parsed = parse(raw)
    raise_problems(parsed.problems, str(config))
    assert parsed.config is not None
    if parsed.config.executor.kind == "ray" and parsed.config.executor.address is None:
        raw["executor"] = {**(raw.get("executor") or {}), "address": "auto"}
    run_dir = run_dir or f"~/hwsearch-runs/{parsed.config.name}"
    return Jobs(address).submit(raw, run_dir=run_dir, pip=pip, image=image), run_dir


def state(job: str, *, address: str) -> JobState:
    """Returns how a job of a cluster is."""
    return Jobs(address).state(job)


def logs(job: str, *, address: str) -> str:
    """Returns what a job has printed."""
    return Jobs(address).logs(job)


def attach(job: str, *, address: str) -> Iterator[str]:
    """Yields what a job prints until it ends."""
    return Jobs(address).follow(job)


def stop(target: str, *, address: str | None = None) -> str:
    """Ends a job of a cluster or, without an address, the run in a folder of this machine; returns one line.

    The driver ends as on Ctrl-C: what is recorded stays, and the same command continues.

    Raises:
        UserError: no such job or folder, nobody works there, or somebody on another machine does.
    """
    if address is not None:
        stopped = Jobs(address).stop(target)
        return f"{target} was asked to end" if stopped else f"{target} had ended already"
    driver = holder(Path(target))
    if driver is None:
        raise UserError(f"RUN must be a folder in which a run is at work, but in {target} nobody is.")
    if driver.get("host") != socket.gethostname():
        raise UserError(f"{target} must be stopped where it works: process {driver['pid']} on {driver['host']}.")
    os.kill(int(driver["pid"]), signal.SIGTERM)
    return f"process {driver['pid']} was asked to end"
