"""Expected hypervolume improvement in closed form, for any number of objectives, exact ones among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from hwsearch import pareto

FloatArray = NDArray[np.float64]

Box = tuple[tuple[float, ...], tuple[float, ...]]

FRONT_LIMITS = {1: 1, 2: 400, 3: 80, 4: 32, 5: 20}
"""How many points of a front are decomposed, by number of objectives: the number of boxes grows with its power."""


BEST_CASE = 4.0
"""Candidates that would still be dominated so many deviations better than expected gain nothing (below 1e-5 sd)."""


@dataclass(frozen=True)
class Marginals:
    """What is believed of one loss of k candidates: normal, log-normal above `end`, or known (std 0).

    Args:
        mean: (k,) of the value, or of log((value - end) / span) if `span` is given.
        std: (k,) likewise.
        end, span: None for normal.
    """

    mean: FloatArray
    std: FloatArray
    end: float | None = None
    span: float | None = None

    def shortfall(self, at: FloatArray) -> FloatArray:
        """Returns E[max(0, t - Y)] of every candidate at every t, (k, len(at))."""
        mean, std = self.mean[:, None], np.maximum(self.std, 1e-9)[:, None]
        if self.end is None or self.span is None:
            gap = at - mean
            if not self.std.any():
                return np.maximum(gap, 0.0)
            score = gap / std
            return np.asarray(gap * ndtr(score) + std * np.exp(-0.5 * score * score) / np.sqrt(2 * np.pi))
        # The price of a put option (Black & Scholes 1973) with forward exp(mean + std^2 / 2).
        above = np.maximum(at - self.end, 1e-300) / self.span
        score = (np.log(above) - mean) / std
        forward = np.exp(np.minimum(mean + 0.5 * std * std, 700.0))
        out = self.span * (above * ndtr(score) - forward * ndtr(score - std))
        return np.where(at > self.end, np.maximum(out, 0.0), 0.0)

    def at(self, row: int) -> float:
        """Returns the median of one candidate."""
        if self.end is None or self.span is None:
            return float(self.mean[row])
        return float(self.end + self.span * np.exp(self.mean[row]))

    def best_case(self, deviations: float) -> FloatArray:
        """Returns each candidate's loss (k,) if it is so many deviations better than its median."""
        value = self.mean - deviations * self.std
        return value if self.end is None or self.span is None else self.end + self.span * np.exp(value)

    def only(self, rows: NDArray[np.bool_]) -> Marginals:
        """Returns the marginals of some candidates."""
        return Marginals(self.mean[rows], self.std[rows], self.end, self.span)

    def with_std(self, std: FloatArray) -> Marginals:
        """Returns the marginals with other deviations."""
        return Marginals(self.mean, std, self.end, self.span)


def reference_point(front: FloatArray, losses: FloatArray, *, margin: float) -> FloatArray:
    """Returns a point (m,) a little worse than the worst of a front (k, m) in every objective.

    Args:
        front: at least one point.
        losses: (n, m) all known points: their span counts in an objective in which the front has none.
        margin: how far beyond, as a share of the span.
    """
    high = front.max(axis=0)
    span = high - front.min(axis=0)
    wide = losses.max(axis=0) - losses.min(axis=0)
    span = np.where(span > 0, span, np.where(wide > 0, wide, np.maximum(np.abs(high), 1e-9)))
    return np.asarray(high + margin * span)


