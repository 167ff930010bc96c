"""What label noise costs: `noise.py --data DIR --task macro --noise 0.2 --seeds 10 --trials 100 --out FILE`.

Each seed searches twice, with labels that are true and with noisy ones, and is one line of FILE; seeds that are there
already are not run again. Prints the hypervolume that is lost against the search without noise, by which of the noisy
search's trials are returned, and whether the membership probabilities are calibrated.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tasks

from hwsearch import pareto
from hwsearch.engines.pareto_search import ParetoSearch
from hwsearch.results import History
from hwsearch.tasks.simulate import Trajectory, simulate
from hwsearch.tasks.task import Task

THRESHOLDS = (0.5, 0.3, 0.2, 0.1)
REPEATS = (10, 20, 30)
FloatArray = NDArray[np.float64]
BINS = (0.0, 0.02, 0.2, 0.4, 0.6, 0.8, 1.01)


def searched(task: Task, seed: int, *, trials: int, deviation: float) -> dict[str, Any]:
    """Returns shares of the true front's hypervolume by what is returned, and the probabilities with the truth."""
    noise = np.zeros(len(task.metrics))
    noise[0] = deviation

    def engine() -> ParetoSearch:
        return ParetoSearch(task.space, n_objectives=len(task.metrics), seed=seed, exact=task.known())

    quiet = simulate(task, engine(), trials=trials, seed=seed)
    noisy = simulate(task, engine(), trials=trials, noise=noise, seed=seed)
    stds = np.where(noise > 0, noise, np.nan) * np.ones_like(noisy.labels)
    history = History.of(noisy.population, noisy.labels, stds=stds)
    said, estimates = engine().front_probability(history), engine().estimates(history)
    sets = {
        "all that was tried": np.ones(len(said), dtype=bool),
        "front of labels": pareto.front(noisy.labels),
        "front of estimates": pareto.front(estimates),
        **{f"probability >= {t:g}": said >= t for t in THRESHOLDS},
    }
    shares: dict[str, dict[str, float]] = {}
    for reference, point in task.references.items():
        whole = pareto.hypervolume(task.front, point)
        volumes = {name: pareto.hypervolume(noisy.losses[of], point) / whole for name, of in sets.items()}
        shares[reference] = {"without noise": pareto.hypervolume(quiet.losses, point) / whole, **volumes}
    return {
        "shares": shares,
        "nets": {"without noise": int(pareto.front(quiet.losses).sum()), **{n: int(s.sum()) for n, s in sets.items()}},
        "probability": said.tolist(),
        "truth": pareto.front(noisy.losses).astype(float).tolist(),
        "twins": [bool((noisy.losses == row).all(axis=1).sum() > 1) for row in noisy.losses],
        "repeated": {
            str(k): repeated(task, noisy, engine(), repeats=k, noise=noise, seed=seed) for k in REPEATS if k < trials
        },
        "error": [float(np.sqrt(((v - noisy.losses)[:, 0] ** 2).mean())) for v in (noisy.labels, estimates)],
    }


def repeated(
    task: Task, found: Trajectory, engine: ParetoSearch, *, repeats: int, noise: FloatArray, seed: int
) -> dict[str, float]:
    """Returns shares of the true front's volume, by reference, if the last evaluations had been repeats.

    Of searches that propose one at a time the first trials are those of a shorter search. The repeats go, five at a
    time, to the trials whose membership is least certain; labels are averaged. Returned is the front of the estimates.
    """
    n = len(found.labels) - repeats
    rng = np.random.default_rng([seed, 31])
    labels, count = found.labels[:n].copy(), np.ones(n)

    def history() -> History:
        stds = np.where(noise > 0, noise, np.nan) / np.sqrt(count)[:, None]
        return History.of(found.population[:n], labels, stds=stds)

    for start in range(0, repeats, 5):
        said = engine.front_probability(history())
        for row in np.argsort(-said * (1 - said) / count, kind="stable")[: min(5, repeats - start)]:
            again = found.losses[row] + noise * rng.standard_normal(len(noise))
            labels[row] = (labels[row] * count[row] + again) / (count[row] + 1)
            count[row] += 1
    chosen = pareto.front(engine.estimates(history()))
    return {
        name: pareto.hypervolume(found.losses[:n][chosen], point) / pareto.hypervolume(task.front, point)
        for name, point in task.references.items()
    }


def table(records: list[dict[str, Any]]) -> str:
    """Returns the tables, Markdown, of one line per seed."""
    lines = [
        "| reference | returned | nets | share, median | lost, median | lost, mean | lost, worst |",
        "|---" * 7 + "|",
    ]
    for reference, first in records[0]["shares"].items():
        quiet = np.array([r["shares"][reference]["without noise"] for r in records])
        for name in first:
            share = np.array([r["shares"][reference][name] for r in records])
            lost = 1.0 - share / quiet
            cells = [np.median(share), np.median(lost), lost.mean(), lost.max()]
            nets = np.median([r["nets"][name] for r in records])
            lines.append(f"| {reference} | {name} | {nets:g} | " + " | ".join(f"{100 * c:.2f}" for c in cells) + " |")
    for reference in records[0]["shares"]:
        quiet = np.array([r["shares"][reference]["without noise"] for r in records])
        for k in records[0]["repeated"]:
            lost = 1.0 - np.array([r["repeated"][k][reference] for r in records]) / quiet
            lines.append(
                f"\n{reference}: the last {k} evaluations repeats, front of estimates: lost {100 * np.median(lost):.2f}"
            )
    said, true, twins = (np.concatenate([r[key] for r in records]) for key in ("probability", "truth", "twins"))
    for name, of in (("all", np.ones(len(said), dtype=bool)), ("without exact twins", ~twins.astype(bool))):
        lines += ["", f"| probabilities, {name} | said, mean | true share | trials |", "|---" * 4 + "|"]
        error = 0.0
        for low, high in pairwise(BINS):
            inside = of & (said >= low) & (said < high)
            if inside.any():
                error += abs(said[inside].sum() - true[inside].sum())
                cells = f"{said[inside].mean():.3f} | {true[inside].mean():.3f} | {inside.sum()}"
                lines.append(f"| {low:g} to {min(high, 1.0):g} | {cells} |")
        lines += ["", f"Expected calibration error {error / of.sum():.3f}, {len(records)} seeds."]
    raw, rest = np.median([r["error"] for r in records], axis=0)
    lines.append(f"Error of the first metric: labels {raw:.3g}, estimates {rest:.3g} (medians of root mean squares).")
    return "\n".join(lines)


def main() -> None:
    """Runs the seeds that are missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--task", default="macro")
    parser.add_argument("--noise", type=float, default=0.2, help="deviation of the first metric's labels")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    task = tasks.load(args.task, args.data)
    of = {"task": args.task, "noise": args.noise, "trials": args.trials}
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    records = [line for line in lines if of.items() <= line.items() and line["seed"] < args.seeds]
    for seed in range(args.seeds):
        if all(record["seed"] != seed for record in records):
            found = searched(task, seed, trials=args.trials, deviation=args.noise)
            records.append({**of, "seed": seed, **found})
            with args.out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
            print(f"seed {seed}", flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
