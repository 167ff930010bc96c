"""How good a predictor is on architectures it has not seen: errors, ranks, regret and honesty of its deviations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import kendalltau, spearmanr

from predictors.base import FloatArray, Prediction, Predictor, check_fit_data, check_stds
from search_spaces.space import Population

TOP_K = (1, 5, 10)


@dataclass(frozen=True)
class Report:
    """Quality of predictions on n held-out values; None where it cannot be said.

    mape: mean of |prediction - value| / |value| in percent; None where a value is 0.
    rmse: root mean squared error, in the unit of the values.
    within_5, within_10: share of predictions within 5 and 10 % of the value; None where a value is 0.
    kendall, spearman: rank correlations (tau-b, rho); None where either side is constant.
    regret: k -> (best value among the k predicted best - best value), in the unit of the values; see `minimize`.
    coverage: share of values inside the `level` interval of the normal with the predicted mean and deviation.
    level: of that interval.
    rmse_noise: root mean square of the known standard errors of the values: no predictor is expected below it.
    """

    n: int
    unit: str
    minimize: bool
    mape: float | None
    rmse: float
    within_5: float | None
    within_10: float | None
    kendall: float | None
    spearman: float | None
    regret: Mapping[int, float]
    coverage: float | None
    level: float = 0.9
    rmse_noise: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON-able dict."""
        return {**asdict(self), "regret": {str(k): v for k, v in self.regret.items()}}

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Report:
        """Returns the report that `to_dict` wrote."""
        known = {f.name: source[f.name] for f in fields(cls) if f.name in source}
        return cls(**{**known, "regret": {int(k): float(v) for k, v in source["regret"].items()}})

    def text(self) -> str:
        """Returns a few lines for a terminal."""

        def show(value: float | None, form: str) -> str:
            return "-" if value is None else format(value, form)

        unit = f" {self.unit}" if self.unit else ""
        regret = ", ".join(f"{value:.4g}{unit} of {k}" for k, value in self.regret.items())
        noise = "" if self.rmse_noise is None else f" (noise of the values {self.rmse_noise:.4g}{unit})"
        return "\n".join(
            [
                f"held-out rows   {self.n}",
                f"MAPE            {show(self.mape, '.2f')} %",
                f"RMSE            {self.rmse:.4g}{unit}{noise}",
                f"within 5 / 10 % {show(self.within_5, '.0%')} / {show(self.within_10, '.0%')}",
                f"Kendall tau     {show(self.kendall, '.3f')}",
                f"Spearman rho    {show(self.spearman, '.3f')}",
                f"regret of top   {regret}",
                f"{self.level:.0%} intervals   cover {show(self.coverage, '.0%')}",
            ]
        )


def report(
    prediction: Prediction,
    values: FloatArray,
    *,
    unit: str = "",
    minimize: bool = True,
    level: float = 0.9,
    stds: FloatArray | None = None,
) -> Report:
    """Returns how good predictions of held-out values are.

    Args:
        prediction: of n architectures.
        values: (n,) measured, finite.
        unit: of the values.
        minimize: whether small values are the good ones, for the regret.
        level: of the intervals whose coverage is reported, in (0, 1).
        stds: (n,) known standard errors of the values, NaN = unknown.

    Raises:
        ValueError: no rows, shapes that differ, values that are not finite, level outside (0, 1).
    """
    mean, values = (np.asarray(prediction.mean, dtype=np.float64), np.asarray(values, dtype=np.float64))
    if mean.shape != values.shape or mean.ndim != 1:
        raise ValueError(f"predictions and values must have one shape (n,), but got {mean.shape} and {values.shape}.")
    if len(values) == 0:
        raise ValueError("a report must have at least one held-out row, but got none.")
    if not (np.isfinite(values).all() and np.isfinite(mean).all()):
        raise ValueError("predictions and values must be finite.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but got {level}.")
    error = np.abs(mean - values)
    share = error / np.abs(values) if (values != 0).all() else None
    ranked = len(values) > 1 and np.ptp(mean) > 0 and np.ptp(values) > 0
    sign = 1.0 if minimize else -1.0
    order = np.argsort(sign * mean, kind="stable")
    losses = sign * values
    exact = not (np.asarray(prediction.std) > 0).any()
    half = float(ndtri(0.5 + level / 2)) * np.asarray(prediction.std)
    known = check_stds(stds, len(values))
    return Report(
        n=len(values),
        unit=unit,
        minimize=minimize,
        mape=None if share is None else float(100 * share.mean()),
        rmse=float(np.sqrt((error**2).mean())),
        within_5=None if share is None else float((share <= 0.05).mean()),
        within_10=None if share is None else float((share <= 0.10).mean()),
        kendall=float(kendalltau(mean, values).statistic) if ranked else None,
        spearman=float(spearmanr(mean, values).statistic) if ranked else None,
        regret={k: float(losses[order[:k]].min() - losses.min()) for k in TOP_K if k <= len(values)},
        coverage=None if exact else float((error <= half).mean()),
        level=level,
        rmse_noise=None if np.isnan(known).all() else float(np.sqrt(np.nanmean(known**2))),
    )


