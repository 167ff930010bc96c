"""What a comparison of runs says: groups, hypervolume in one box, effects, sparse nets against dense ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.objectives import Objective
from hwsearch.pareto import Box
from hwsearch.report.html.series import checkpoints, growth
from hwsearch.report.statistics import ALPHA, Quartiles, effect, holm, sentence

FloatArray = NDArray[np.float64]
SLACK = 0.02
"""By which share a dense net may have more non-zeros than the sparse one that it is held against."""


@dataclass(frozen=True)
class Searched:
    """The trials of one run, in their order.

    Args:
        run: its folder, as the user gave it.
        group: label of the runs that it belongs to.
        losses: (n, m); NaN in the rows of trials that failed or pass a limit.
        nonzeros: (n,), NaN where not known.
        sparse: (n,), whether some layer is.
    """

    run: str
    group: str
    losses: FloatArray
    nonzeros: FloatArray
    sparse: NDArray[np.bool_]

    def first(self, n: int) -> Searched:
        """Returns the run as it was after n trials."""
        return Searched(self.run, self.group, self.losses[:n], self.nonzeros[:n], self.sparse[:n])


def comparison(
    runs: Sequence[Searched], objectives: Sequence[Objective], *, against: str, quality: int | None, random: bool
) -> dict[str, Any]:
    """Returns a comparison, JSON-able: what the table, the sentences and the figure are made of.

    Every run counts with as many trials as the shortest has. Hypervolumes are shares of the box between the best and
    the worst value of every objective in any of the runs; its worst corner, 1 % further, is the reference point.

    Args:
        runs: at least two; each with at least one trial that keeps the limits.
        objectives: of all of them.
        against: label of the group that the others are held against.
        quality: column of the losses for which sparse and dense nets are compared; None if there is none.
        random: whether `against` searched at random.
    """
    n = min(len(r.losses) for r in runs)
    runs = [r.first(n) for r in runs]
    known = np.concatenate([r.losses for r in runs])
    box = Box.of(known[~np.isnan(known).any(axis=1)])
    at = checkpoints(n)
    labels = list(dict.fromkeys(r.group for r in runs))
    curves = {label: np.stack([growth(r.losses, box, at) for r in runs if r.group == label]) for label in labels}
    groups = []
    for label in labels:
        own = [r for r in runs if r.group == label]
        shares = curves[label][:, -1]
        fronts = [_front(r, objectives) for r in own]
        groups.append(
            {
                "label": label,
                "runs": [
                    {"run": r.run, "hypervolume": float(share), "front": len(front), "points": front}
                    for r, share, front in zip(own, shares, fronts, strict=True)
                ],
                "hypervolume": asdict(Quartiles.of(shares)),
                "front": asdict(Quartiles.of(np.array([float(len(f)) for f in fronts]))),
                "best": {o.name: float(np.median(_best(own, j, o))) for j, o in enumerate(objectives)},
                "curve": {
                    name: [float(v) for v in np.quantile(curves[label], q, axis=0)]
                    for name, q in (("low", 0.25), ("middle", 0.5), ("high", 0.75))
                },
            }
        )
    effects = _effects(curves, at, against=against, n=n, random=random)
    dense = [] if quality is None else _against_dense(runs, labels, quality, objectives[quality])
    span = 1.01 * (box.high - box.low)
    return {
        "objectives": [{"name": o.name, "unit": o.unit, "direction": o.direction} for o in objectives],
        "trials": n,
        "reference": {o.name: float(o.sign * v) for o, v in zip(objectives, box.low + span, strict=True)},
        "ideal": {o.name: float(o.sign * v) for o, v in zip(objectives, box.low, strict=True)},
        "at": at.tolist(),
        "groups": groups,
        "against": against,
        "effects": effects,
        "sparse_against_dense": dense,
        "sentences": [*(e["sentence"] for e in effects), *(d["sentence"] for d in dense)],
    }


def _front(run: Searched, objectives: Sequence[Objective]) -> list[list[float]]:
    """Returns the front of a run in the user's directions, by its first objective."""
    best = run.losses[pareto.front(run.losses)]
    best = best[np.argsort(best[:, 0], kind="stable")] * np.array([o.sign for o in objectives])
    rows: list[list[float]] = best.tolist()
    return rows


