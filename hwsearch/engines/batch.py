"""Which candidates to evaluate next: those with the largest expected gain of hypervolume, one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.acquisition import Marginals, expected_improvement, reference_point
from hwsearch.engines.beliefs import Beliefs, Candidates
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

TINY = 1e-300
SHORTLIST = 400
MAX_GREEDY = 64
"""After so many choices of one batch the others are taken in order, without looking at each other."""


@dataclass(frozen=True)
class View:
    """The front so far in one unit, and the reference its hypervolume is measured to.

    Args:
        natural: losses as they are, or warped by the surrogates.
        front: (k, m).
        reference: (m,).
        scale: of the improvements, so that views can be added.
    """

    natural: bool
    front: FloatArray
    reference: FloatArray
    scale: float = 1.0

    def joined(self, point: FloatArray) -> View:
        """Returns the view with one more point."""
        front = np.concatenate([self.front, point[None]])
        return View(self.natural, front[pareto.front(front)], self.reference, self.scale)


class Acquisition:
    """Sum over two views of the expected hypervolume improvement, times the probability of keeping the limits.

    In the losses' own units an improvement counts as a user sees it; warped, the crowded good end of the front counts
    as much as the wide bad end. Neither alone is safe when nobody says where the reference will be.

    Args:
        beliefs: of this call.
        margin: how far beyond the front's worst value the reference lies, as a share of the front's span.
    """

    def __init__(self, beliefs: Beliefs, *, margin: float) -> None:
        self.beliefs = beliefs
        feasible = beliefs.feasible
        rows = feasible if feasible.any() else beliefs.known
        self.views: list[View] = []
        for natural in (True, False):
            losses = beliefs.losses(rows, natural=natural)
            front = losses[pareto.front(losses)]
            reference = reference_point(front if feasible.any() else losses, losses, margin=margin)
            # While nothing keeps the limits, the whole volume is free.
            self.views.append(View(natural, front if feasible.any() else front[:0], reference))
        # The views so far, for the share that a gain is of what is there.
        natural_view = self.views[0]
        self.volume = pareto.hypervolume(natural_view.front, natural_view.reference)
        self._scored: tuple[Candidates, FloatArray] | None = None

    def gains(self, candidates: Candidates, view: View) -> FloatArray:
        """Returns the expected improvements (k,) of one view, without limits."""
        marginals = self.beliefs.marginals(candidates, natural=view.natural)
        return expected_improvement(marginals, view.front, view.reference)

    def calibrate(self, candidates: Candidates) -> None:
        """Makes the views comparable: the best of these candidates counts 1 in each."""
        probability = self.probability(candidates)
        parts = [self.gains(candidates, v) * probability for v in self.views]
        scales = [max(float(part.max()), TINY) for part in parts]
        self.views = [View(v.natural, v.front, v.reference, scale) for v, scale in zip(self.views, scales, strict=True)]
        score: FloatArray = sum((part / scale for part, scale in zip(parts, scales, strict=True)), np.zeros(1))
        self._scored = (candidates, score)

    def probability(self, candidates: Candidates) -> FloatArray:
        """Returns the chance of each candidate (k,) to keep all limits, as a share of the largest if that is small."""
        log = self.beliefs.log_feasible(candidates)
        best = float(log.max(initial=-np.inf))
        if not np.isfinite(best):
            return np.zeros(len(candidates))
        return np.exp(log - (best if best < np.log(1e-6) else 0.0))

    def score(self, candidates: Candidates) -> FloatArray:
        """Returns the acquisition (k,), comparable between calls after `calibrate`."""
        if self._scored is not None and self._scored[0] is candidates:
            return self._scored[1]
        total = sum(self.gains(candidates, v) / v.scale for v in self.views)
        return np.asarray(total * self.probability(candidates))

    def choose(self, candidates: Candidates, count: int) -> tuple[NDArray[np.intp], list[float]]:
        """Returns rows of up to `count` candidates, best first, and the expected gain of hypervolume of each.

        Each choice is taken for evaluated, with the loss expected of it, before the next is made (the believer of
        Ginsbourger et al. 2010, with the variance reduced as the real label will reduce it).
        """
        score = self.score(candidates)
        order = np.argsort(-score, kind="stable")[: max(SHORTLIST, 2 * count)]
        left = candidates.only(order)
        views = self.views
        chosen: list[int] = []
        gains: list[float] = []
        taken = np.zeros(len(left), dtype=bool)
        probability = self.probability(left)
        while len(chosen) < min(count, len(left), MAX_GREEDY):
            parts = [self.gains(left, v) * probability for v in views]
            total = sum(part / max(float(part[~taken].max()), TINY) for part in parts)
            total = np.where(taken, -1.0, total)
            best = int(np.argmax(total))
            chosen.append(best)
            gains.append(float(parts[0][best]))
            taken[best] = True
            points = [np.array([m.at(best) for m in self._marginals(left, v)]) for v in views]
            views = [v.joined(p) for v, p in zip(views, points, strict=True)]
            left = self.beliefs.after(left, best)
        rest = np.flatnonzero(~taken)[: count - len(chosen)]
        return order[np.concatenate([np.array(chosen, dtype=np.intp), rest])], gains

    def _marginals(self, candidates: Candidates, view: View) -> list[Marginals]:
        return self.beliefs.marginals(candidates, natural=view.natural)


def climb(
    acquisition: Acquisition,
    candidates: Candidates,
    space: SearchSpace,
    *,
    exclude: Population,
    rounds: int,
    children: int,
    parents: int,
    rng: np.random.Generator,
) -> Candidates:
    """Returns the candidates and descendants of those with the largest acquisition, round after round.

    Args:
        acquisition: calibrated.
        candidates: to start from.
        space: of them.
        exclude: rows never to return.
        rounds: how often; ends early when two rounds bring nothing.
        children: per round.
        parents: how many of the best have children.
        rng: of all random choices.
    """
    score = acquisition.score(candidates)
    stalled = 0
    for _ in range(rounds):
        best = np.argsort(-score, kind="stable")[:parents]
        a, b = candidates.population[rng.choice(best, (2, children))]
        b[: children // 2] = a[: children // 2]
        rows = unique_rows(space.mutate(space.crossover(a, b, rng), rng, 1.0 / space.n_genes))
        rows = rows[not_in(rows, np.concatenate([exclude, candidates.population]))]
        if not len(rows):
            break
        new = acquisition.beliefs.about(rows)
        before = score.max()
        candidates, score = candidates.joined(new), np.concatenate([score, acquisition.score(new)])
        stalled = 0 if score.max() > 1.001 * before else stalled + 1
        if stalled == 2:
            break
        # What is far behind will not be chosen; dropping it keeps a round's cost constant.
        if len(candidates) > 4 * children:
            keep = np.sort(np.argsort(-score, kind="stable")[: 2 * children])
            candidates, score = candidates.only(keep), score[keep]
    return candidates
