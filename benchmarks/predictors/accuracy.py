"""ImageNet accuracy of Once-for-All subnets: fitted to 200 rows of one search, tested on all rows of another.

python benchmarks/predictors/accuracy.py --data DIR [--seeds 10] [--rows 200] [--rank]

--rank also fits the ranks of the accuracies, to the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from benchmarks.predictors.tables import ofa_accuracy
from predictors.auto import CANDIDATES, Auto, with_target

SEARCHES = ("mbnv3w10_linasnsga2_acc_macs.csv", "mbnv3w10_evonsga2_acc_macs.csv")


def main() -> None:
    """Prints medians over seeds, both directions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rank", action="store_true")
    args = parser.parse_args()
    table = ofa_accuracy(args.data)
    source, values, rows = table.extra["source"], table.values["top1"], table.population
    for train_on, test_on in (SEARCHES, SEARCHES[::-1]):
        pool, test = np.flatnonzero(source == train_on), np.flatnonzero(source == test_on)
        for name, candidates in {"values": CANDIDATES, **({"ranks": with_target("rank")} if args.rank else {})}.items():
            found = []
            for seed in range(args.seeds):
                train = np.random.default_rng(seed).choice(pool, args.rows, replace=False)
                model = Auto(table.space, layers=table.layers, candidates=candidates).fit(rows[train], values[train])
                mean = model.predict(rows[test]).mean
                low, high = model.interval(rows[test])
                found.append(
                    (
                        kendalltau(mean, values[test]).statistic,
                        np.sqrt(np.mean((mean - values[test]) ** 2)),
                        np.mean((low <= values[test]) & (values[test] <= high)),
                    )
                )
            tau, rmse, coverage = np.median(found, axis=0)
            print(
                f"{name}, {train_on} -> {test_on} ({len(test)} rows): Kendall tau {tau:.4f}, RMSE {rmse:.4f} points, "
                f"coverage {coverage:.3f}; tau per seed {[round(float(f[0]), 4) for f in found]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
