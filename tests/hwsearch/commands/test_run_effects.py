"""What labels of one measuring run share: found, taken off, and counted in intervals of another session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from hwsearch.commands.fit import fitted
from hwsearch.commands.recipe import Recipe, recipe
from hwsearch.commands.run_effects import run_effects
from hwsearch.commands.space_source import open_space
from predictors.base import FloatArray, Prediction, Predictor, Sources, State
from search_spaces.space import Population, SearchSpace

GENES = {"genes": {name: [1, 2, 3, 4] for name in "abcd"}}
SHARED, OWN = 0.03, 0.01
SIZE = 4


def test_variance_components_of_balanced_runs_by_hand() -> None:
    residuals = np.array([1.0, 3.0, 5.0, 7.0, -3.0, -1.0, -7.0, -5.0])
    found = run_effects(residuals, np.repeat([4, 7, 1, 0], 2))
    assert found is not None
    # Means 2, 6, -2, -6 about 0: between 2 * 80 / 3; within 4 * 2 / 4 = 2; shared = (160 / 3 - 2) / 2.
    shared = (160 / 3 - 2) / 2
    assert (found.n_runs, found.shared_std, found.own_std) == (4, pytest.approx(shared**0.5), pytest.approx(2**0.5))
    np.testing.assert_allclose(found.shift, shared / (shared + 1) * np.repeat([2.0, 6.0, -2.0, -6.0], 2))


def test_unbalanced_runs_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6])
    found = []
    for _ in range(400):
        effects = run_effects(2 * rng.standard_normal(12)[runs] + rng.standard_normal(len(runs)), runs)
        assert effects is not None
        found.append((effects.shared_std**2, effects.own_std**2))
    # Standard errors of the means are about 0.1 and 0.015.
    shared, own = np.mean(found, axis=0)
    assert shared == pytest.approx(4.0, abs=0.4)
    assert own == pytest.approx(1.0, abs=0.06)


def test_chance_is_no_effect_and_few_runs_say_nothing() -> None:
    effects = run_effects(np.tile([1.0, -1.0], 4), np.repeat(np.arange(4), 2))
    assert effects is not None
    assert (effects.shared_std, effects.shift.any()) == (0.0, False)
    assert run_effects(np.arange(6.0), np.repeat(np.arange(3), 2)) is None
    assert run_effects(np.arange(6.0), np.arange(6)) is None


def test_intervals_hold_labels_of_another_session(tmp_path: Path) -> None:
    """Runs and sessions differ by 3 %, labels by 1 %: held-out rows see the former only, later labels both."""
    path = tmp_path / "genes.yaml"
    path.write_text(yaml.safe_dump(GENES))
    source = open_space(str(path))
    space = source.space
    how = recipe(source, target="latency_ms", model="ridge")
    truth = 20 + space.enumerate() @ np.array([1.0, 2.0, 3.0, 4.0])
    covered: dict[str, list[float]] = {"with runs": [], "without": []}
    error: dict[str, list[float]] = {"with runs": [], "without": []}
    n, later = 48, 60
    for seed in range(12):
        rng = np.random.default_rng(seed)
        place = rng.permutation(len(truth))
        rows, new = space.enumerate()[place[:n]], space.enumerate()[place[n : n + later]]
        runs = np.arange(n) // SIZE
        shift = SHARED * (rng.standard_normal() + rng.standard_normal(n // SIZE)[runs])
        values = truth[place[:n]] * (1 + shift + OWN * rng.standard_normal(n))
        # Each later label is of a session of its own, so that one draw of a session does not decide the test.
        noise = np.hypot(np.sqrt(2) * SHARED, OWN) * rng.standard_normal(later)
        labels = truth[place[n : n + later]] * (1 + noise)
        for name, given in (("with runs", runs), ("without", None)):
            found = fitted(how, rows, values, unit="ms", curve=False, runs=given)
            low, high = found.predictor.interval(new)
            covered[name].append(float(np.mean((low <= labels) & (labels <= high))))
            away = found.predictor.predict(new).mean / truth[place[n : n + later]] - 1
            error[name].append(float(away.std()))
            assert (found.runs is None) == (given is None)
            assert found.held_out is not None
            np.testing.assert_allclose(found.held_out.mean, values, rtol=0.25)
    # 12 draws of 60 labels; coverage varies by 0.05 from draw to draw, so that a mean is known to 0.015.
    assert 0.84 < np.mean(covered["with runs"]) < 0.96
    assert np.mean(covered["without"]) < np.mean(covered["with runs"]) - 0.05
    # Labels freed of their runs' shares leave less error in how networks differ.
    assert np.mean(error["with runs"]) < 0.75 * np.mean(error["without"])


class Foreign(Predictor):
    """A third party's: it knows nothing of widening."""

    kind = "foreign"

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Foreign:
        self.mean_ = float(values.mean())
        return self

    def predict(self, population: Population) -> Prediction:
        return Prediction(np.full(len(population), self.mean_), np.ones(len(population)))

    def state(self) -> State:
        raise NotImplementedError

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Foreign:
        raise NotImplementedError


class ForeignRecipe(Recipe):
    def make(self) -> Predictor:
        return Foreign(self.source.space)


def test_a_third_party_predictor_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "genes.yaml"
    path.write_text(yaml.safe_dump(GENES))
    how = ForeignRecipe(open_space(str(path)), "latency_ms")
    rows, runs = how.source.space.enumerate()[:48], np.arange(48) // SIZE
    shift = SHARED * np.random.default_rng(0).standard_normal(12)[runs]
    found = fitted(how, rows, 20 * (1 + shift) + 0.01 * np.arange(48), unit="ms", curve=False, runs=runs)
    assert found.runs is None
    np.testing.assert_array_equal(found.predictor.predict(rows).std, 1.0)
