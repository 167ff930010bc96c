"""Gradient-boosted trees (LightGBM), kept in the library's own text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.model import FeatureModel
from predictors.regression import HeldOut, Regressor, Sample, fold_of, precision_weights
from search_spaces.space import SearchSpace

SETTINGS: Mapping[str, Any] = {
    "objective": "regression",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 4,
    "min_sum_hessian_in_leaf": 1e-3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.7,
    "lambda_l2": 0.1,
    "min_data_in_bin": 1,
    "feature_pre_filter": False,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


class TreesRegressor(Regressor):
    """The mean of k boosters, each fitted without one fold: what it says of that fold is its held-out answer.

    The deviation joins the boosters' spread and that of the held-out errors.

    Args:
        rounds: trees per booster.
        k: number of folds and boosters.
    """

    kind = "trees"

    def __init__(self, *, rounds: int = 300, k: int = 5) -> None:
        if rounds < 1 or k < 2:
            raise ValueError(f"rounds must be at least 1 and k at least 2, but got {rounds} and {k}.")
        self.rounds, self.k = rounds, k
        self._boosters: list[Any] = []
        self._arrays: dict[str, NDArray[Any]] = {}

    def fit(self, sample: Sample) -> TreesRegressor:
        """Returns self, fitted."""
        import lightgbm

        fold = fold_of(sample.group, self.k)
        level, spread = float(sample.y.mean()), max(float(sample.y.std()), 1e-300)
        weight = precision_weights(sample.stds, sample.y) * sample.weight
        held = np.full(len(sample), level)
        self._boosters = []
        for i in range(int(fold.max()) + 1):
            kept = fold != i
            if kept.sum() < 2:
                kept = np.ones(len(sample), dtype=bool)
            data = lightgbm.Dataset(sample.x[kept], (sample.y[kept] - level) / spread, weight=weight[kept])
            # With a handful of rows no leaf may hold four of them.
            few = {"min_data_in_leaf": max(1, min(4, int(kept.sum()) // 8))}
            booster = lightgbm.train({**SETTINGS, **few}, data, num_boost_round=self.rounds)
            self._boosters.append(booster)
            if (~kept).any():
                held[~kept] = level + spread * np.asarray(booster.predict(sample.x[~kept]))
        error = float(np.sqrt(((held - sample.y) ** 2).mean()))
        self._arrays = {"held_mean": held, "scalars": np.array([level, spread, error])}
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        level, spread, error = (float(v) for v in self._arrays["scalars"])
        if len(x) == 0:
            return np.zeros(0), np.zeros(0)
        answers = np.stack([booster.predict(x, num_threads=1) for booster in self._boosters])
        return level + spread * answers.mean(axis=0), np.hypot(spread * answers.std(axis=0), error)

    def held_out(self) -> HeldOut:
        """Returns what each booster says of the fold it has not seen."""
        held = self._arrays["held_mean"]
        return HeldOut(held, np.full(len(held), float(self._arrays["scalars"][2])))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the boosters' texts as bytes, and the scales."""
        texts = {
            f"booster.{i}": np.frombuffer(booster.model_to_string().encode(), dtype=np.uint8)
            for i, booster in enumerate(self._boosters)
        }
        return {**self._arrays, **texts}

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments and the number of boosters."""
        return {"rounds": self.rounds, "k": self.k, "boosters": len(self._boosters)}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> TreesRegressor:
        """Returns the fitted regressor."""
        import lightgbm

        model = cls(rounds=settings["rounds"], k=settings["k"])
        model._arrays = {name: arrays[name] for name in ("held_mean", "scalars")}
        for i in range(int(settings["boosters"])):
            model._boosters.append(lightgbm.Booster(model_str=arrays[f"booster.{i}"].tobytes().decode()))
        return model


class BoostedTrees(FeatureModel):
    """Gradient-boosted trees as a predictor; see `TreesRegressor`.

    Args:
        space: of the populations.
        rounds: trees per booster.
        sets, target, layers, batch, features: see `FeatureModel`.
    """

    kind = "trees"
    regressor_class = TreesRegressor
    default_sets = ("ordinal", "one_hot")

    def __init__(
        self,
        space: SearchSpace,
        *,
        rounds: int = 300,
        sets: Sequence[str] | None = None,
        target: Target = "raw",
        layers: LayerFunction | None = None,
        batch: int = 1,
        features: Features | None = None,
    ) -> None:
        super().__init__(
            space, sets=sets, target=target, layers=layers, batch=batch, features=features, options={"rounds": rounds}
        )
