"""Compares engines: `run.py --data DIR --task macro --engine pareto --engine linas --seeds 20 --trials 200 --out FILE`.

Every search is one line of FILE, written when it ends; searches that are there already are not run again, so that an
interrupted comparison goes on where it stopped. `report.py FILE` makes tables of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tasks

from hwsearch import pareto
from hwsearch.commands.benchmark import make_engine
from hwsearch.tasks.searches import Conditions
from hwsearch.tasks.simulate import Trajectory
from hwsearch.tasks.task import Task

LEVELS = (0.98, 0.99, 0.995, 0.999)
CHECKPOINTS = (20, 50, 100, 200, 300)


def parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Returns label, engine and options of `nsga2` or `nsga2,population=50`."""
    name, *pairs = text.split(",")
    options = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return text, name, options


def scores(task: Task, found: Trajectory) -> dict[str, Any]:
    """Returns what is kept of a search, by reference; with noise also of the front that the labels show."""
    out: dict[str, Any] = {}
    for reference, point in task.references.items():
        shares = task.shares(found.losses, reference)
        reached = {f"{100 * v:g}": int(np.argmax(shares >= v)) + 1 if shares[-1] >= v else None for v in LEVELS}
        at = {str(n): float(shares[n - 1]) for n in CHECKPOINTS if n <= len(shares)}
        members = pareto.front(found.labels)
        shown = pareto.hypervolume(found.losses[members], point) / pareto.hypervolume(task.front, point)
        out[reference] = {"evaluations": reached, "shares": at, "shown": shown}
    return out


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--task", action="append", required=True)
    parser.add_argument("--engine", action="append", required=True, type=parsed)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0, help="deviation of the first metric's labels")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for name in args.task:
        task = tasks.load(name, args.data)
        noise = np.zeros(len(task.metrics))
        noise[0] = args.noise
        conditions = Conditions(args.trials, args.batch, args.in_flight, noise if args.noise else None)
        for label, engine, options in args.engine:
            for seed in range(args.seeds):
                key = {
                    "task": name,
                    "engine": label,
                    "trials": args.trials,
                    "batch": args.batch,
                    "in_flight": args.in_flight,
                    "noise": args.noise,
                    "seed": seed,
                }
                if any(key.items() <= line.items() for line in done):
                    continue
                found = conditions.search(task, partial(make_engine, engine, options), seed)
                record = {**key, "references": scores(task, found), "engine_seconds": found.engine_seconds}
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(name, label, seed, f"{found.engine_seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
