"""Exhaustive, ageing evolution, local search and NSGA-III."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.evolution import Evolution
from hwsearch.engines.exhaustive import Exhaustive
from hwsearch.engines.local_search import LocalSearch, neighbours
from hwsearch.engines.nsga3 import NSGA3, associate, reference_directions
from hwsearch.engines.random_search import RandomSearch
from hwsearch.results import History
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, large_space, small_space, toy_losses


class TestEvolution(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> Evolution:
        return Evolution(space, n_objectives=n_objectives, seed=seed)


class TestLocalSearch(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> LocalSearch:
        return LocalSearch(space, n_objectives=n_objectives, seed=seed)


class TestExhaustive(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> Exhaustive:
        return Exhaustive(space, n_objectives=n_objectives, seed=seed)

    def large(self) -> SearchSpace:
        return SearchSpace([Gene(f"l{i}", (1, 2, 3)) for i in range(9)])


class TestNSGA3(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> NSGA3:
        return NSGA3(space, n_objectives=n_objectives, seed=seed)


def after(engine: SearchEngine, n: int, count: int = 5) -> History:
    history = History.empty(engine.space.n_genes, engine.n_objectives)
    while len(history) < n:
        rows = engine.propose(history, count)
        history = finished(engine.space, np.concatenate([history.genotypes, rows]), engine.n_objectives)
    return history


@pytest.mark.parametrize("engine", [Evolution, LocalSearch, NSGA3])
@pytest.mark.parametrize("m", [1, 2])
def test_better_than_random(engine: type[SearchEngine], m: int) -> None:
    """Dominated volume after 150 trials of a smooth problem: the worst of 3 seeds beats the best random one."""
    space = large_space()
    reference = toy_losses(space, space.sample(2000, np.random.default_rng(9)), m).max(axis=0)
    ours = [pareto.hypervolume(after(engine(space, n_objectives=m, seed=s), 150).losses, reference) for s in range(3)]
    base = [
        pareto.hypervolume(after(RandomSearch(space, n_objectives=m, seed=s), 150).losses, reference) for s in range(3)
    ]
    assert min(ours) > max(base)


# -- exhaustive ----------------------------------------------------------------------------------------


def test_exhaustive_visits_every_architecture_once() -> None:
    space = small_space()
    engine = Exhaustive(space, n_objectives=2)
    history = after(engine, space.size(), 7 - space.size() % 7)
    assert {r.tobytes() for r in history.genotypes} == {r.tobytes() for r in space.enumerate()}
    assert len(engine.propose(history, 3)) == 0
    assert len(engine.propose(History.empty(space.n_genes, 2), 1000)) == space.size()


def test_exhaustive_prefixes_are_even() -> None:
    """A third of the walk: gaps in the lexicographic order are at most 8 (an even grid has 3)."""
    space = small_space()
    order = {row.tobytes(): i for i, row in enumerate(space.enumerate())}
    rows = Exhaustive(space, n_objectives=1, seed=4).propose(History.empty(space.n_genes, 1), space.size() // 3)
    places = np.sort([order[row.tobytes()] for row in rows])
    assert np.diff(places).max() <= 8


def test_exhaustive_refuses_large_spaces() -> None:
    with pytest.raises(ValueError, match=r"engine exhaustive needs a space of at most 1,000 architectures, but got"):
        Exhaustive(large_space(), n_objectives=2, max_size=1000)
    with pytest.raises(ValueError, match=r"engine.max_size must be at least 1, but got 0"):
        Exhaustive(small_space(), n_objectives=2, max_size=0)


# -- evolution -----------------------------------------------------------------------------------------


def test_old_trials_are_no_parents() -> None:
    """The best trials are the oldest; with a population of 5 children must come from the youngest five."""
    space = large_space()
    rows = space.sample(60, np.random.default_rng(0))
    losses = np.arange(60.0)[:, None]
    engine = Evolution(space, n_objectives=1, population=5, sample=5)
    child = engine.propose(History.of(rows, losses), 1)[0]
    distance = (space.crossover(rows, rows, np.random.default_rng(0)) != child).sum(axis=1)
    assert distance.argmin() >= 55


# -- local search --------------------------------------------------------------------------------------


def test_neighbours_differ_in_one_active_gene() -> None:
    space = small_space()
    rows = space.enumerate()
    for row in rows[::7]:
        around = neighbours(space, row)
        expected = []
        for other in rows:
            before, after_ = space.active(row[None])[0], space.active(other[None])[0]
            if ((other != row) & before & after_).sum() == 1:
                woken = after_ & ~before
                if (other[woken] == 0).all():
                    expected.append(other.tobytes())
        assert {r.tobytes() for r in around} == set(expected)


def test_local_search_turns_to_the_least_tried_member() -> None:
    space = large_space()
    rng = np.random.default_rng(0)
    a, b = space.sample(2, rng)
    known = np.concatenate([np.stack([a, b]), neighbours(space, a)[:30]])
    losses = np.full((len(known), 2), 9.0)
    losses[0], losses[1] = [0.0, 1.0], [1.0, 0.0]
    row = LocalSearch(space, n_objectives=2, starts=1).propose(History.of(known, losses), 1)
    assert row.tobytes() in {r.tobytes() for r in neighbours(space, b)}


# -- NSGA-III ------------------------------------------------------------------------------------------


def test_reference_directions_are_even() -> None:
    assert reference_directions(1, 10).tolist() == [[1.0]]
    assert reference_directions(2, 5).tolist() == [[0, 1], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1, 0]]
    directions = reference_directions(4, 40)
    assert len(directions) == 35
    assert np.allclose(directions.sum(axis=1), 1.0)
    assert len(reference_directions(6, 3)) == 6


def test_association_is_by_perpendicular_distance() -> None:
    losses = np.array([[0.0, 2.0], [2.0, 0.0], [1.0, 1.0], [3.0, 1.0]])
    niche, distance = associate(losses, np.array([True, True, True, False]), np.array([[0, 1.0], [0.5, 0.5], [1.0, 0]]))
    assert niche.tolist() == [0, 2, 1, 2]
    assert np.allclose(distance, [0.0, 0.0, 0.0, 0.5], atol=1e-6)


def test_niches_keep_the_front_even() -> None:
    """Twenty points crowd at one end of a front, three are at the other: with four places all three stay."""
    space = large_space()
    x = np.concatenate([np.linspace(0.0, 0.1, 20), [0.5, 0.9, 1.0]])
    losses = np.stack([x, 1 - x], axis=1)
    rows, _ = NSGA3(space, n_objectives=2, population=4).select(losses, np.zeros((23, 0)))
    assert {21, 22}.intersection(rows)
    assert 20 in rows
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("engine", "setting", "value", "message"),
    [
        (Evolution, "population", 1, "engine.population must be at least 2, but got 1"),
        (Evolution, "sample", 0, r"engine.sample must be in \[1, 50\], but got 0"),
        (Evolution, "mutation", 2.0, r"engine.mutation must be in \[0, 1\], but got 2.0"),
        (LocalSearch, "starts", 0, "engine.starts must be at least 1, but got 0"),
    ],
)
def test_settings(engine: type[SearchEngine], setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(large_space(), n_objectives=2, **{setting: value})  # type: ignore[arg-type]
