"""Ways to draw architectures: uniform, uniform over genes, by cost, extreme, space filling, by predicted rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search_spaces.populations import not_in, row_keys, unique_rows
from search_spaces.space import Population, SearchSpace

CostOf = Callable[[Population], NDArray[np.float64] | NDArray[np.int64]]
"""Population (n, g) -> one number per architecture (n,): exact MACs, a predicted latency, ..."""
LossesOf = Callable[[Population], NDArray[np.float64]]
"""Population (n, g) -> predicted losses (n, m), smaller is better."""

ENUMERABLE = 1_000_000
TRIES = 30


def uniform(space: SearchSpace, n: int, rng: np.random.Generator, *, distinct: bool = False) -> Population:
    """Returns architectures (n, g), each equally likely, however many genotypes describe it.

    Args:
        space: to draw from.
        n: how many.
        rng: the only source of randomness.
        distinct: without replacement.

    Raises:
        ValueError: more distinct architectures than the space has.
    """
    return _drawn(space, n, rng, lambda k: space.sample(k, rng), distinct=distinct)


def uniform_genes(space: SearchSpace, n: int, rng: np.random.Generator, *, distinct: bool = False) -> Population:
    """Returns architectures (n, g) whose genes are each uniform, in canonical form.

    Shallow networks, which fewer genotypes describe, are as likely as their depth gene says. Arguments and errors as
    for `uniform`.
    """
    return _drawn(space, n, rng, lambda k: _uniform_genes(space, k, rng), distinct=distinct)


def _uniform_genes(space: SearchSpace, n: int, rng: np.random.Generator) -> Population:
    columns = [rng.choice(np.array(g.representatives(), dtype=np.uint8), size=n) for g in space.genes]
    return space.canonical(np.stack(columns, axis=1))


def stratified(
    space: SearchSpace,
    n: int,
    rng: np.random.Generator,
    cost: CostOf,
    *,
    bins: int = 10,
    distinct: bool = False,
    pool: int = 4096,
) -> Population:
    """Returns architectures (n, g) that fill equally wide bins of a cost equally, as far as each bin can be filled.

    The bins divide the range between the cheapest and the dearest architecture met. Proposals come from uniform
    genes and from genes pulled towards one end of their choices, so that both ends are met; a bin that is still short
    afterwards gets mutants of its members, and what no bin can give is drawn from the others.

    Args:
        space: to draw from.
        n: how many.
        rng: the only source of randomness.
        cost: what to stratify by; NaN is never chosen.
        bins: at least 1; every bin gets n / bins, rounded up or down.
        distinct: without replacement.
        pool: proposals per round.

    Raises:
        ValueError: fewer than 1 bin; with `distinct`, more than can be found.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but got {bins}.")
    _check_count(space, n, distinct)
    if n == 0:
        return np.zeros((0, space.n_genes), np.uint8)
    ends = extremes(space)
    rows = unique_rows(np.concatenate([ends, _pulled(space, pool, rng), _uniform_genes(space, pool, rng)]))
    costs = np.asarray(cost(rows), dtype=np.float64)
    for _ in range(TRIES):
        edges = np.linspace(np.nanmin(costs), np.nanmax(costs), bins + 1)
        which = _bin_of(costs, edges)
        filled = np.bincount(which[which >= 0], minlength=bins)
        short = np.flatnonzero(filled < -(-n // bins)) if distinct else np.flatnonzero(filled == 0)
        if len(short) == 0:
            break
        near = np.isin(which, np.concatenate([short - 1, short, short + 1]))
        parents = rows[near] if near.any() else rows
        children = space.mutate(parents[rng.integers(0, len(parents), pool)], rng, 1.0 / space.n_genes)
        new = unique_rows(np.concatenate([children, _pulled(space, pool, rng)]))
        new = new[not_in(new, rows)]
        if len(new) == 0:
            break
        rows = np.concatenate([rows, new])
        costs = np.concatenate([costs, np.asarray(cost(new), dtype=np.float64)])
    which = _bin_of(costs, np.linspace(np.nanmin(costs), np.nanmax(costs), bins + 1))
    chosen = _fill_bins(which, n, bins, rng, distinct=distinct)
    if len(chosen) < n:
        raise ValueError(f"{n} distinct architectures must be found, but only {len(chosen)} were.")
    drawn: Population = rows[rng.permutation(chosen)]
    return drawn


def _fill_bins(
    which: NDArray[np.intp], n: int, bins: int, rng: np.random.Generator, *, distinct: bool
) -> NDArray[np.intp]:
    """Returns n indices, as equally from the bins as these allow; fewer only if there are not enough at all."""
    members = [rng.permutation(np.flatnonzero(which == b)) for b in range(bins)]
    members = [m for m in members if len(m)]
    order = rng.permutation(len(members))
    taken = np.zeros(len(members), dtype=np.intp)
    left = n
    while left > 0:
        room = [i for i in order if not distinct or taken[i] < len(members[i])]
        if not room:
            break
        share = max(1, left // len(room))
        for i in room:
            step = min(share, left, len(members[i]) - taken[i]) if distinct else min(share, left)
            taken[i] += step
            left -= step
    picks = [m[:t] if distinct else m[np.arange(t) % len(m)] for m, t in zip(members, taken, strict=True)]
    return np.concatenate(picks)


def _bin_of(costs: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns the bin of every cost (n,); the last edge belongs to the last bin; -1 for NaN."""
    which = np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, len(edges) - 2)
    return np.where(np.isnan(costs), -1, which)


def _pulled(space: SearchSpace, n: int, rng: np.random.Generator) -> Population:
    """Returns architectures (n, g) whose genes all lean towards one point between first and last choice, per row."""
    towards = rng.random((n, 1))
    noise = rng.normal(0.0, 0.35, (n, space.n_genes)) * rng.random((n, 1))
    sizes = np.array([len(g.representatives()) for g in space.genes])
    place = np.clip(np.rint((towards + noise) * (sizes - 1)), 0, sizes - 1).astype(np.intp)
    columns = []
    for i, gene in enumerate(space.genes):
        by_value = sorted(gene.representatives(), key=lambda r: _rank(gene.choices[r], r))
        columns.append(np.array(by_value, dtype=np.uint8)[place[:, i]])
    return space.canonical(np.stack(columns, axis=1))


def _rank(choice: object, index: int) -> float:
    return float(choice) if isinstance(choice, int | float) else float(index)


def extremes(space: SearchSpace) -> Population:
    """Returns the smallest and the largest architecture and all that differ from one of them in one gene, (k, g)."""
    rows = []
    for arch in (space.smallest(), space.largest()):
        base = space.row(arch)
        rows.append(base)
        for i, gene in enumerate(space.genes):
            for choice in gene.representatives():
                row = base.copy()
                row[i] = choice
                rows.append(row)
    return unique_rows(space.canonical(np.stack(rows)))


def space_filling(space: SearchSpace, n: int, rng: np.random.Generator, *, candidates: int = 20) -> Population:
    """Returns distinct architectures (n, g) spread over the space: an initial design.

    Like a Latin hypercube (McKay et al. 1979), every gene shows each of its choices equally often, up to one, before
    inactive genes are silenced; of several such designs the one with the largest smallest distance wins (number of
    differing genes; ties: the largest mean). Repeats, which small spaces enforce, are replaced by uniform draws.

    Args:
        space: to draw from.
        n: how many.
        rng: the only source of randomness.
        candidates: designs to choose from, at least 1.

    Raises:
        ValueError: more than the space has, or no candidates.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, but got {candidates}.")
    _check_count(space, n, distinct=True)
    best, best_score = np.zeros((0, space.n_genes), np.uint8), (-1.0, -1.0)
    for _ in range(candidates if n > 1 else 1):
        columns = []
        for gene in space.genes:
            choices = rng.permutation(np.array(gene.representatives(), dtype=np.uint8))
            columns.append(rng.permutation(np.resize(choices, n)))
        design = space.canonical(np.stack(columns, axis=1)) if n else best
        score = _spread(design)
        if score > best_score:
            best, best_score = design, score
    best = unique_rows(best)
    if len(best) < n:
        best = np.concatenate([best, _fresh(space, n - len(best), rng, lambda k: space.sample(k, rng), seen=best)])
    return best


def _spread(design: Population) -> tuple[float, float]:
    """Returns the smallest and the mean distance of a row to its nearest other row, on at most 500 rows."""
    rows = design[:500]
    if len(rows) < 2:
        return 0.0, 0.0
    nearest = []
    for i in range(len(rows)):
        distance = (rows != rows[i]).sum(axis=1)
        distance[i] = rows.shape[1] + 1
        nearest.append(distance.min())
    return float(min(nearest)), float(np.mean(nearest))


def by_rank(
    space: SearchSpace,
    n: int,
    rng: np.random.Generator,
    losses: LossesOf,
    *,
    candidates: int = 20,
    best: bool = True,
    distinct: bool = False,
) -> Population:
    """Returns architectures (n, g), each the best (or worst) of its own candidates by predicted Pareto rank.

    Attentive sampling for training (Wang et al. 2021, AttentiveNAS, section 4): for every network of a step,
    `candidates` are drawn uniformly and the one on the predicted front - or, with `best=False`, on the last one - is
    taken; ties are broken at random.

    Args:
        space: to draw from.
        n: how many.
        rng: the only source of randomness.
        losses: predicted losses of candidates, smaller is better; called once per round.
        candidates: per network, at least 1.
        best: take the first rank, otherwise the last.
        distinct: without replacement.

    Raises:
        ValueError: no candidates; more distinct architectures than the space has.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, but got {candidates}.")

    def draw(k: int) -> Population:
        rows = space.sample(k * candidates, rng)
        values = np.asarray(losses(rows), dtype=np.float64).reshape(k, candidates, -1)
        dominated = _times_dominated(values if best else -values)
        score = dominated + 0.5 * rng.random(dominated.shape)
        chosen: Population = rows.reshape(k, candidates, -1)[np.arange(k), score.argmin(axis=1)]
        return chosen

    return _drawn(space, n, rng, draw, distinct=distinct)


def _times_dominated(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns by how many of its group each point is dominated, (groups, candidates); values (.., candidates, m)."""
    a, b = values[:, :, None], values[:, None]
    dominated: NDArray[np.float64] = ((b <= a).all(-1) & (b < a).any(-1)).sum(-1).astype(np.float64)
    return dominated


# ---- without replacement --------------------------------------------------------------------------


def _check_count(space: SearchSpace, n: int, distinct: bool) -> None:
    if n < 0:
        raise ValueError(f"n must be at least 0, but got {n}.")
    if distinct and n > space.size():
        raise ValueError(f"n must be at most the {space.size():,} architectures of the space, but got {n}.")


def _drawn(
    space: SearchSpace,
    n: int,
    rng: np.random.Generator,
    draw: Callable[[int], Population],
    *,
    distinct: bool,
) -> Population:
    _check_count(space, n, distinct)
    if n == 0:
        return np.zeros((0, space.n_genes), np.uint8)
    if not distinct:
        return draw(n)
    return _fresh(space, n, rng, draw, seen=np.zeros((0, space.n_genes), np.uint8))


def _fresh(
    space: SearchSpace, n: int, rng: np.random.Generator, draw: Callable[[int], Population], *, seen: Population
) -> Population:
    """Returns n distinct rows not in `seen`: the first ones of a stream of draws, then uniform among the rest.

    The first n distinct values of independent uniform draws are a uniform draw without replacement.
    """
    chosen = np.zeros((0, space.n_genes), np.uint8)
    for _ in range(TRIES):
        drawn = unique_rows(np.concatenate([chosen, draw(2 * (n - len(chosen)) + 8)]))
        chosen = drawn[not_in(drawn, seen)][:n]
        if len(chosen) == n:
            return chosen
    if space.size() > ENUMERABLE:
        raise ValueError(f"{n} distinct architectures must be found, but only {len(chosen)} were.")
    rest = space.enumerate(limit=ENUMERABLE)
    rest = rest[~np.isin(row_keys(rest), row_keys(np.concatenate([chosen, seen])))]
    return np.concatenate([chosen, rng.permutation(rest)[: n - len(chosen)]])
