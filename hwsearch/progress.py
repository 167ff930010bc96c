"""Progress of a search: what whoever watches is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Args:
        n_trials: budget.
        n_done: finished and failed trials.
        n_failed: of these.
        n_running: proposed and not arrived.
        n_front: non-dominated feasible trials.
        elapsed_s: since this driver started searching.
        eta_s: estimate of what remains; None at first.
        last_error: of the trial that failed last, if one did since this driver started.
    """

    n_trials: int
    n_done: int
    n_failed: int
    n_running: int
    n_front: int
    elapsed_s: float
    eta_s: float | None
    last_error: str | None
