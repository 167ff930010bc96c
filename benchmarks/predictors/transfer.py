"""A predictor for an unseen FBNet device from 10 measurements on it and predictors of the other devices.

python benchmarks/predictors/transfer.py --data DIR [--rows 10] [--seeds 10] [--random]

For each of the 19 measured devices in turn, the other 19 columns are sources: ridge regression on 2,000 nets each. The
nets to measure are chosen by `choose_next` out of 600 that are drawn with the seed (--random: drawn too); the test is
on 2,000 others. `best source`: the largest Spearman correlation of another device's measurements with the target's on
the test nets, known only afterwards; `its model`: the same of the sources' predictors, which know no noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.predictors.few_measurements import SUMS_OF_OPERATORS, mape
from benchmarks.predictors.tables import fbnet
from predictors.active import choose_next
from predictors.features import Features
from predictors.ridge import Ridge
from predictors.transfer import Transfer


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation."""
    return float(spearmanr(a, b).statistic)


def main() -> None:
    """Prints one line per target and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--random", action="store_true", help="measure nets drawn at random")
    args = parser.parse_args()
    table = fbnet(args.data)
    rows, devices = table.population, list(table.values)
    order = np.random.default_rng(0).permutation(len(rows))
    known, pool, test = order[:2000], order[2000:3000], order[3000:]
    features = Features(table.space, ("counts",))
    sources = {d: Ridge(table.space, features=features).fit(rows[known], table.values[d][known]) for d in devices}
    answers = {d: sources[d].predict(rows).mean for d in devices}
    place = {row.tobytes(): i for i, row in enumerate(rows)}
    means = []
    for target in (d for d in devices if d not in SUMS_OF_OPERATORS):
        values = table.values[target]
        others = {d: sources[d] for d in devices if d != target}
        best = max(spearman(table.values[d][test], values[test]) for d in others)
        model = max(spearman(answers[d][test], values[test]) for d in others)
        found = []
        for seed in range(args.seeds):
            rng = np.random.default_rng(seed)
            some = rng.choice(pool, 600, replace=False)
            chosen = some[: args.rows]
            transfer = Transfer(table.space, devices=others, layers=table.layers)
            if not args.random:
                picked = choose_next(table.space, rows[:0], args.rows, embed=transfer.embed, rng=rng, pool=rows[some])
                chosen = np.array([place[row.tobytes()] for row in picked])
            transfer.fit(rows[chosen], values[chosen])
            mean = transfer.predict(rows[test]).mean
            low, high = transfer.interval(rows[test])
            inside = float(np.mean((low <= values[test]) & (values[test] <= high)))
            found.append((spearman(mean, values[test]), mape(mean, values[test]), inside))
        got = np.median(found, axis=0)
        means.append((got[0], best, model, got[1], np.mean(found, axis=0)[2]))
        print(
            f"{target:15} Spearman {got[0]:.3f}  best source {best:.3f}  its model {model:.3f}  MAPE {got[1]:5.2f} %"
            f"  coverage {means[-1][4]:.2f}  {'' if got[0] > best else 'BELOW'}",
            flush=True,
        )
    total = np.mean(means, axis=0)
    below = sum(m[0] <= m[1] for m in means)
    print(
        f"mean            Spearman {total[0]:.3f}  best source {total[1]:.3f}  its model {total[2]:.3f}  MAPE "
        f"{total[3]:.2f} %  coverage {total[4]:.2f}; not above the best source on {below} of {len(means)}"
    )


if __name__ == "__main__":
    main()
