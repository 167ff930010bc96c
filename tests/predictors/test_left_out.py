"""What an average over hyperparameters says without a row: as fits without it, and honest where draws are few."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.gaussian_process import GPRegressor
from predictors.gp import BlockGP, Weights
from predictors.left_out import left_out
from predictors.regression import Sample


def example(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two blocks of features, of which the first matters."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)) / np.sqrt([3, 3, 3, 4, 4, 4, 4])
    return x, 5 + 2 * x[:, 0] - x[:, 1] + np.sin(2 * x[:, 4]) + 0.1 * rng.normal(size=n)


def test_one_process_answers_for_itself() -> None:
    x, y = example(20)
    gp = BlockGP((3, 4)).fit(x, y)
    error, std = gp.leave_one_out()
    held = left_out([gp, gp], y)
    np.testing.assert_allclose(held.mean, y - error)
    np.testing.assert_allclose(held.std, std)


def test_draws_that_a_row_alone_made_probable_count_less_without_it() -> None:
    x, y = example(20)
    y[7] += 3.0
    calm = Weights(np.array([1.0, 0.1]), 0.3, np.array([0.1, 0.1]), 0.02)
    noisy = Weights(np.array([1.0, 0.1]), 0.3, np.array([0.1, 0.1]), 2.0)
    processes = [BlockGP((3, 4)).fit(x, y, weights=w) for w in (calm, noisy)]
    (calm_error, _), (noisy_error, _) = (p.leave_one_out() for p in processes)
    assert abs(calm_error[7] - noisy_error[7]) > 0.02  # the row tells the two apart ...
    held = left_out(processes, y)
    share = (y[7] - held.mean[7] - noisy_error[7]) / (calm_error[7] - noisy_error[7])
    assert share > 0.7  # ... and says "noisy" by itself: without it the calm one counts, up to the cut at sqrt(2) of 2


def test_it_is_what_refits_without_a_row_say() -> None:
    x, y = example(18, seed=3)
    model = GPRegressor(draws=24).fit(Sample.of(x, y, widths=(3, 4)))
    some = np.arange(0, 18, 2)
    mean, std = np.empty(len(some)), np.empty(len(some))
    for k, i in enumerate(some):
        rest = np.delete(np.arange(18), i)
        again = GPRegressor(draws=24).fit(Sample.of(x[rest], y[rest], widths=(3, 4)))
        (mean[k],), (std[k],) = again.predict(x[[i]])
    held, seen = model.held_out(), model.predict(x)[0]
    error = np.abs(mean - y[some]).mean()
    assert np.abs(held.mean - y)[some].mean() == pytest.approx(error, rel=0.25)
    assert np.abs(seen - y)[some].mean() < 0.6 * error  # what it says of rows that it has seen is no measure
    assert np.abs(held.mean[some] - mean).mean() < 0.3 * error
    assert held.std[some].mean() == pytest.approx(std.mean(), rel=0.25)


def test_repeats_of_an_architecture_are_left_out_together() -> None:
    x, y = example(12)
    twice = np.concatenate([x, x]), np.concatenate([y, y])
    sample = Sample.of(*twice, widths=(3, 4))
    alone = GPRegressor().fit(sample).held_out()
    together = Sample(sample.x, sample.y, sample.widths, sample.stds, sample.weight, np.tile(np.arange(12), 2))
    honest = GPRegressor().fit(together).held_out()
    assert np.abs(alone.mean - twice[1]).mean() < 0.3 * np.abs(honest.mean - twice[1]).mean()
