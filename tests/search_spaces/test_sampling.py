"""Sampling: the distributions that are promised, distinct when asked, the same for the same generator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2

from search_spaces import Gene, SearchSpace, sampling
from search_spaces.mlp import MLP
from search_spaces.populations import unique_rows
from search_spaces.supernet import Supernet
from tests.search_spaces.nets import small_mobilenet
from tests.search_spaces.spaces import chain_space

NET = Supernet(small_mobilenet(), meta=True)


def macs(population) -> np.ndarray:
    return NET.costs(population).macs


def losses(population) -> np.ndarray:
    costs = NET.costs(population)
    return np.stack([costs.macs, -costs.parameters.astype(float)], axis=1)


SAMPLERS = {
    "uniform": lambda n, rng, **kw: sampling.uniform(NET.space, n, rng, **kw),
    "uniform_genes": lambda n, rng, **kw: sampling.uniform_genes(NET.space, n, rng, **kw),
    "stratified": lambda n, rng, **kw: sampling.stratified(NET.space, n, rng, macs, pool=512, **kw),
    "by_rank": lambda n, rng, **kw: sampling.by_rank(NET.space, n, rng, losses, candidates=5, **kw),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [0, 1, 7, 200])
def test_rows_are_canonical_reproducible_and_distinct_on_request(name: str, n: int) -> None:
    draw = SAMPLERS[name]
    rows = draw(n, np.random.default_rng(3))
    assert rows.shape == (n, NET.space.n_genes)
    assert rows.dtype == np.uint8
    assert np.array_equal(NET.space.canonical(rows), rows)
    assert np.array_equal(draw(n, np.random.default_rng(3)), rows)
    distinct = draw(n, np.random.default_rng(3), distinct=True)
    assert len(unique_rows(distinct)) == len(distinct) == n


@pytest.mark.parametrize("name", ["uniform", "uniform_genes", "by_rank", "stratified", "space_filling"])
def test_a_whole_space_can_be_drawn(name: str) -> None:
    space, rng = chain_space(), np.random.default_rng(0)
    cost = lambda rows: rows.sum(axis=1).astype(float)  # noqa: E731
    rows = {
        "uniform": lambda: sampling.uniform(space, 34, rng, distinct=True),
        "uniform_genes": lambda: sampling.uniform_genes(space, 34, rng, distinct=True),
        "by_rank": lambda: sampling.by_rank(space, 34, rng, lambda r: cost(r)[:, None], distinct=True),
        "stratified": lambda: sampling.stratified(space, 34, rng, cost, distinct=True),
        "space_filling": lambda: sampling.space_filling(space, 34, rng),
    }[name]()
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in space.enumerate()}


def test_without_replacement_every_architecture_is_equally_likely() -> None:
    """34 architectures, 5 at a time, 4000 times: inclusion counts at a false alarm rate of 1e-4."""
    space, rng = chain_space(), np.random.default_rng(0)
    counts = Counter(row.tobytes() for _ in range(4000) for row in sampling.uniform(space, 5, rng, distinct=True))
    p = 5 / 34
    statistic = sum((c - 4000 * p) ** 2 for c in counts.values()) / (4000 * p * (1 - p)) * 33 / 34
    assert len(counts) == 34
    assert statistic < chi2.ppf(1 - 1e-4, 33)


def test_uniform_genes_is_uniform_over_each_active_gene() -> None:
    space = chain_space()
    rows = sampling.uniform_genes(space, 30_000, np.random.default_rng(0))
    share = np.bincount(rows[:, 0], minlength=3) / len(rows)
    assert np.abs(share - 1 / 3).max() < 5 * np.sqrt(2 / 9 / len(rows))
    widths = rows[rows[:, 0] == 2, 3]
    assert np.abs(np.bincount(widths)[[0, 2, 3]] / len(widths) - 1 / 3).max() < 5 * np.sqrt(2 / 9 / len(widths))


def test_stratified_fills_every_bin_equally() -> None:
    rows = sampling.stratified(NET.space, 100, np.random.default_rng(0), macs, bins=10, distinct=True)
    everyone = macs(NET.space.enumerate(limit=10**7)) if NET.space.size() < 10**6 else None
    low, high = (macs(np.stack([NET.space.row(a)]))[0] for a in (NET.space.smallest(), NET.space.largest()))
    if everyone is not None:
        assert (everyone.min(), everyone.max()) == (low, high)
    counts = np.histogram(macs(rows), bins=np.linspace(low, high, 11))[0]
    assert counts.tolist() == [10] * 10
    uniform = np.histogram(macs(NET.space.sample(100, np.random.default_rng(0))), bins=np.linspace(low, high, 11))[0]
    assert uniform.min() <= 2  # what it improves on


def test_stratified_gives_to_others_what_an_empty_bin_cannot_take() -> None:
    space = SearchSpace([Gene("a", (0, 1, 2, 3))])
    cost = lambda rows: np.array([0.0, 1.0, 2.0, 100.0])[rows[:, 0]]  # noqa: E731
    rows = sampling.stratified(space, 40, np.random.default_rng(0), cost, bins=4)
    counts = np.bincount(rows[:, 0], minlength=4)
    assert counts[3] == 20
    assert counts.sum() == 40


def test_unknown_costs_are_never_chosen() -> None:
    space = SearchSpace([Gene("a", (0, 1, 2, 3))])
    cost = lambda rows: np.array([0.0, np.nan, 2.0, 3.0])[rows[:, 0]]  # noqa: E731
    assert 1 not in sampling.stratified(space, 50, np.random.default_rng(0), cost, bins=3)


def test_extremes_are_the_ends_and_their_neighbours() -> None:
    space = SearchSpace([Gene("a", (1, 2, 3)), Gene("b", (1, 2)), Gene("c", ("x", "y"))])
    rows = {tuple(row) for row in sampling.extremes(space).tolist()}
    assert rows == {
        *[(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 1)],
        *[(2, 1, 0), (0, 1, 0), (1, 1, 0), (2, 0, 0), (2, 1, 1)],
    }


def test_space_filling_shows_every_choice_equally_often_and_spreads() -> None:
    space = MLP(input_shape=(4,), n_classes=2, hidden=[(1, 2, 3, 4)] * 6).space
    rows = sampling.space_filling(space, 32, np.random.default_rng(0))
    for column in rows.T:
        assert np.bincount(column, minlength=4).tolist() == [8] * 4
    uniform = [sampling._spread(space.sample(32, np.random.default_rng(s)))[1] for s in range(10)]
    assert sampling._spread(rows)[1] > max(uniform) - 0.2
    assert sampling._spread(rows)[0] >= 1


def test_by_rank_prefers_the_predicted_front() -> None:
    rng = np.random.default_rng(0)
    best = macs(sampling.by_rank(NET.space, 200, rng, lambda r: macs(r)[:, None].astype(float), candidates=10))
    worst = macs(
        sampling.by_rank(NET.space, 200, rng, lambda r: macs(r)[:, None].astype(float), candidates=10, best=False)
    )
    middle = np.median(macs(NET.space.sample(2000, rng)))
    assert best.max() < np.quantile(macs(NET.space.sample(2000, rng)), 0.7)
    assert np.median(best) < middle < np.median(worst)


def test_two_losses_are_not_added_up() -> None:
    """Of a front of three and a dominated point, each front point is chosen equally often, the other never."""
    space = SearchSpace([Gene("a", (0, 1, 2, 3))])
    table = np.array([[0.0, 9.0], [4.0, 4.0], [9.0, 0.0], [5.0, 5.0]])
    rows = sampling.by_rank(space, 3000, np.random.default_rng(0), lambda r: table[r[:, 0]], candidates=40)
    counts = np.bincount(rows[:, 0], minlength=4)
    assert counts[3] == 0
    assert np.abs(counts[:3] - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, r: sampling.uniform(s, -1, r), "n must be at least 0, but got -1"),
        (
            lambda s, r: sampling.uniform(s, 35, r, distinct=True),
            "n must be at most the 34 architectures .* but got 35",
        ),
        (lambda s, r: sampling.space_filling(s, 35, r), "n must be at most the 34 architectures .* but got 35"),
        (lambda s, r: sampling.stratified(s, 3, r, lambda p: p[:, 0], bins=0), "bins must be at least 1, but got 0"),
        (lambda s, r: sampling.by_rank(s, 3, r, lambda p: p, candidates=0), "candidates must be at least 1, but got 0"),
        (lambda s, r: sampling.space_filling(s, 3, r, candidates=0), "candidates must be at least 1, but got 0"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(chain_space(), np.random.default_rng(0))


def test_only_some_can_be_found_when_most_costs_are_unknown() -> None:
    space = SearchSpace([Gene("a", (0, 1, 2, 3))])
    cost = lambda rows: np.array([0.0, np.nan, np.nan, 3.0])[rows[:, 0]]  # noqa: E731
    with pytest.raises(ValueError, match="3 distinct architectures must be found, but only 2 were"):
        sampling.stratified(space, 3, np.random.default_rng(0), cost, bins=2, distinct=True)
