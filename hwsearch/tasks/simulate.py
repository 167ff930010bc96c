"""Searches on tasks: batches or asynchronous evaluations of equal duration, with or without label noise."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.engines.base import SearchEngine
from hwsearch.results import History, State
from hwsearch.tasks.task import Task
from search_spaces.space import Population

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """One search.

    Args:
        population: (n, g) in the order in which evaluations finished; failed ones among them.
        losses: (n, m) true losses.
        labels: (n, m) what the engine was told: with noise.
        engine_seconds: wall time in `propose`, all calls together.
    """

    population: Population
    losses: FloatArray
    labels: FloatArray
    engine_seconds: float


def simulate(
    task: Task,
    engine: SearchEngine,
    *,
    trials: int,
    batch: int = 1,
    in_flight: int = 0,
    noise: FloatArray | None = None,
    seed: int = 0,
) -> Trajectory:
    """Returns the search of an engine on a task.

    Args:
        task: says the losses.
        engine: of the task's space and losses.
        trials: finished evaluations, fewer if the space has no more.
        batch: how many are proposed, and then finish, together.
        in_flight: if positive, as many evaluations always run: whenever the oldest finishes, one is proposed.
        noise: (m,) standard deviation of the labels' noise, told to the engine as their standard error.
        seed: of the noise.
    """
    rng = np.random.default_rng([seed, 30])
    m = len(task.metrics)
    spread = np.zeros(m) if noise is None else noise
    rows = np.zeros((0, task.space.n_genes), dtype=np.uint8)
    losses, labels = np.zeros((0, m)), np.zeros((0, m))
    finished = np.zeros(0, dtype=bool)
    running: deque[int] = deque()
    order: list[int] = []
    seconds, exhausted = 0.0, False
    while len(order) < trials:
        room = (in_flight or batch) - len(running)
        if not exhausted and room > 0 and (in_flight or not running):
            room = min(room, trials - len(rows)) if not in_flight else room
            history = _history(rows, labels, finished, spread)
            start = time.perf_counter()
            new = engine.propose(history, room)
            seconds += time.perf_counter() - start
            exhausted = len(new) < room
            running.extend(range(len(rows), len(rows) + len(new)))
            rows = np.concatenate([rows, new])
            truth = task.losses(new)
            losses = np.concatenate([losses, truth])
            labels = np.concatenate([labels, truth + spread * rng.standard_normal(truth.shape)])
            finished = np.concatenate([finished, np.zeros(len(new), dtype=bool)])
        if not running:
            break
        for _ in range(1 if in_flight else len(running)):
            done = running.popleft()
            finished[done] = True
            order.append(done)
    return Trajectory(rows[order], losses[order], labels[order], seconds)


def _history(rows: Population, labels: FloatArray, finished: NDArray[np.bool_], spread: FloatArray) -> History:
    failed = ~np.isfinite(labels).all(axis=1)
    state = np.where(~finished, State.RUNNING, np.where(failed, State.FAILED, State.FINISHED)).astype(np.int8)
    known = np.where((state == State.FINISHED)[:, None], labels, np.nan)
    stds = np.where(np.isfinite(known) & (spread > 0), spread, np.nan)
    return History.of(rows, known, state=state, stds=stds)
