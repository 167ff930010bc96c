"""Times of fitting and predicting on one core, on a space of 45 genes with layer costs and made-up latencies.

python benchmarks/predictors/speed.py [--fit] [--rows 100 1000]

Prints CPU seconds and wall seconds; the best of three for predictions. Without --fit only predictions are timed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.predictors.tables import ofa_layers, ofa_space
from predictors.auto import Auto
from predictors.base import Predictor
from predictors.gaussian_process import GaussianProcess
from predictors.non_negative import NonNegative
from predictors.ridge import Ridge
from search_spaces.layers import LayerSpec
from search_spaces.space import Population

N = 100_000


def timed(label: str, work: object, *, repeats: int) -> None:
    """Prints the smallest CPU and wall time."""
    assert callable(work)
    found = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (min(column) for column in zip(*found, strict=True))
    print(f"{label:60} {cpu:6.2f} s CPU {wall:6.2f} s wall", flush=True)


def latency(layers: list[LayerSpec], rng: np.random.Generator) -> np.ndarray:
    """Returns values (n,) in the manner of a latency."""
    macs = sum(layer.macs() for layer in layers)
    moved = sum(layer.activation_bytes() for layer in layers)
    time_ms = np.asarray(macs / 1e8 + moved / 2e7 + 2)
    return np.asarray(time_ms * rng.normal(1, 0.02, len(time_ms)))


def main() -> None:
    """Prints one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="time fits of auto too")
    parser.add_argument("--rows", nargs="+", type=int, default=[100, 1000])
    args = parser.parse_args()
    space = ofa_space((224,))  # one resolution: 45 genes that vary
    layers = ofa_layers(space)
    rng = np.random.default_rng(0)
    population: Population = space.sample(N, rng)
    train = population[:1000]
    values = latency(layers(train), rng)
    models: dict[str, Predictor] = {
        "ridge, one-hot": Ridge(space),
        "ridge, coarse-to-fine counts": Ridge(space, sets=("counts",)),
        "non-negative, ordinal and one-hot": NonNegative(space),
        "GP, counts and ordinal": GaussianProcess(space),
        "GP, layer costs and one-hot": GaussianProcess(space, sets=("costs", "one_hot"), layers=layers),
    }
    for name, model in models.items():
        model.fit(train[:200], values[:200])
        timed(f"predict {N} with {name}, 200 rows", lambda model=model: model.predict(population), repeats=3)
    for n in args.rows if args.fit else ():
        timed(
            f"fit auto with layer costs, {n} rows",
            lambda n=n: Auto(space, layers=layers).fit(train[:n], values[:n]),
            repeats=1,
        )
        timed(f"fit auto from genes alone, {n} rows", lambda n=n: Auto(space).fit(train[:n], values[:n]), repeats=1)


if __name__ == "__main__":
    main()
