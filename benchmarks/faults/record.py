"""What must hold of a record after a fault, and the run that the scripts of this folder use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna

from hwsearch.commands.status import status
from hwsearch.results import State
from hwsearch.study import Study, open_storage

NAME, DEVICE = "faults", "phone"
Records = dict[str, list[tuple[int, int, str, list[float] | None]]]


def config(trials: int, **changes: Any) -> dict[str, Any]:
    """Returns a search over exact costs and a simulated device without noise: a repeated net has the same values."""
    return {
        "name": NAME,
        "seed": 3,
        "supernet": {
            "family": "mlp",
            "params": {"input_shape": [1, 8, 8], "n_classes": 10, "hidden": [[4, 8, 16, 24, 32, 40, 48]] * 3},
        },
        "sparsity": {"choices": ["dense", "unstructured-0.5", "unstructured-0.8"]},
        "objectives": ["stored_bytes", f"latency_ms@{DEVICE}"],
        "devices": {DEVICE: {"runtime": "simulated", "options": {"noise": 0.0, "gmacs_per_s": 0.05, "sparse": True}}},
        "search": {"engine": "nsga2", "trials": trials, "options": {"population": 20}},
        "executor": {"kind": "serial"},
        **changes,
    }


def records(storage_url: str | None, folder: Path) -> Records:
    """Returns (Optuna's number, proposal index, genotype, values) of every record, by study."""
    storage = open_storage(storage_url, folder / "study.log")
    return {
        name: [
            (t.number, t.user_attrs["proposal_index"], t.user_attrs["genotype"], t.values)
            for t in optuna.load_study(study_name=name, storage=storage).trials
        ]
        for name in sorted(optuna.get_all_study_names(storage))
    }


def problems(storage_url: str | None, folder: Path, *, gaps: bool = False) -> list[str]:
    """Returns what is wrong with a record; nothing, whatever happened to the driver.

    Args:
        storage_url: None for the journal.
        folder: of the run.
        gaps: whether proposal indices may be missing: work that was under way at several workers when a driver ended.
    """
    found = []
    for name, rows in records(storage_url, folder).items():
        if [number for number, *_ in rows] != list(range(len(rows))):
            found.append(f"{name}: numbers are not contiguous")
        if not gaps and sorted(index for _, index, *_ in rows) != list(range(len(rows))):
            found.append(f"{name}: proposal indices are not contiguous")
        for what, values in (("trial", [r[1] for r in rows]), ("architecture", [r[2] for r in rows])):
            twice = [value for value, times in Counter(values).items() if times > 1]
            if twice:
                found.append(f"{name}: {what} {twice[0]} is there {len(twice)} times")
        if any(values is None for *_, values in rows):
            found.append(f"{name}: a record without values")
    status(folder)  # raises if the folder cannot be read
    return found


def n_finished(study: Study) -> int:
    """Returns how many distinct architectures have all their values."""
    return len({trial.key for trial in study.trials if trial.state == State.FINISHED})
