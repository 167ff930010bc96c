"""`hwsearch status`: how far a run is, read from its record while another process writes it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsearch.commands.query import run_plan
from hwsearch.commands.report import open_study
from hwsearch.errors import UserError
from hwsearch.results import State
from hwsearch.runfolder import RunFolder


def status(run: Path) -> dict[str, Any]:
    """Returns the state of a run: driver, phase, trials, front and best values, JSON-able. Nothing is written.

    `phase` is `training` before the first trial is recorded, `searching`, `validating` when every trial is on record
    but the driver still works, `complete`, or `stopped` where no driver runs and something is missing.

    Raises:
        RunFolderError: no run there.
    """
    plan, folder = run_plan(run)
    driver = _driver(folder)
    budget = min(plan.config.search.trials, plan.space.size())
    try:
        study = open_study(plan, folder)
    except UserError:
        phase = "training" if driver else "stopped"
        nothing = {"trials": 0, "budget": budget, "failed": 0, "unmeasured": 0, "front": 0, "best": {}}
        return {"run": str(run), "phase": phase, "driver": driver, **nothing, "latest_front": None}
    states = [t.state for t in study.trials]
    done = sum(state != State.RUNNING for state in states)
    front = study.front()
    best = {
        o.name: min((t.metrics[o.name] for t in front if o.name in t.metrics), key=o.loss, default=None)
        for o in study.objectives
    }
    if driver:
        phase = "training" if not study.trials else "searching" if done < budget else "validating"
    else:
        phase = "complete" if done >= budget and folder.front_json.is_file() else "stopped"
    latest = max(front, key=lambda t: t.index, default=None)
    return {
        "run": str(run),
        "phase": phase,
        "driver": driver,
        "trials": done,
        "budget": budget,
        "failed": sum(state == State.FAILED for state in states),
        "unmeasured": sum(state == State.RUNNING for state in states),
        "front": len(front),
        "best": best,
        "latest_front": None if latest is None else {"key": latest.key, "trial": latest.index},
    }


def _driver(folder: RunFolder) -> dict[str, Any] | None:
    """Returns what the process that holds the run's lock says of itself; None where nobody holds it."""
    try:
        with (folder.path / "lock").open("rb") as file:
            text = file.read()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.loads(text or b"{}")
                return found if isinstance(found, dict) else {}
            fcntl.flock(file, fcntl.LOCK_UN)
    except (OSError, ValueError):
        pass
    return None


def watch(
    run: Path,
    show: Callable[[dict[str, Any]], None],
    *,
    every_s: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Shows the status again and again until no driver works on the run.

    Args:
        run: folder.
        show: is given each status.
        every_s: seconds between two looks, positive.
        sleep: for tests.

    Raises:
        UserError: `every_s` is not positive.
    """
    if every_s <= 0:
        raise UserError(f"--every must be positive, but got {every_s:g}.")
    while True:
        found = status(run)
        show(found)
        if found["driver"] is None:
            return
        sleep(every_s)
