"""Compares engines: `run.py --data DIR --task macro --engine pareto --engine linas --seeds 20 --trials 200`.

Prints one line per engine and reference; with --out also appends them, with all searches, to a JSON-lines file.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tasks

from hwsearch.commands.benchmark import make_engine
from hwsearch.tasks.compare import Curve
from hwsearch.tasks.searches import Conditions, searches

LEVELS = (0.98, 0.99, 0.995, 0.999)


def parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Returns label, engine and options of `nsga2` or `nsga2,population=50`."""
    name, *pairs = text.split(",")
    options = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return text, name, options


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
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(
        f"# {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}; {' '.join(sys.argv[1:])}"
    )
    for task_name in args.task:
        task = tasks.load(task_name, args.data)
        noise = np.zeros(len(task.metrics))
        noise[0] = args.noise
        conditions = Conditions(args.trials, args.batch, args.in_flight, noise if args.noise else None)
        for label, engine, options in args.engine:
            start = time.perf_counter()
            make = partial(make_engine, engine, options)
            found = searches(task, make, range(args.seeds), conditions, processes=args.processes)
            wall = time.perf_counter() - start
            for reference in task.references:
                curve = Curve.of([task.shares(t.losses, reference) for t in found], [t.engine_seconds for t in found])
                record = {
                    "task": task.name,
                    "reference": reference,
                    "engine": label,
                    "seeds": args.seeds,
                    "trials": args.trials,
                    "batch": args.batch,
                    "in_flight": args.in_flight,
                    "noise": args.noise,
                    "evaluations": {f"{100 * v:g}%": curve.evaluations(v).tolist() for v in LEVELS},
                    "shares": {str(n): curve.at(n).tolist() for n in (20, 50, 100, 200, 300) if n <= args.trials},
                    "engine_seconds": curve.engine_seconds.tolist(),
                    "wall_s": wall,
                }
                needed = "  ".join(f"{k}: {np.median(v):6.1f}" for k, v in record["evaluations"].items())
                reached = "  ".join(f"@{k}: {100 * np.median(v):6.2f}" for k, v in record["shares"].items())
                seconds = float(np.median(curve.engine_seconds))
                print(f"{task.name:9s} {reference:6s} {label:24s} {needed}  {reached}  {seconds:6.1f} s", flush=True)
                if args.out is not None:
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
