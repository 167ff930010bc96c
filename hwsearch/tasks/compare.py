"""Comparing engines on a task: curves with bands, evaluations to reach a level, and a rank test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Shares of an engine's searches, seed by seed.

    Args:
        shares: (s, n) share of the best hypervolume after every evaluation; searches that ended early stay level.
        engine_seconds: (s,).
    """

    shares: FloatArray
    engine_seconds: FloatArray

    @classmethod
    def of(cls, shares: Sequence[FloatArray], seconds: Sequence[float]) -> Curve:
        """Returns the curve of searches of perhaps different lengths."""
        length = max(len(s) for s in shares)
        return cls(np.stack([np.pad(s, (0, length - len(s)), mode="edge") for s in shares]), np.array(seconds))

    def band(self) -> FloatArray:
        """Returns quartiles and median (3, n): 25, 50 and 75 %."""
        return np.asarray(np.quantile(self.shares, [0.25, 0.5, 0.75], axis=0))

    def evaluations(self, level: float) -> FloatArray:
        """Returns how many evaluations every search needed to reach a share (s,); infinite where it did not."""
        reached = self.shares >= level
        return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)

    def at(self, n: int) -> FloatArray:
        """Returns the shares (s,) after n evaluations, or at the end."""
        return np.asarray(self.shares[:, min(n, self.shares.shape[1]) - 1])


def rank_test(ours: Curve, other: Curve, level: float) -> float:
    """Returns the p-value of the hypothesis that both need equally many evaluations (Mann-Whitney, two-sided).

    Searches that never reach the level count as equal and worst.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    a, b = (np.minimum(c.evaluations(level), 1e9) for c in (ours, other))
    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)


def summary(
    curves: Mapping[str, Curve], *, levels: Sequence[float], checkpoints: Sequence[int]
) -> list[dict[str, float | str]]:
    """Returns one row per engine: median evaluations to each level, median share at each checkpoint, seconds.

    A median is infinite where half of the searches do not reach the level.
    The rank test is against the first engine, at the first level.
    """
    rows: list[dict[str, float | str]] = []
    first = next(iter(curves.values()))
    for name, curve in curves.items():
        row: dict[str, float | str] = {"engine": name}
        for level in levels:
            row[f"n_to_{100 * level:g}%"] = float(np.median(curve.evaluations(level)))
            row[f"reached_{100 * level:g}%"] = float((curve.evaluations(level) < np.inf).mean())
        for n in checkpoints:
            row[f"share_at_{n}"] = float(np.median(curve.at(n)))
        row["engine_seconds"] = float(np.median(curve.engine_seconds))
        row["p_value"] = 1.0 if curve is first else rank_test(first, curve, levels[0])
        rows.append(row)
    return rows
