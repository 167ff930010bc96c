"""BlockGP: closed forms of mean, deviation, leave-one-out and evidence; noise, tails and choice of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from predictors import gp_answers
from predictors.gp import BlockGP, Weights


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 7)) / np.sqrt([3, 3, 3, 4, 4, 4, 4])
    y = 5 + 2 * x[:, 0] - x[:, 1] + np.sin(2 * x[:, 4]) + 0.1 * rng.normal(size=40)
    return x, y


WEIGHTS = Weights(np.array([0.7, 0.2]), 0.4, np.array([0.5, 1.5]), 0.05)


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    gap = sum(
        w * ((a[:, None, s] - b[None, :, s]) ** 2).sum(-1)
        for w, s in zip(WEIGHTS.bends, (slice(0, 3), slice(3, 7)), strict=True)
    )
    r = np.sqrt(5 * gap)
    linear = 0.7 * a[:, :3] @ b[:, :3].T + 0.2 * a[:, 3:] @ b[:, 3:].T
    return 1 + linear + 0.4 * (1 + r + r**2 / 3) * np.exp(-r)


def test_posterior_by_the_book(data, monkeypatch) -> None:
    monkeypatch.setattr(gp_answers, "PIECE", 3)
    x, y = data
    gp = BlockGP((3, 4)).fit(x[:30], y[:30], weights=WEIGHTS)
    a, b = x[:30] - x[:30].mean(axis=0), x[30:] - x[:30].mean(axis=0)
    level, spread = y[:30].mean(), y[:30].std()
    inverse = np.linalg.inv(kernel(a, a) + 0.05 * np.eye(30))
    mean = level + spread * kernel(b, a) @ inverse @ ((y[:30] - level) / spread)
    cov = spread**2 * (kernel(b, b) - kernel(b, a) @ inverse @ kernel(a, b))
    got_mean, got_std = gp.predict(x[30:])
    np.testing.assert_allclose(got_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(got_std, np.sqrt(np.diag(cov)), rtol=1e-5)
    noisy = gp.predict(x[30:], noise=True)[1]
    np.testing.assert_allclose(noisy**2, got_std**2 + 0.05 * spread**2, rtol=1e-6)
    draws = gp.sample(x[30:], 20_000, np.random.default_rng(0))  # 20,000 draws: 0.7 % deviation of a deviation
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.05 * np.diag(cov).max())
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.05 * np.sqrt(np.diag(cov).max()))


def test_evidence_is_the_density_of_the_labels(data) -> None:
    x, y = data
    gp = BlockGP((3, 4)).fit(x, y, weights=WEIGHTS)
    a = x - x.mean(axis=0)
    cov = y.std() ** 2 * (kernel(a, a) + 0.05 * np.eye(len(x)))
    assert gp.evidence == pytest.approx(multivariate_normal(np.full(len(x), y.mean()), cov).logpdf(y), rel=1e-6)


def test_leave_one_out_is_refitting(data) -> None:
    x, y = data
    error, std = BlockGP((3, 4)).fit(x, y, weights=WEIGHTS).leave_one_out()
    a, spread = x - x.mean(axis=0), y.std()
    t = (y - y.mean()) / spread
    for i in range(0, len(x), 7):
        kept = np.arange(len(x)) != i
        inverse = np.linalg.inv(kernel(a[kept], a[kept]) + 0.05 * np.eye(len(x) - 1))
        cross = kernel(a[i : i + 1], a[kept])
        assert error[i] == pytest.approx(spread * (t[i] - (cross @ inverse @ t[kept])[0]), rel=1e-5)
        variance = kernel(a[i : i + 1], a[i : i + 1]) - cross @ inverse @ cross.T + 0.05
        assert std[i] == pytest.approx(spread * np.sqrt(variance[0, 0]), rel=1e-5)


@pytest.mark.parametrize(("linear", "smooth"), [(True, True), (True, False), (False, True)])
def test_choice_is_a_maximum(data, linear, smooth) -> None:
    """No small step of any hyperparameter raises the posterior density: the gradient must have been right."""
    x, y = data
    gp = BlockGP((3, 4), linear=linear, smooth=smooth, iterations=300).fit(x, y)
    prior = np.log(np.array([0.5, 0.5, 0.3, 0.25, 0.25, 0.02]))
    best = gp.weights.vector()

    def density(vector: np.ndarray) -> float:
        on = vector > 0
        penalty = 0.5 * (((np.log(vector[on]) - prior[on]) / 1.5) ** 2).sum()
        return BlockGP((3, 4), linear=linear, smooth=smooth).fit(x, y, weights=Weights.of(vector)).evidence - penalty

    top = density(best)
    for i in np.flatnonzero(best):
        if i in (3, 4) and not smooth:
            continue
        for factor in (0.8, 1.25):
            other = best.copy()
            other[i] *= factor
            assert density(other) < top + 1e-4


def test_blocks_that_matter_get_the_weight() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 20)) / np.sqrt(10)
    y = x[:, :10] @ rng.normal(size=10) + 0.05 * rng.normal(size=120)
    gp = BlockGP((10, 10)).fit(x, y)
    assert gp.weights.linear[0] > 10 * gp.weights.linear[1]
    assert gp.noise_std == pytest.approx(0.05, rel=0.3)  # 110 degrees of freedom: 7 % deviation


def test_known_noise_is_believed() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 3))
    std = np.where(np.arange(100) < 50, 0.02, 1.0)
    truth = x @ np.array([1.0, -1.0, 0.5])
    y = truth + std * rng.normal(size=100)
    new = rng.normal(size=(200, 3))
    target = new @ np.array([1.0, -1.0, 0.5])
    known = BlockGP((3,), smooth=False).fit(x, y, noise_std=std).predict(new)[0] - target
    unknown = BlockGP((3,), smooth=False).fit(x, y).predict(new)[0] - target
    assert np.abs(known).mean() < 0.3 * np.abs(unknown).mean()
    partly = np.where(std < 0.5, np.nan, std)  # NaN: only the learned noise
    assert np.abs(BlockGP((3,), smooth=False).fit(x, y, noise_std=partly).predict(new)[0] - target).mean() < 0.05
    scaled = BlockGP((3,), smooth=False).fit(x, y, noise_scale=std**2).predict(new)[0] - target
    assert np.abs(scaled).mean() < 0.3 * np.abs(unknown).mean()


def test_robust_ignores_outliers_and_leaves_normal_noise_alone() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 4))
    truth = x @ np.array([1.0, 2.0, -1.0, 0.0])
    normal = truth + 0.1 * rng.normal(size=100)
    spoiled = normal.copy()
    spoiled[::12] += 6.0
    new = rng.normal(size=(300, 4))
    target = new @ np.array([1.0, 2.0, -1.0, 0.0])

    def error(y: np.ndarray, robust: bool) -> float:
        return float(np.abs(BlockGP((4,), robust=robust).fit(x, y).predict(new)[0] - target).mean())

    assert error(spoiled, True) < 0.4 * error(spoiled, False)
    assert error(normal, True) < 1.2 * error(normal, False)


def test_large_data_uses_some_rows_for_the_choice_and_all_for_the_answer() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 5))
    y = x @ np.arange(5.0) + 0.1 * rng.normal(size=400)
    few = BlockGP((5,), rows=50).fit(x, y)
    assert len(few.leave_one_out()[0]) == 400
    np.testing.assert_array_equal(few.predict(x)[0], BlockGP((5,), rows=50).fit(x, y).predict(x)[0])


def test_odd_labels() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    for y in (np.full(6, 3.0), np.zeros(6), np.array([1.0] * 5 + [1e9])):
        mean, std = BlockGP((2,), robust=True).fit(x, y).predict(x)
        assert np.isfinite(mean).all() and np.isfinite(std).all()
    mean, _ = BlockGP((2,)).fit(x[:1], np.array([4.0])).predict(x)
    np.testing.assert_allclose(mean, 4.0)
    mean, _ = BlockGP((2,)).fit(np.repeat(x[:1], 5, axis=0), np.arange(5.0)).predict(x[:1])
    assert mean[0] == pytest.approx(2.0, abs=0.1)


def test_restore(data) -> None:
    x, y = data
    gp = BlockGP((3, 4), robust=True).fit(x, y)
    again = BlockGP.restore(gp.arrays(), gp.settings())
    for a, b in zip(gp.predict(x), again.predict(x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.evidence == gp.evidence and again.noise_std == gp.noise_std


def test_errors(data) -> None:
    x, y = data
    with pytest.raises(ValueError, match=r"widths must list at least one positive block width, but got \[0\]"):
        BlockGP((0,))
    with pytest.raises(ValueError, match="must have a linear or a smooth part"):
        BlockGP((1,), linear=False, smooth=False)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 7\), but got \(40, 5\)"):
        BlockGP((3, 4)).fit(x[:, :5], y)
    with pytest.raises(ValueError, match=r"y must have shape \(40,\) with at least one row, but got \(39,\)"):
        BlockGP((3, 4)).fit(x, y[:39])
    with pytest.raises(ValueError, match="x and y must be finite"):
        BlockGP((3, 4)).fit(x, np.where(np.arange(40) == 3, np.nan, y))
    with pytest.raises(RuntimeError, match="must be fitted before it is used"):
        BlockGP((3, 4)).predict(x)