def _best(runs: Sequence[Searched], column: int, objective: Objective) -> list[float]:
    return [float(objective.sign * np.nanmin(r.losses[:, column])) for r in runs]


def _effects(
    curves: Mapping[str, FloatArray], at: NDArray[np.intp], *, against: str, n: int, random: bool
) -> list[dict[str, Any]]:
    """Returns how every other group compares with one, their p-values adjusted for their number."""
    others = [label for label in curves if label != against]
    found = [effect(curves[label][:, -1], curves[against][:, -1]) for label in others]
    adjusted = holm([f.p_value for f in found])
    target = float(np.median(curves[against][:, -1]))
    out = []
    for label, one, p_value in zip(others, found, adjusted, strict=True):
        text = sentence(label, against, one, p_value=p_value, quantity="hypervolume")
        reached = np.flatnonzero(np.median(curves[label], axis=0) >= target)
        needed = int(at[reached[0]]) if len(reached) else None
        if needed is not None and needed < n:
            text += f" Its median reaches what {against} ends with after {needed} of {n} trials."
        if random:
            text += f" This is found against random of equal budget: {n} trials each."
        out.append({"group": label, **asdict(one), "p_adjusted": p_value, "trials_to_match": needed, "sentence": text})
    return out


def _against_dense(
    runs: Sequence[Searched], labels: Sequence[str], quality: int, objective: Objective
) -> list[dict[str, Any]]:
    """Returns, per group, how sparse nets of the fronts compare with the best dense net of any run that is as small."""
    losses, nonzeros, sparse = (np.concatenate([getattr(r, x) for r in runs]) for x in ("losses", "nonzeros", "sparse"))
    dense = ~sparse & ~np.isnan(losses).any(axis=1) & ~np.isnan(nonzeros)
    order = np.argsort(nonzeros[dense], kind="stable")
    sizes = nonzeros[dense][order]
    best = np.minimum.accumulate(losses[dense][order, quality])  # the best loss among nets of at most this size
    out = []
    for label in labels:
        gains, without = [], 0
        for run in (r for r in runs if r.group == label):
            shown = np.flatnonzero(pareto.front(run.losses) & run.sparse & ~np.isnan(run.nonzeros))
            place = np.searchsorted(sizes, run.nonzeros[shown] * (1 + SLACK), side="right") - 1
            without += int((place < 0).sum())
            gains.append(best[place[place >= 0]] - run.losses[shown[place >= 0], quality])
        if sum(len(g) for g in gains) + without:
            out.append(_told(label, gains, without, objective))
    return out


def _told(label: str, gains: Sequence[FloatArray], without: int, objective: Objective) -> dict[str, Any]:
    """Returns the gains of a group's runs with a sentence; the test is Wilcoxon's, on the medians of the runs."""
    from scipy.stats import wilcoxon

    every = np.concatenate(gains)
    medians = np.array([np.median(g) for g in gains if len(g)])
    several = len(medians) > 1 and bool(np.any(medians != 0))
    p_value = float(wilcoxon(medians).pvalue) if several else math.nan
    told: dict[str, Any] = {
        "group": label,
        "n": len(every),
        "without": without,
        "p_value": p_value,
        "runs": len(medians),
    }
    missing = f" {without} more have fewer non-zeros than any dense net that was tried." if without else ""
    if not len(every):
        told.update(gain=None, wins=None, sentence=f"{label}, large-sparse against small-dense:{missing}")
        return told
    spread = Quartiles.of(medians)
    wins = float((every > 0).mean())
    test = "" if math.isnan(p_value) else f"; Wilcoxon over {len(medians)} runs p = {p_value:.2g}"
    shown = " (no difference is shown)" if math.isnan(p_value) or p_value >= ALPHA else ""
    told.update(
        gain=asdict(spread),
        wins=wins,
        sentence=(
            f"{label}, large-sparse against small-dense at equal non-zeros: {100 * wins:.0f} % of {len(every)} sparse "
            f"nets of the fronts are better in {objective.name} than the best dense net tried, median gain "
            f"{spread.median:+.4g} [quartiles of the runs {spread.low:+.4g}, {spread.high:+.4g}]{test}{shown}.{missing}"
        ),
    )
    return told
