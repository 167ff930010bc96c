from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.acquisition import Marginals, expected_improvement, free_boxes
from hwsearch.engines.pareto_search import ParetoSearch
from hwsearch.engines.warm_start import Source
from hwsearch.results import History, State
from hwsearch.tasks.simulate import simulate
from hwsearch.tasks.synthetic import synthetic_task
from search_spaces.populations import unique_rows
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, large_space, small_space, toy_losses


class TestParetoSearch(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> ParetoSearch:
        return ParetoSearch(space, n_objectives=n_objectives, seed=seed, inner=500)


# -- the acquisition -----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_boxes_fill_what_no_point_dominates(m: int) -> None:
    """Volume of the boxes inside [-1, 1]^m and of what the front dominates: together that of the cube."""
    rng = np.random.default_rng(m)
    points = rng.uniform(-0.9, 0.9, (12, m))
    front = points[pareto.front(points)]
    low, high = free_boxes(front, np.ones(m))
    volume = np.prod(np.clip(high, -1, 1) - np.clip(low, -1, 1), axis=1).sum()
    assert volume + pareto.hypervolume(front, np.ones(m)) == pytest.approx(2.0**m)


def test_expected_improvement_is_the_mean_of_improvements() -> None:
    """Against 40,000 draws, within four standard errors; one loss normal, one log-normal, one known."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.2, 0.9, (8, 3))
    front, reference = points[pareto.front(points)], np.ones(3)
    normal = Marginals(np.array([0.4]), np.array([0.2]))
    warped = Marginals(np.array([-0.5]), np.array([0.3]), end=0.0, span=0.9)
    known = Marginals(np.array([0.3]), np.array([0.0]))
    expected = expected_improvement([normal, warped, known], front, reference)[0]
    draws = 40_000
    y = np.stack(
        [
            0.4 + 0.2 * rng.standard_normal(draws),
            0.9 * np.exp(-0.5 + 0.3 * rng.standard_normal(draws)),
            np.full(draws, 0.3),
        ],
        axis=1,
    )
    low, high = free_boxes(front, reference)
    gains = np.zeros(draws)
    for a, b in zip(low, high, strict=True):
        gains += np.prod(np.maximum(b - np.maximum(a, y), 0.0), axis=1)
    assert expected == pytest.approx(gains.mean(), abs=4 * gains.std() / np.sqrt(draws))


def test_what_cannot_improve_has_no_expected_improvement() -> None:
    front, reference = np.array([[0.0, 0.0]]), np.ones(2)
    mean, std = np.array([0.5, -0.5]), np.array([0.01, 0.01])
    gain = expected_improvement([Marginals(mean, std), Marginals(mean, std)], front, reference)
    assert gain[0] == 0.0
    assert gain[1] == pytest.approx(1.5 * 1.5 - 1.0, abs=1e-3)


# -- the search ----------------------------------------------------------------------------------------


def test_finds_the_front_in_few_evaluations() -> None:
    """The synthetic network of two stages (670,761 architectures): 60 evaluations reach what 600 random ones do not."""
    task = synthetic_task(n_stages=2)
    engine = ParetoSearch(task.space, n_objectives=2, exact=task.known(), inner=500)
    found = simulate(task, engine, trials=60, batch=6)
    random = task.losses(task.space.sample(600, np.random.default_rng(0)))
    assert task.shares(found.losses, "front")[-1] > task.shares(random, "front")[-1]


def test_a_wide_start_holds_likely_members() -> None:
    """48 evaluations before any label: the exact costs place those after the first few better than spreading does.

    Dominated volume of the two starts, the worst of three seeds against the best of three.
    """
    task = synthetic_task(n_stages=2)
    nothing = History.empty(task.space.n_genes, 2)
    wide, spread = [], []
    for seed in range(3):
        known = ParetoSearch(task.space, n_objectives=2, seed=seed, exact=task.known())
        start = known.propose(nothing, 48)
        assert len(unique_rows(start)) == 48
        assert (known.propose(nothing, 20) == start[:20]).all()
        again = ParetoSearch(task.space, n_objectives=2, seed=seed, exact=task.known())
        assert (again.propose(nothing, 20) == start[:20]).all()
        wide.append(task.shares(task.losses(start), "front")[-1])
        guessing = ParetoSearch(task.space, n_objectives=2, seed=seed)
        spread.append(task.shares(task.losses(guessing.propose(nothing, 48)), "front")[-1])
    assert min(wide) > max(spread)


def test_outlook() -> None:
    space = small_space()
    engine = ParetoSearch(space, n_objectives=2)
    assert np.isnan(engine.outlook(History.empty(space.n_genes, 2), 1).gain)
    rows = space.enumerate()[::3]
    losses = toy_losses(space, rows, 2)
    early = engine.outlook(History.of(rows, losses, losses[:, :1] - losses[:, 0].max() - 1.0), 2)
    assert early.gain > 0
    assert 0.9 < early.trust <= 1.0
    assert early.feasible > 0.99
    hopeless = engine.outlook(History.of(rows, losses, losses[:, :1] - losses[:, 0].min() + 50.0), 2)
    assert hopeless.feasible < 1e-3
    everything = finished(space, space.enumerate())
    assert engine.outlook(everything, 2).gain == 0.0


def test_limits_are_learned() -> None:
    """Half of a space passes a limit: of 20 proposals after 40 trials nearly all keep it."""
    space = large_space()
    rows = unique_rows(space.sample(40, np.random.default_rng(0)))
    losses = toy_losses(space, rows, 2)
    limit = np.median(losses[:, 1])
    history = History.of(rows, losses, losses[:, 1:] - limit)
    proposed = ParetoSearch(space, n_objectives=2, inner=500).propose(history, 20)
    assert (toy_losses(space, proposed, 2)[:, 1] <= limit).mean() >= 0.8


def test_hints_of_another_device() -> None:
    """The source's front seeds the start, and its losses are columns that the surrogates see."""
    space = large_space()
    rows = unique_rows(space.sample(60, np.random.default_rng(3)))
    losses = toy_losses(space, rows, 2)
    source = Source("other", rows, 3.0 * losses + 1.0)
    engine = ParetoSearch(space, n_objectives=2, sources=[source], inner=500)
    start = engine.propose(History.empty(space.n_genes, 2), 8)
    best = {row.tobytes() for row in rows[pareto.front(losses)]}
    assert sum(row.tobytes() in best for row in start) >= min(8, len(best)) // 2
    assert len(engine.encoding.outside_maps) == 3
    with pytest.raises(ValueError, match="source 'x' must have 2 losses, but got 1"):
        ParetoSearch(space, n_objectives=2, sources=[Source("x", rows, losses[:, :1])])
    with pytest.raises(ValueError, match="source 'x' must have one row of losses per genotype"):
        Source("x", rows, losses[:3])
    with pytest.raises(ValueError, match="source 'x': choice indices"):
        ParetoSearch(space, n_objectives=2, sources=[Source("x", rows + np.uint8(9), losses)])


def test_settings() -> None:
    space = small_space()
    with pytest.raises(ValueError, match=r"engine.initial must be at least 2, but got 1"):
        ParetoSearch(space, n_objectives=2, initial=1)
    with pytest.raises(ValueError, match=r"engine.inner must be at least 100, but got 9"):
        ParetoSearch(space, n_objectives=2, inner=9)
    with pytest.raises(ValueError, match=r"engine.margin must be at least 0, but got -1"):
        ParetoSearch(space, n_objectives=2, margin=-1)
    with pytest.raises(ValueError, match="exact must give at least 2 columns, but got shape"):
        ParetoSearch(space, n_objectives=2, exact=lambda rows: np.zeros((len(rows), 1))).propose(
            History.empty(space.n_genes, 2), 1
        )
    with pytest.raises(ValueError, match="exact must give at most 2 columns, but got 3"):
        ParetoSearch(space, n_objectives=2, exact=lambda rows: np.zeros((len(rows), 3))).propose(
            finished(space, space.enumerate()[:30]), 1
        )


# -- noisy labels --------------------------------------------------------------------------------------


def test_front_without_noise_is_certain() -> None:
    space = small_space()
    history = finished(space, space.enumerate()[::2])
    said = ParetoSearch(space, n_objectives=2).front_probability(history)
    assert (said == pareto.front(history.losses)).all()
    state = np.full(len(history), State.FAILED, np.int8)
    none = History.of(history.genotypes, history.losses, state=state)
    assert not ParetoSearch(space, n_objectives=2).front_probability(none).any()
    few = history.only(np.arange(3))
    assert (ParetoSearch(space, n_objectives=2).front_probability(few) == pareto.front(few.losses)).all()


def test_known_noise_is_taken_off_the_labels() -> None:
    """What the search takes for its losses so far is nearer to the truth than the labels, whose errors are known."""
    task = synthetic_task(n_stages=2)
    rows = unique_rows(task.space.sample(60, np.random.default_rng(0)))
    losses = task.losses(rows)
    stds = np.stack([np.full(len(rows), 0.5), np.full(len(rows), np.nan)], axis=1)
    labels = losses + np.nan_to_num(stds) * np.random.default_rng(1).standard_normal(losses.shape)
    engine = ParetoSearch(task.space, n_objectives=2, exact=task.known())
    left = np.sqrt(((engine.estimates(History.of(rows, labels, stds=stds)) - losses)[:, 0] ** 2).mean())
    assert left < 0.85 * np.sqrt(((labels - losses)[:, 0] ** 2).mean())
    assert (engine.estimates(History.of(rows, labels)) == labels).all()
    assert (engine.estimates(History.of(rows[:3], labels[:3], stds=stds[:3])) == labels[:3]).all()  # too few to learn


def test_front_of_noisy_labels_has_probabilities() -> None:
    """Probabilities say more of the true front than the front of the labels does, and keep limits in view."""
    task = synthetic_task(n_stages=2)
    rows = unique_rows(task.space.sample(80, np.random.default_rng(0)))
    losses = task.losses(rows)
    stds = np.full(losses.shape, np.nan)
    stds[:, 0] = 1.0
    rng = np.random.default_rng(1)
    labels = losses + np.nan_to_num(stds) * rng.standard_normal(losses.shape)
    engine = ParetoSearch(task.space, n_objectives=2, exact=task.known())
    said = engine.front_probability(History.of(rows, labels, stds=stds))
    truth = pareto.front(losses)
    # The Brier score of the probabilities is better than that of the front of the labels.
    assert ((said - truth) ** 2).mean() < ((pareto.front(labels).astype(float) - truth) ** 2).mean() + 1e-9
    assert ((said > 0.05) & (said < 0.95)).any()
    limited = History.of(rows, labels, labels[:, :1] - np.median(labels[:, 0]), stds=stds)
    within = engine.front_probability(limited)
    assert within[labels[:, 0] > np.median(labels[:, 0]) + 6.0].max(initial=0.0) < 0.05
