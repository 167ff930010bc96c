"""Errors and coverage of predictors by number of measurements, on published latencies and accuracies.

python benchmarks/predictors/few_measurements.py --data DIR [--tables ofa fbnet hat macro] [--rows 20 100 1000]
    [--seeds 10] [--singles] [--floor]

A row of output per column and number of rows: medians over seeds. Test rows are 1,000 others, drawn anew with each
seed. --singles fits every candidate of `auto` by itself too; --floor fits the Gaussian process on layer costs to 4,000
rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.predictors.tables import Table, fbnet, hat, nas_bench_macro, ofa_latency
from predictors.auto import Auto
from predictors.base import Predictor
from predictors.gaussian_process import GaussianProcess

SUMS_OF_OPERATORS = frozenset({"pixel3"})
"""FBNet columns that are sums of per-operator costs and not measurements."""
TEST_ROWS = 1000


def tables(data: Path, names: list[str]) -> Iterator[tuple[Table, list[str]]]:
    """Yields each table with the columns that count."""
    if "ofa" in names:
        table = ofa_latency(data)
        yield table, list(table.values)
    if "fbnet" in names:
        table = fbnet(data)
        yield table, [c for c in table.values if c not in SUMS_OF_OPERATORS]
    if "hat" in names:
        for table in hat(data):
            yield table, list(table.values)
    if "macro" in names:
        yield nas_bench_macro(data), ["acc_seed0"]


def mape(mean: np.ndarray, values: np.ndarray) -> float:
    """Returns the mean of |prediction - value| / |value| in percent."""
    return float(100 * np.mean(np.abs(mean - values) / np.abs(values)))


def one(table: Table, column: str, n: int, *, seed: int, singles: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Returns auto's figures and every single candidate's MAPE, fitted on n rows drawn with the seed."""
    order = np.random.default_rng(seed).permutation(len(table.population))
    train, test = order[:n], order[-TEST_ROWS:]
    values = table.values[column]
    known = values[test]
    start = time.process_time()
    auto = Auto(table.space, layers=table.layers).fit(table.population[train], values[train])
    seconds = time.process_time() - start
    low, high = auto.interval(table.population[test])
    figures = {
        "mape": mape(auto.predict(table.population[test]).mean, known),
        "coverage": float(np.mean((low <= known) & (known <= high))),
        "fit_s": seconds,
    }
    alone: dict[str, float] = {}
    for candidate in auto.suitable(n, bool((values > 0).all())) if singles else ():
        layers = table.layers if auto.needs_costs(candidate) else None
        model: Predictor = candidate.model(
            table.space, sets=candidate.sets, target=candidate.target, layers=layers, **dict(candidate.options)
        )
        model.fit(table.population[train], values[train])
        alone[candidate.name] = mape(model.predict(table.population[test]).mean, known)
    return figures, alone


def floor(table: Table, column: str) -> float:
    """Returns the MAPE of a Gaussian process on layer costs (or counts) fitted to 4,000 rows."""
    order = np.random.default_rng(0).permutation(len(table.population))
    train, test = order[:4000], order[-min(TEST_ROWS, len(order) - 4000) :]
    sets = ("costs", "roofline", "one_hot", "ordinal") if table.layers is not None else ("counts", "ordinal")
    model = GaussianProcess(table.space, sets=sets, layers=table.layers)
    values = table.values[column]
    return mape(model.fit(table.population[train], values[train]).predict(table.population[test]).mean, values[test])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", nargs="+", default=["ofa", "fbnet", "hat", "macro"])
    parser.add_argument("--rows", nargs="+", type=int, default=[20, 100, 1000])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--columns", nargs="+", help="only these columns")
    parser.add_argument("--singles", action="store_true")
    parser.add_argument("--floor", action="store_true")
    args = parser.parse_args()
    totals: dict[tuple[str, int], list[list[float]]] = {}
    for table, columns in tables(args.data, args.tables):
        for column in columns:
            if args.columns and column not in args.columns:
                continue
            if args.floor:
                print(f"{table.name:6} {column:24} floor {floor(table, column):5.2f} %", flush=True)
                continue
            for n in args.rows:
                results = [one(table, column, n, seed=seed, singles=args.singles) for seed in range(args.seeds)]
                found = {k: np.array([r[0][k] for r in results]) for k in results[0][0]}
                line = (
                    f"{table.name:6} {column:24} {n:5} rows  MAPE {np.median(found['mape']):5.2f} %  coverage "
                    f"{np.mean(found['coverage']):.3f}  fit {np.median(found['fit_s']):5.2f} s"
                )
                row = [float(np.median(found["mape"])), float(np.mean(found["coverage"]))]
                if args.singles:
                    single = {k: float(np.median([r[1][k] for r in results])) for k in results[0][1]}
                    best = min(single, key=lambda k: single[k])
                    line += f"  best single {best} {single[best]:.2f} %"
                    row.append(row[0] / single[best])
                print(line, flush=True)
                totals.setdefault((table.name, n), []).append(row)
    for (name, n), rows in totals.items():
        mean = np.mean(rows, axis=0)
        ratio = f"  auto / best single: mean {mean[2]:.3f}, worst {max(r[2] for r in rows):.3f}" if args.singles else ""
        cover = f"coverage {min(r[1] for r in rows):.3f} to {max(r[1] for r in rows):.3f}, mean {mean[1]:.3f}"
        print(f"{name:6} {n:5} rows, mean of {len(rows)} columns: MAPE {mean[0]:.2f} %, {cover}{ratio}")


if __name__ == "__main__":
    main()
