"""Identity of a run: whether a folder that exists belongs to the run that a configuration describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hwsearch.build import Plan
from hwsearch.config import parse
from hwsearch.errors import RunFolderError
from hwsearch.runfolder import RunFolder

FIXED = ("name", "seed", "supernet", "sparsity", "precision", "data", "training", "evaluation", "limits", "storage")
"""Sections of the configuration that no continuation may change."""


def inputs(plan: Plan) -> dict[str, Any]:
    """Returns digests of what the run reads and its configuration only names: data splits and given weights."""
    weights = plan.config.supernet.weights
    return {
        "data": None if plan.dataset is None else plan.dataset.digests(),
        "weights": None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def identity(plan: Plan) -> dict[str, Any] | None:
    """Returns what a database keeps of a run, so that another one of the same name is not taken for it."""
    if plan.config.storage is None:
        return None
    config = plan.config.to_dict()
    return {key: config[key] for key in FIXED if key not in ("name", "storage")}


def check_identity(plan: Plan, folder: RunFolder) -> None:
    """Checks that a run folder, if it exists, is of this run.

    A larger budget, another engine, another executor or added devices are a continuation.

    Raises:
        RunFolderError: the folder holds another run; names the difference.
    """
    if not folder.config.exists():
        return
    parsed = parse({key: value for key, value in folder.load_config().items() if key != "format_version"})
    if parsed.config is None or parsed.problems:
        raise RunFolderError(f"{folder.config} must be a configuration of this version, but {parsed.problems[0]}")
    stored, current = parsed.config.to_dict(), plan.config.to_dict()
    for key in FIXED:
        if stored[key] != current[key]:
            raise _other(folder, _difference(key, stored, current))
    old, new = stored["devices"], current["devices"]
    for name in old:
        if new.get(name) != old[name]:
            raise _other(folder, f"device {_difference(name, old, new)}")
    kept = [o for o in current["objectives"] if o["device"] is None or o["device"] in old]
    if stored["objectives"] != kept:
        raise _other(
            folder, f"objectives were {_names(stored['objectives'])} and are now {_names(current['objectives'])}"
        )
    try:
        before = json.loads(folder.environment.read_text())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the driver was killed before it noted them
    now = inputs(plan)
    for key in now:
        if before.get(key) != now[key]:
            what = "the weights' file" if key == "weights" else f"the {key}"
            raise _other(folder, f"inputs changed: {what} of the same name had another digest")


def _other(folder: RunFolder, difference: str) -> RunFolderError:
    return RunFolderError(f"run folder {folder.path} must be of the same run, but its {difference}.")


def _names(objectives: Sequence[Mapping[str, Any]]) -> list[str]:
    return [o["metric"] + (f"@{o['device']}" if o.get("device") else "") for o in objectives]


def _difference(key: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Returns `a.b was 1 and is now 2` for the first differing leaf."""
    old, new = stored.get(key), current.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        for part in sorted({*old, *new}, key=str):
            if old.get(part) != new.get(part):
                return f"{key}.{_difference(part, old, new)}"
    return f"{key} was {_short(old)} and is now {_short(new)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
