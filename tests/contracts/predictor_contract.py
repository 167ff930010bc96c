"""What every predictor must do; each implementation inherits this class and supplies `make`."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace


def example_space() -> SearchSpace:
    """Two stages of depth 1-2 with kernels and widths; 18 * 18 * 2 architectures."""
    genes = [Gene("mode", ("a", "b"))]
    for s in (1, 2):
        genes.append(Gene(f"stage{s}.depth", (1, 2)))
        for b in (1, 2):
            when = () if b == 1 else (Condition(f"stage{s}.depth", (2,)),)
            genes.append(Gene(f"stage{s}.block{b}.kernel", (3, 5, 7), active_when=when))
            if b == 1:
                genes.append(Gene(f"stage{s}.width", (8, 16)))
    return SearchSpace(genes)


def example_values(space: SearchSpace, population: np.ndarray) -> np.ndarray:
    """A cost in the manner of a latency, (n,): positive, near-additive over active genes."""
    columns, active = space.columns(population), space.active(population)
    out = np.full(len(population), 3.0)
    for i, gene in enumerate(space.genes):
        if gene.name.endswith("kernel"):
            width = columns[gene.name.split(".")[0] + ".width"]
            out += active[:, i] * (0.5 + columns[gene.name] ** 2 / 40.0 + width / 16.0)
    return out + 0.3 * (columns["mode"] == "b")


class PredictorContract:
    """Inherit, and give `make(space)`: a new predictor, unfitted."""

    tolerance = 0.25
    """Share of the values' deviation that the error on unseen rows may have after 60 training rows."""
    sources = Sources()

    def make(self, space: SearchSpace) -> Predictor:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return example_space()

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        population = rng.permutation(space.enumerate())[:160]
        return population, example_values(space, population) + 0.02 * rng.normal(size=len(population))

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> Predictor:
        population, values = data
        return cls().make(space).fit(population[:60], values[:60])

    def test_learns(self, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]) -> None:
        prediction = fitted.predict(data[0][60:])
        error = prediction.mean - data[1][60:]
        assert np.sqrt((error**2).mean()) < self.tolerance * data[1].std()

    def test_shapes_and_finite_deviations(self, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]) -> None:
        prediction = fitted.predict(data[0][:7])
        assert prediction.mean.shape == prediction.std.shape == (7,)
        assert prediction.mean.dtype == prediction.std.dtype == np.float64
        assert np.isfinite(prediction.mean).all() and np.isfinite(prediction.std).all()
        assert (prediction.std >= 0).all()
        empty = fitted.predict(data[0][:0])
        assert empty.mean.shape == empty.std.shape == (0,)

    def test_rows_do_not_influence_one_another(self, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]) -> None:
        whole, part = fitted.predict(data[0]), fitted.predict(data[0][100:103])
        np.testing.assert_allclose(whole.mean[100:103], part.mean, rtol=1e-6)
        np.testing.assert_allclose(whole.std[100:103], part.std, rtol=1e-6, atol=1e-12)

    def test_equal_networks_have_equal_answers(
        self, space: SearchSpace, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]
    ) -> None:
        rows = data[0].copy()
        noise = space.n_choices - 1 - rows
        rows = np.where(space.active(rows), rows, noise).astype(np.uint8)  # inactive genes hold something else
        assert (rows != data[0]).any()
        np.testing.assert_array_equal(fitted.predict(rows).mean, fitted.predict(data[0]).mean)

    def test_same_data_same_predictor(
        self, space: SearchSpace, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]
    ) -> None:
        again = self.make(space).fit(data[0][:60], data[1][:60]).predict(data[0])
        np.testing.assert_array_equal(again.mean, fitted.predict(data[0]).mean)
        np.testing.assert_array_equal(again.std, fitted.predict(data[0]).std)

    def test_leaves_its_inputs_alone(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        population, values = data[0][:20].copy(), data[1][:20].copy()
        self.make(space).fit(population, values).predict(population)
        np.testing.assert_array_equal(population, data[0][:20])
        np.testing.assert_array_equal(values, data[1][:20])

    def test_unit_of_the_values_does_not_matter(
        self, space: SearchSpace, fitted: Predictor, data: tuple[np.ndarray, np.ndarray]
    ) -> None:
        seconds = self.make(space).fit(data[0][:60], data[1][:60] / 1000).predict(data[0])
        milliseconds = fitted.predict(data[0])
        np.testing.assert_allclose(1000 * seconds.mean, milliseconds.mean, rtol=self.unit_tolerance)

    unit_tolerance = 1e-3

    def test_few_rows(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        for n in (2, 3, 5):
            prediction = self.make(space).fit(data[0][:n], data[1][:n]).predict(data[0])
            assert np.isfinite(prediction.mean).all() and np.isfinite(prediction.std).all()

    def test_repeated_rows(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        population = np.concatenate([data[0][:20]] * 3)
        values = np.concatenate([data[1][:20] + d for d in (-0.1, 0.0, 0.1)])
        prediction = self.make(space).fit(population, values).predict(data[0])
        assert np.isfinite(prediction.mean).all() and np.isfinite(prediction.std).all()

    def test_known_standard_errors_are_taken(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        stds = np.full(40, 0.02)
        stds[:5] = np.nan
        prediction = self.make(space).fit(data[0][:40], data[1][:40], stds=stds).predict(data[0][60:])
        assert np.sqrt(((prediction.mean - data[1][60:]) ** 2).mean()) < 2 * self.tolerance * data[1].std()
        with pytest.raises(ValueError, match=r"stds must have shape \(40,\), but got \(39,\)"):
            self.make(space).fit(data[0][:40], data[1][:40], stds=stds[:39])

    def test_unfit_data_is_refused(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        population, values = data[0][:4], data[1][:4]
        cases = {
            r"values must be finite, but row 1 is nan": (population, np.array([1.0, np.nan, 2.0, 3.0])),
            r"values must be finite, but row 0 is inf": (population, np.array([np.inf, 1.0, 2.0, 3.0])),
            r"at least 2 rows, but got 1": (population[:1], values[:1]),
            r"values must have shape \(4,\), but got \(3,\)": (population, values[:3]),
            r"values must differ .* but all 4 are 7": (population, np.full(4, 7.0)),
            r"population must have shape": (population[:, :3], values),
        }
        for message, (rows, labels) in cases.items():
            with pytest.raises(ValueError, match=message):
                self.make(space).fit(rows, labels)

    def test_use_before_fit_is_an_error(self, space: SearchSpace, data: tuple[np.ndarray, np.ndarray]) -> None:
        with pytest.raises(RuntimeError, match="must be fitted before it is used"):
            self.make(space).predict(data[0])
        with pytest.raises(RuntimeError, match="must be fitted before it is used"):
            self.make(space).state()

    def test_file_round_trip(self, fitted: Predictor, data: tuple[np.ndarray, np.ndarray], tmp_path: object) -> None:
        path = f"{tmp_path}/latency.predictor"
        save(fitted, path, card=Card("latency_ms", "ms", device="cpu"))
        loaded = load(path, space=fitted.space, sources=self.sources, unit="ms")
        assert type(loaded.predictor) is type(fitted)
        before, after = fitted.predict(data[0]), loaded.predictor.predict(data[0])
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.std, after.std)
