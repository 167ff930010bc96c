"""LINAS and WeakNAS, and the light predictors they use."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.linas import Linas
from hwsearch.engines.predicted import Additive, Predicted, one_hot, ridge_or_svr
from hwsearch.engines.random_search import RandomSearch
from hwsearch.engines.weaknas import WeakNas
from hwsearch.results import History, State
from search_spaces.space import Population, SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, large_space, small_space, toy_losses


class TestLinas(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> Linas:
        return Linas(space, n_objectives=n_objectives, seed=seed, inner=200)


class TestWeakNas(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> WeakNas:
        return WeakNas(space, n_objectives=n_objectives, seed=seed, pool=200, top=20, trees=5)


@pytest.mark.parametrize(("engine", "options"), [(Linas, {"inner": 1000}), (WeakNas, {"trees": 20})])
def test_better_than_random(engine: type[SearchEngine], options: dict[str, int]) -> None:
    """Dominated volume after 80 trials of a smooth problem: the worst of 2 seeds beats the best of 5 random ones."""
    space = large_space()
    reference = toy_losses(space, space.sample(2000, np.random.default_rng(9)), 2).max(axis=0)

    def volume(made: SearchEngine) -> float:
        history = History.empty(space.n_genes, 2)
        while len(history) < 80:
            rows = made.propose(history, 20)
            history = finished(space, np.concatenate([history.genotypes, rows]))
        return pareto.hypervolume(history.losses, reference)

    ours = [volume(engine(space, n_objectives=2, seed=s, **options)) for s in range(2)]  # type: ignore[arg-type]
    assert min(ours) > max(volume(RandomSearch(space, n_objectives=2, seed=s)) for s in range(5))


def test_additive_model_is_the_ridge_regression_on_one_hot_genes() -> None:
    space = large_space()
    rows = space.sample(300, np.random.default_rng(0))
    weights = np.random.default_rng(1).normal(size=int(space.n_choices.sum()))
    values = 3.0 + one_hot(space, rows) @ weights
    assert np.allclose(Additive(space, 3.0, weights)(rows), values)
    new = space.sample(200, np.random.default_rng(2))
    fitted = Additive.fit(space, rows, values)
    assert np.abs(fitted(new) - 3.0 - one_hot(space, new) @ weights).max() < 0.1


def test_support_vectors_where_a_line_does_not_do() -> None:
    space = small_space()
    rows = space.enumerate()
    bent = ((rows[:, 1].astype(float) - 1) * (rows[:, 5].astype(float) - 0.5)) ** 2 + 0.3 * rows[:, 3] * rows[:, 1]
    error = np.abs(ridge_or_svr(space, rows, bent)(rows) - bent).max()
    line = np.abs(Additive.fit(space, rows, bent)(rows) - bent).max()
    assert error < 0.5 * line
    straight = rows @ np.arange(6.0)
    assert isinstance(ridge_or_svr(space, rows, straight), Additive)


def test_predicted_takes_exact_columns_as_they_are() -> None:
    space = large_space()
    rows = space.sample(60, np.random.default_rng(0))

    def exact(population: Population) -> np.ndarray:
        losses = toy_losses(space, population, 2)
        losses[:, 0] = np.nan
        return losses

    losses = toy_losses(space, rows, 2)
    losses[:, 1] = np.nan  # never needed
    losses[5, 0] = np.inf
    state = np.full(60, State.FINISHED, np.int8)
    state[7] = State.FAILED
    history = History.of(rows, losses, np.stack([losses[:, 0] - 1.0], axis=1), state=state)
    predicted = Predicted(space, history, exact=exact, learner=Additive.fit)
    new = space.sample(20, np.random.default_rng(1))
    assert (predicted.losses(new)[:, 1] == toy_losses(space, new, 2)[:, 1]).all()
    gap = predicted.losses(new)[:, 0] - predicted.violations(new)[:, 0]
    assert np.abs(gap - 1.0).max() < 1e-6


def test_too_few_labels_give_a_flat_prediction() -> None:
    space = large_space()
    rows = space.sample(3, np.random.default_rng(0))
    predicted = Predicted(space, History.of(rows, np.array([[1.0], [2.0], [6.0]])), exact=None, learner=ridge_or_svr)
    assert (predicted.losses(space.sample(5, np.random.default_rng(1))) == 3.0).all()
    nothing = Predicted(space, History.empty(space.n_genes, 1), exact=None, learner=ridge_or_svr)
    assert (nothing.losses(rows) == 0.0).all()


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        (Linas, {"population": 1}, "engine.population must be at least 2, but got 1"),
        (Linas, {"inner": 5}, "engine.inner must be at least engine.population = 20, but got 5"),
        (WeakNas, {"initial": 1}, "engine.initial must be at least 2, but got 1"),
        (WeakNas, {"trees": 0}, "engine.trees must be at least 1, but got 0"),
        (WeakNas, {"top": 0}, r"engine.top must be in \[1, 2000\], but got 0"),
    ],
)
def test_settings(engine: type[SearchEngine], settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(large_space(), n_objectives=2, **settings)  # type: ignore[arg-type]