def folds(n: int, k: int, *, seed: int = 0) -> NDArray[np.intp]:
    """Returns the fold (n,) in 0..k-1 of each row: a random order dealt round, so that sizes differ by at most one.

    Raises:
        ValueError: k not between 2 and n.
    """
    if not 2 <= k <= n:
        raise ValueError(f"the number of folds must be between 2 and the {n} rows, but got {k}.")
    fold = np.empty(n, dtype=np.intp)
    fold[np.random.default_rng([seed, n, k]).permutation(n)] = np.arange(n) % k
    return fold


def cross_predict(
    make: Callable[[], Predictor],
    population: Population,
    values: FloatArray,
    *,
    k: int = 5,
    seed: int = 0,
    stds: FloatArray | None = None,
) -> Prediction:
    """Returns a prediction of every row (n,) by a predictor that was fitted without its fold.

    Args:
        make: returns a new predictor, unfitted.
        population: (n, g); rows that are equal share a fold, so that a repeat never predicts itself.
        values: (n,).
        k: number of folds, lowered to the number of distinct rows.
        seed: of the folds.
        stds: as for `Predictor.fit`.

    Raises:
        ValueError: fewer than 4 distinct rows, or what `Predictor.fit` refuses.
    """
    space = make().space
    rows, values = check_fit_data(space, population, values)
    _, group = np.unique(rows, axis=0, return_inverse=True)
    n_groups = int(group.max()) + 1
    if n_groups < 4:
        raise ValueError(f"cross-validation must have at least 4 distinct rows, but got {n_groups}.")
    fold = folds(n_groups, min(k, n_groups // 2), seed=seed)[group.ravel()]
    mean, std = np.empty(len(rows)), np.empty(len(rows))
    for i in range(int(fold.max()) + 1):
        test = fold == i
        train_stds = None if stds is None else np.asarray(stds)[~test]
        if np.ptp(values[~test]) == 0:  # nothing to learn in this fold: its constant is the honest answer
            mean[test], std[test] = values[~test][0], 0.0
            continue
        prediction = make().fit(rows[~test], values[~test], stds=train_stds).predict(rows[test])
        mean[test], std[test] = prediction.mean, prediction.std
    return Prediction(mean, std)


def cross_validate(
    make: Callable[[], Predictor],
    population: Population,
    values: FloatArray,
    *,
    k: int = 5,
    seed: int = 0,
    unit: str = "",
    minimize: bool = True,
    stds: FloatArray | None = None,
) -> Report:
    """Returns the report of `cross_predict`'s answers; arguments as there and as for `report`."""
    prediction = cross_predict(make, population, values, k=k, seed=seed, stds=stds)
    return report(prediction, np.asarray(values, dtype=np.float64), unit=unit, minimize=minimize, stds=stds)
