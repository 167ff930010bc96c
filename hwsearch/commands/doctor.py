"""`hwsearch doctor`: is everything here that a search needs, and how noisy is this host?"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.commands.devices import devices
from hwsearch.commands.query import run_plan
from hwsearch.commands.report import open_study

NEEDED = ("torch", "numpy", "scipy", "optuna", "ray", "onnx", "onnxruntime", "safetensors", "lightgbm")
SAMPLES = 40
NOISY = 0.05
"""Relative spread of a fixed piece of work above which repeats have to make up for the host."""


def doctor(run: Path | None = None) -> list[dict[str, Any]]:
    """Returns one row per check: name, state (`ok`, `note` or `problem`), what was found, and a hint or None.

    Args:
        run: folder whose record is looked at, too.
    """
    checks = [_python(), _libraries(), _runtimes(), _noise(_work), _load(), _ray()]
    return checks if run is None else [*checks, _record(run)]


def _row(name: str, state: str, found: str, hint: str | None = None) -> dict[str, Any]:
    return {"name": name, "state": state, "found": found, "hint": hint}


def _python() -> dict[str, Any]:
    found = ".".join(map(str, sys.version_info[:3]))
    tested = sys.version_info[:2] == (3, 11) and sys.platform == "linux"
    hint = None if tested else "Python 3.11 on Linux is what is tested."
    return _row("python", "ok" if tested else "note", f"{found} on {sys.platform}", hint)


def _libraries() -> dict[str, Any]:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return _row("libraries", "problem", f"missing: {', '.join(missing)}", "pip install hwsearch installs them.")
    return _row("libraries", "ok", ", ".join(f"{name} {_version(name)}" for name in ("torch", "onnxruntime", "ray")))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _runtimes() -> dict[str, Any]:
    rows = devices()
    here = [row["runtime"] for row in rows if row["available"]]
    absent = [row["runtime"] for row in rows if not row["available"]]
    hint = f"not here: {', '.join(absent)}; hwsearch devices says what to install." if absent else None
    return _row("runtimes", "ok" if here else "problem", ", ".join(here) or "none", hint)


def _noise(work: Callable[[], object]) -> dict[str, Any]:
    """Returns how much a fixed piece of work varies: half the range of the middle half, by the median."""
    times = []
    for _ in range(SAMPLES + 5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(times[5:], n=4)  # the first five warm up
    spread = (high - low) / 2 / middle
    found = f"a fixed piece of work takes {1000 * middle:.2f} ms ± {100 * spread:.1f} %"
    if spread <= NOISY:
        return _row("timing noise", "ok", found)
    return _row("timing noise", "note", found, "Close other programs, or give devices more repeats and max_seconds.")


def _work() -> object:
    matrix = np.full((192, 192), 0.5, dtype=np.float32)
    for _ in range(8):
        matrix = matrix @ matrix * np.float32(1e-2)
    return matrix


def _load() -> dict[str, Any]:
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    busy = load > 0.5 * cores
    hint = "Latencies measured now need more repeats." if busy else None
    return _row("load", "note" if busy else "ok", f"{load:.1f} on {cores} cores", hint)


def _ray() -> dict[str, Any]:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return _row(
            "ray", "ok", "a run starts its own on this host", "RAY_ADDRESS or executor.address names a cluster."
        )
    return _row("ray", "note", f"RAY_ADDRESS is {address}", "A run without executor.address still starts its own.")


def _record(run: Path) -> dict[str, Any]:
    try:
        plan, folder = run_plan(run)
        study = open_study(plan, folder)
    except (ValueError, OSError) as error:
        return _row("record", "problem", str(error).splitlines()[0], "The run's folder or its storage cannot be read.")
    where = plan.config.storage or str(folder.journal)
    return _row("record", "ok", f"{len(study.trials)} trials in {where.rpartition('@')[2]}")
