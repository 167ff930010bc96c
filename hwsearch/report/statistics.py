"""Statistics of two groups of runs: rank test, effect size, difference of medians, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Z95 = 1.959964
RESAMPLES = 4000
ALPHA = 0.05


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of n values."""

    n: int
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: FloatArray) -> Quartiles:
        """Returns those of values (n,), n at least 1."""
        low, median, high = (float(v) for v in np.quantile(values, [0.25, 0.5, 0.75]))
        return cls(len(values), low, median, high)


@dataclass(frozen=True)
class Effect:
    """How much larger the values of one group are than those of another.

    Args:
        n, m: runs of either group.
        a12: probability that a run of the first beats one of the second, ties half.
        a12_low, a12_high: 95 % interval.
        difference: median of the first less median of the second.
        difference_low, difference_high: 95 % interval.
        p_value: that both groups are alike, two-sided; NaN where a group has one run.
    """

    n: int
    m: int
    a12: float
    a12_low: float
    a12_high: float
    difference: float
    difference_low: float
    difference_high: float
    p_value: float


def a12(ours: FloatArray, other: FloatArray) -> float:
    """Returns the share of pairs that the first group wins, ties half (Vargha & Delaney 2000, eq. 1)."""
    wins = np.sign(ours[:, None] - other[None]).mean()
    return float((wins + 1) / 2)


def a12_interval(value: float, n: int, m: int) -> tuple[float, float]:
    """Returns the 95 % interval of an A12 (Newcombe 2006, part 2, method 5).

    All t with |t - a12| <= 1.96 sqrt(V(t)), where V(t) = t (1 - t) [1 + k (1 - t) / (2 - t) + k t / (1 + t)] / (n m)
    and k = (n + m) / 2 - 1. A percentile bootstrap would give [1, 1] wherever one group wins every pair.
    """
    k = (n + m) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t)) / (n * m)
        return abs(t - value) - Z95 * math.sqrt(max(0.0, spread))

    return _edge(excess, value, 0.0), _edge(excess, value, 1.0)


def _edge(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Returns where `excess` changes its sign between a point of the interval and 0 or 1, by bisection."""
    if excess(outside) <= 0:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if excess(middle) <= 0 else (inside, middle)
    return inside


def effect(ours: FloatArray, other: FloatArray, *, seed: int = 0) -> Effect:
    """Returns how values (n,) compare with values (m,): larger is better.

    The p-value is Mann-Whitney's, exact without ties; the interval of the difference of medians is a percentile
    bootstrap over runs. Groups of one run have no spread: their intervals are as wide as can be.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    n, m = len(ours), len(other)
    difference = float(np.median(ours) - np.median(other))
    share = a12(ours, other)
    if min(n, m) < 2:
        return Effect(n, m, share, 0.0, 1.0, difference, -math.inf, math.inf, math.nan)
    rng = np.random.default_rng([seed, n, m])
    drawn = [x[rng.integers(0, len(x), (RESAMPLES, len(x)))] for x in (ours, other)]
    low, high = np.quantile(np.median(drawn[0], axis=1) - np.median(drawn[1], axis=1), [0.025, 0.975])
    ties = len(np.unique(np.concatenate([ours, other]))) < n + m
    method = "asymptotic" if ties else "exact"
    p_value = float(mannwhitneyu(ours, other, alternative="two-sided", method=method).pvalue)
    return Effect(n, m, share, *a12_interval(share, n, m), difference, float(low), float(high), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for their number (Holm 1979); NaN stays NaN and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    out = [math.nan] * len(p_values)
    reached = 0.0
    for rank, (p, i) in enumerate(known):
        reached = max(reached, min(1.0, (len(known) - rank) * p))
        out[i] = reached
    return out


def smallest_p(n: int, m: int) -> float:
    """Returns the smallest two-sided p-value that groups of n and m runs can have: every run of one beats the other."""
    return 2 / math.comb(n + m, n)


def sentence(name: str, other: str, found: Effect, *, p_value: float, quantity: str) -> str:
    """Returns the effect in plain words.

    Args:
        name: of the group.
        other: of the one that it is held against.
        found: how they compare.
        p_value: adjusted, if there were several comparisons.
        quantity: what is compared, such as `hypervolume`.
    """
    runs = f"{found.n} against {found.m} runs"
    if math.isnan(p_value):
        return (
            f"{name} and {other}: median {quantity} {found.difference:+.4f}, {runs}; "
            "one run says nothing about other seeds, so there is no test."
        )
    numbers = (
        f"difference of medians {found.difference:+.4f} [{found.difference_low:+.4f}, {found.difference_high:+.4f}], "
        f"A12 {found.a12:.2f} [{found.a12_low:.2f}, {found.a12_high:.2f}], "
        f"Mann-Whitney p = {p_value:.2g}, {runs}, 95 % intervals"
    )
    if p_value < ALPHA:
        verdict = f"{name} has a {'larger' if found.a12 > 0.5 else 'smaller'} {quantity} than {other}"
        return f"{verdict}: it wins {100 * found.a12:.0f} % of the pairs of runs; {numbers}."
    few = "" if smallest_p(found.n, found.m) < ALPHA else "; so few runs cannot show any"
    return f"No difference in {quantity} is shown between {name} and {other}{few}: {numbers}."