def thin(front: FloatArray) -> FloatArray:
    """Returns a front with few enough points to be decomposed: the extremes and those with the most room."""
    limit = FRONT_LIMITS.get(front.shape[1], 12)
    while len(front) > limit:
        crowd = pareto.crowding(front)
        # A few at a time, because distances change when a neighbour goes.
        drop = np.argsort(crowd, kind="stable")[: max(1, (len(front) - limit) // 4)]
        front = np.delete(front, drop, axis=0)
    return front


def free_boxes(front: FloatArray, reference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns disjoint boxes, lower and upper corners (b, m), of all that no point dominates below the reference.

    A sweep along the last objective keeps boxes open for as long as the section below them stays the same, so that
    their number grows with the front's length for two and three objectives (compare Lacour, Klamroth & Fonseca 2017).

    Args:
        front: (k, m) points, k >= 0; dominated ones and those beyond the reference do no harm.
        reference: (m,).
    """
    inside = front[(front < reference).all(axis=1)]
    boxes = _sweep([tuple(map(float, point)) for point in inside], tuple(map(float, reference)))
    return np.array([low for low, _ in boxes]), np.array([high for _, high in boxes])


def _sweep(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> list[Box]:
    if len(reference) == 1:
        best = min([*points, reference])
        return [((-np.inf,), best)]
    if len(reference) == 2:
        return _staircase(points, reference)
    boxes: list[Box] = []
    ordered = sorted(points, key=lambda point: point[-1])
    opened = dict.fromkeys(_sweep([], reference[:-1]), -np.inf)
    section: list[tuple[float, ...]] = []
    k = 0
    while k < len(ordered):
        height = ordered[k][-1]
        while k < len(ordered) and ordered[k][-1] == height:
            section.append(ordered[k][:-1])
            k += 1
        section = _nondominated(section)
        new = set(_sweep(section, reference[:-1]))
        for box, since in list(opened.items()):
            if box not in new:
                boxes.append(((*box[0], since), (*box[1], height)))
                del opened[box]
        for box in new:
            opened.setdefault(box, height)
    boxes += [((*low, since), (*high, reference[-1])) for (low, high), since in opened.items()]
    return sorted(boxes)


def _staircase(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> list[Box]:
    boxes: list[Box] = []
    left, top = -np.inf, reference[1]
    for x, y in sorted(points):
        if y < top:
            if x > left:
                boxes.append(((left, -np.inf), (x, top)))
            left, top = x, y
    boxes.append(((left, -np.inf), (reference[0], top)))
    return boxes


def _nondominated(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    array = np.array(sorted(set(points)))
    return [tuple(map(float, point)) for point in array[pareto.front(array)]]


def expected_improvement(marginals: list[Marginals], front: FloatArray, reference: FloatArray) -> FloatArray:
    """Returns the expected gain of hypervolume of each candidate (k,), losses being independent.

    The gain is the volume of what a candidate dominates in the boxes that are free; its expectation is a sum over the
    boxes of products over the objectives of E[(high - Y)+] - E[(low - Y)+] (Emmerich, Deutz & Klinkenberg 2011).

    Args:
        marginals: one per objective, of the same k candidates.
        front: (f, m) non-dominated losses so far, in the marginals' unit; may be empty.
        reference: (m,) beyond which nothing counts.
    """
    hopeful = _hopeful(marginals, front, reference)
    out = np.zeros(len(hopeful))
    if hopeful.any():
        out[hopeful] = _over_boxes([m.only(hopeful) for m in marginals], *free_boxes(thin(front), reference))
    return out


def _hopeful(marginals: list[Marginals], front: FloatArray, reference: FloatArray) -> NDArray[np.bool_]:
    """Returns which candidates (k,) would improve on the front in the best case; if none would, all of them."""
    best = np.stack([m.best_case(BEST_CASE) for m in marginals], axis=1)
    keep = np.asarray((best < reference).all(axis=1))
    for point in front:
        keep[keep] = ~(point <= best[keep]).all(axis=1)
    return keep if keep.any() else ~keep


def _over_boxes(marginals: list[Marginals], low: FloatArray, high: FloatArray) -> FloatArray:
    """Returns expected improvements (k,) over boxes (b, m)."""
    total: FloatArray | None = None
    for j, marginal in enumerate(marginals):
        at = np.unique(np.concatenate([low[:, j], high[:, j]]))
        table = np.zeros((len(marginal.mean), len(at)))
        finite = np.isfinite(at)
        table[:, finite] = marginal.shortfall(at[finite])
        part = table[:, np.searchsorted(at, high[:, j])] - table[:, np.searchsorted(at, low[:, j])]
        total = part if total is None else total * part
    assert total is not None
    return np.asarray(np.maximum(total, 0.0).sum(axis=1))
