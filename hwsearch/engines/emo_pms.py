"""Divide and conquer for very long genotypes: parts are evolved apart and joined by a global ranking."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, filled, usable
from hwsearch.engines.evolve import evolve
from hwsearch.engines.initial import ends, spread_sample
from hwsearch.engines.predicted import Additive
from hwsearch.engines.selection import survivors
from hwsearch.results import History
from search_spaces.genes import Gene
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

N_COSTED = 600
"""Architectures that the parts' shares of exact costs are estimated from."""
JOINED = 64
"""Partial networks that go on from one join to the next."""
MAX_LABELS = 1000


class EmoPms(SearchEngine):
    """Evolution part by part (after EMO-PMS), for any number of objectives and limits; meant for hundreds of genes.

    The genotype is cut into sequential parts. A part's share of every loss is what an additive model of all labels
    says of its genes: this stands for the paper's local fidelity, the match of a part's features with the parent's,
    which an engine, that sees no network, does not have. Each part is evolved to a front of shares; the fronts are
    joined one after another, each sum thinned by rank and crowding (the global ranking); of the joined networks the
    best in predicted losses are proposed.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: losses whose shares need no evaluation; the joined networks are ranked by the losses themselves.
        part: genes of a part, about.
        initial: trials at the start: the smallest and the largest network, then ones of widely varying composition.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        part: int = 20,
        initial: int = 40,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if part < 2:
            raise ValueError(f"engine.part must be at least 2, but got {part}.")
        if initial < 4:
            raise ValueError(f"engine.initial must be at least 4, but got {initial}.")
        self.initial = initial
        edges = np.linspace(0, space.n_genes, max(1, round(space.n_genes / part)) + 1).round().astype(int)
        self.parts = [_part(space, int(a), int(b)) for a, b in pairwise(edges)]

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): spread ones until `initial` are known, then joined ones."""
        rng = self.rng(history)
        done = usable(history)
        n_spread = count if len(done) < 4 else min(count, max(0, self.initial - len(history)))
        spread = history.genotypes[:0]
        if n_spread:
            wide = unique_rows(spread_sample(self.space, 4 * n_spread, rng))
            first = ends(self.space)
            spread = np.concatenate([first, wide[not_in(wide, first)]])
        chosen = spread[not_in(spread, history.genotypes)][:n_spread]
        if n_spread < count:
            seen = np.concatenate([history.genotypes, chosen])
            chosen = np.concatenate([chosen, self._joined(done, seen, count - n_spread, rng)])
        return filled(self.space, history, chosen, count, rng)

    def _models(self, done: History) -> list[Additive]:
        """Returns one additive model per loss and per limit."""
        kept = done.only(np.arange(len(done))[-MAX_LABELS:])
        labels = np.concatenate([kept.losses, np.where(np.isfinite(kept.violations), kept.violations, 0.0)], axis=1)
        costed = spread_sample(self.space, N_COSTED, np.random.default_rng([self.seed, 5]))
        known = np.full((N_COSTED, labels.shape[1]), np.nan)
        if self.exact is not None:
            values = self.exact(costed)
            known[:, : values.shape[1]] = values
        models = []
        for column, sure in zip(labels.T, known.T, strict=True):
            rows, values = (kept.genotypes, column) if np.isnan(sure).any() else (costed, sure)
            if np.ptp(values) > 0:
                models.append(Additive.fit(self.space, rows, values))
            else:
                models.append(Additive(self.space, float(values[0]), np.zeros(int(self.space.n_choices.sum()))))
        return models

    def _joined(self, done: History, seen: Population, count: int, rng: np.random.Generator) -> Population:
        models = self._models(done)
        rows, sums = np.zeros((1, 0), dtype=np.uint8), np.zeros((1, len(models)))
        starts = np.cumsum([0, *self.space.n_choices])
        best = done.genotypes[pareto.constrained_ranks(done.losses, done.violations) == 0]
        first = 0
        for i, part in enumerate(self.parts):
            weights = slice(starts[first], starts[first + part.n_genes])
            shares = [Additive(part, 0.0, model.weights[weights]) for model in models]
            found = evolve(
                part,
                partial(_stacked, shares),
                rng=rng,
                n_candidates=1500,
                survive=JOINED,
                offspring=500,
                start=part.canonical(unique_rows(best[:, first : first + part.n_genes])),
            )
            wide = np.repeat(rows, len(found.population), axis=0)
            rows = np.concatenate([wide, np.tile(found.population, (len(rows), 1))], axis=1)
            sums = (sums[:, None] + found.losses[None]).reshape(len(rows), -1)
            last = i == len(self.parts) - 1
            kept, _ = survivors(sums, np.zeros((len(rows), 0)), 8 * (count + JOINED) if last else JOINED)
            rows, sums = rows[kept], sums[kept]
            first += part.n_genes
        rows = unique_rows(self.space.canonical(rows))
        near = self.space.mutate(rows[rng.integers(0, len(rows), 4 * count)], rng, 1.0 / self.space.n_genes)
        rows = unique_rows(np.concatenate([rows, near]))
        rows = rows[not_in(rows, seen)]
        if not len(rows):
            return rows
        predicted = np.stack([model(rows) for model in models], axis=1)
        if self.exact is not None:
            exact = self.exact(rows)
            predicted[:, : exact.shape[1]] = np.where(np.isnan(exact), predicted[:, : exact.shape[1]], exact)
        chosen, _ = survivors(predicted[:, : self.n_objectives], predicted[:, self.n_objectives :], count)
        return rows[chosen]


def _part(space: SearchSpace, first: int, end: int) -> SearchSpace:
    """Returns the space of some consecutive genes; conditions on genes outside of it are dropped."""
    genes = space.genes[first:end]
    names = {gene.name for gene in genes}
    return SearchSpace(
        [
            Gene(
                g.name,
                g.choices,
                active_when=tuple(c for c in g.active_when if c.gene in names),
                aliases=dict(g.aliases),
            )
            for g in genes
        ]
    )


def _stacked(models: list[Additive], population: Population) -> FloatArray:
    return np.stack([model(population) for model in models], axis=1)
