"""Tables of what run.py found: `report.py FILE ...` prints Markdown, medians over seeds."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def median(values: list[Any]) -> str:
    """Returns a median; `-` where half of the searches did not get there."""
    middle = float(np.median([np.inf if v is None else v for v in values]))
    return f"{middle:.0f}" if np.isfinite(middle) else "-"


def main() -> None:
    """Prints the tables."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for path in sys.argv[1:]:
        for line in Path(path).read_text().splitlines():
            record = json.loads(line)
            key = tuple(record[k] for k in ("task", "engine", "batch", "in_flight", "noise", "trials"))
            groups[key].append(record)
    print("| task | ref | engine | batch / in flight | noise | seeds | 98 % | 99 % | 99.5 % | 99.9 % ", end="")
    print("| at 50 | at 100 | at 200 | engine s |\n" + "|---" * 14 + "|")
    for key in sorted(groups, key=str):
        task, engine, batch, in_flight, noise, trials = key
        records = groups[key]
        for reference in records[0]["references"]:
            of = [r["references"][reference] for r in records]
            needed = [median([o["evaluations"][v] for o in of]) for v in ("98", "99", "99.5", "99.9")]
            shares = [
                f"{100 * np.median([o['shares'][n] for o in of]):.2f}" if n in of[0]["shares"] else ""
                for n in ("50", "100", "200")
            ]
            how = f"{in_flight} in flight" if in_flight else f"{batch}"
            seconds = f"{np.median([r['engine_seconds'] for r in records]):.1f} ({trials})"
            cells = [task, reference, engine, how, f"{noise:g}", str(len(records)), *needed, *shares, seconds]
            print("| " + " | ".join(cells) + " |")
            if noise:
                shown = 100 * np.median([o["shown"] for o in of])
                print(f"\nTrue hypervolume of the front that the labels show, {task} {reference}: {shown:.2f} %\n")


if __name__ == "__main__":
    main()
