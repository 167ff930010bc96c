"""Auto: chooses features, target and model by held-out errors, within a stated time, and stacks what is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from predictors.base import (
    FloatArray,
    LayerFunction,
    Prediction,
    Predictor,
    ScoreFunction,
    Sources,
    State,
    Target,
    check_fit_data,
    check_stds,
    not_fitted,
)
from predictors.features import COST_SETS, SCORES, Features
from predictors.gaussian_process import GaussianProcess
from predictors.model import FeatureModel, calibrate, quantile
from predictors.non_negative import NonNegative
from predictors.regression import HeldOut
from predictors.ridge import Ridge
from predictors.stacking import nested_mean, stack_weights
from predictors.threads import one_thread
from predictors.trees import BoostedTrees
from search_spaces.space import Population, SearchSpace

FEW_GENES = 16


@dataclass(frozen=True)
class Candidate:
    """A model that `Auto` may use.

    Args:
        name: in reports and files.
        model: class of the predictor.
        sets: feature sets.
        target: transform of the values.
        options: of the model's constructor.
        rows: (least, most) number of training rows for which it is tried.
        genes: most genes for which it is tried.
    """

    name: str
    model: type[FeatureModel]
    sets: tuple[str, ...]
    target: Target = "raw"
    options: tuple[tuple[str, Any], ...] = ()
    rows: tuple[int, int] = (0, 10**9)
    genes: int = 10**9


COSTS = ("costs", "roofline", "one_hot", "ordinal")
CANDIDATES: tuple[Candidate, ...] = (
    # With scores of the networks.
    Candidate("gp scores", GaussianProcess, ("counts", SCORES)),
    Candidate("gp costs scores", GaussianProcess, (*COSTS, SCORES)),
    # With layer costs.
    Candidate("gp costs", GaussianProcess, COSTS),
    Candidate("gp costs log", GaussianProcess, COSTS, "log"),
    Candidate("non-negative costs", NonNegative, ("costs", "roofline"), rows=(0, 60)),
    Candidate("gp few costs", GaussianProcess, ("costs",), rows=(0, 300)),
    # From genes alone.
    Candidate("gp counts", GaussianProcess, ("counts",), options=(("smooth", False),)),
    Candidate("gp genes", GaussianProcess, ("genes",), options=(("freedom", 2.5),), genes=FEW_GENES),
    Candidate("gp genes log", GaussianProcess, ("genes",), "log", options=(("freedom", 2.5),), genes=FEW_GENES),
    Candidate("non-negative", NonNegative, ("ordinal", "one_hot"), rows=(0, 100)),
    Candidate("gp smooth counts", GaussianProcess, ("counts", "ordinal")),
    Candidate("gp smooth counts log", GaussianProcess, ("counts", "ordinal"), "log"),
    Candidate("ridge", Ridge, ("counts",)),
    Candidate("trees", BoostedTrees, ("ordinal", "one_hot"), rows=(400, 10**9)),
)


def with_target(target: Target) -> tuple[Candidate, ...]:
    """Returns the same models, each with this target only."""
    there = {(c.model, c.sets, c.options) for c in CANDIDATES if c.target == target}
    return tuple(
        replace(c, target=target)
        for c in CANDIDATES
        if c.target == target or (c.target == "raw" and (c.model, c.sets, c.options) not in there)
    )


class Auto(Predictor):
    """Fits every candidate that suits the data, weighs them by stacking on held-out errors, and keeps those that count.

    The held-out errors of a candidate are exact leave-one-out or k-fold; the weights are chosen on them, and the
    deviations and intervals calibrated on errors of rows that neither a model nor the weights had seen (nested
    cross-validation). Which candidates are tried depends on the number of rows and genes and on `seconds` by a stated
    estimate of their time, not by a clock, so that the same data gives the same predictor.

    Args:
        space: of the populations.
        layers: of the space's networks, for features of costs; None for a space without.
        batch: examples per call, for roofline features.
        scores: of the space's networks, for features of scores; their time is not counted in `seconds`.
        seconds: that the fit may take on one core of about 3 GHz; None for 4 and 1 more per 25 rows, at most 60.
        candidates: to choose from.
    """

    kind = "auto"

    def __init__(
        self,
        space: SearchSpace,
        *,
        layers: LayerFunction | None = None,
        batch: int = 1,
        scores: ScoreFunction | None = None,
        seconds: float | None = None,
        candidates: Sequence[Candidate] = CANDIDATES,
    ) -> None:
        super().__init__(space)
        if seconds is not None and seconds <= 0:
            raise ValueError(f"seconds must be positive, but got {seconds}.")
        self.layers, self.batch, self.scores, self.seconds = layers, batch, scores, seconds
        self.candidates = tuple(
            c
            for c in candidates
            if (layers is not None or not self.needs_costs(c)) and (scores is not None or SCORES not in c.sets)
        )
        if not self.candidates:
            raise ValueError("candidates must hold a model that needs no layer costs where there are none.")
        self.members_: list[FeatureModel] = []
        self.names_: list[str] = []
        self.weights_: FloatArray = np.zeros(0)
        self.stretch_ = 1.0
        self.scores_: FloatArray = np.zeros(0)
        self.errors_: dict[str, float] = {}
        self.held_: Prediction | None = None

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Auto:
        """Returns self, fitted; see `Predictor.fit`."""
        rows, values = check_fit_data(self.space, population, values)
        stds = check_stds(stds, len(rows))
        positive = bool((values > 0).all())
        group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        features: dict[tuple[str, ...], tuple[Features, FloatArray]] = {}
        models: dict[str, FeatureModel] = {}
        with one_thread(len(rows)):
            for candidate in self.suitable(len(rows), positive):
                if candidate.sets not in features:
                    made = Features(
                        self.space, candidate.sets, layers=self.layers, batch=self.batch, scores=self.scores
                    )
                    features[candidate.sets] = (made, made.matrix(rows))
                made, x = features[candidate.sets]
                model = candidate.model(
                    self.space,
                    target=candidate.target,
                    features=made,
                    **dict(candidate.options),
                )
                models[candidate.name] = model.fit_features(x, rows, values, stds)
            held = [model.held_out() for model in models.values()]
            means = np.stack([h.mean for h in held])
            weights = stack_weights(means, values, group, relative=positive)
            outer = nested_mean(means, values, group, relative=positive)
        names = list(models)
        kept = np.flatnonzero(weights)
        self.members_ = [models[names[i]] for i in kept]
        self.names_ = [names[i] for i in kept]
        self.weights_ = weights[kept]
        spread = self.weights_ @ (np.stack([held[i].std for i in kept]) ** 2 + (means[kept] - outer) ** 2)
        error = np.abs(means - values) / (np.abs(values) if positive else 1.0)
        self.errors_ = {name: float(e) for name, e in zip(names, error.mean(axis=1), strict=True)}
        self.stretch_, self.scores_ = calibrate(HeldOut(outer, np.sqrt(spread)), values)
        self.held_ = Prediction(outer, np.sqrt(spread) * self.stretch_)
        return self

    @staticmethod
    def needs_costs(candidate: Candidate) -> bool:
        """Returns whether a candidate's features are made from layer costs."""
        return bool(set(candidate.sets) & set(COST_SETS))

    def suitable(self, n: int, positive: bool) -> list[Candidate]:
        """Returns the candidates for n rows: as many, in order, as the time allows; the first suitable one always."""
        budget = min(60.0, 4.0 + n / 25) if self.seconds is None else self.seconds
        out: list[Candidate] = []
        spent = 0.0
        for candidate in self.candidates:
            fits = candidate.rows[0] <= n <= candidate.rows[1] and self.space.n_genes <= candidate.genes
            if not fits or (candidate.target == "log" and not positive):
                continue
            cost = estimated_seconds(candidate, n, self.space.n_genes)
            if out and spent + cost > budget:
                continue
            out.append(candidate)
            spent += cost
        return out or [self.candidates[0]]

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        if not self.members_:
            raise not_fitted(self)
        answers = [member.predict(population) for member in self.members_]
        means, stds = np.stack([a.mean for a in answers]), np.stack([a.std for a in answers])
        mean = self.weights_ @ means
        variance = self.weights_ @ (stds**2 + (means - mean) ** 2)
        return Prediction(mean, self.stretch_ * np.sqrt(variance))

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns ends, each (n,), from nested held-out errors; see `Predictor.ends`."""
        half = prediction.std * quantile(self.scores_, level)
        return prediction.mean - half, prediction.mean + half

    def held_out(self) -> Prediction:
        """Returns the nested held-out answers of the training rows, each (n,). Only after `fit`, not after loading."""
        if self.held_ is None:
            raise not_fitted(self)
        return self.held_

    def state(self) -> State:
        """Returns what was learned; see `Predictor.state`."""
        if not self.members_:
            raise not_fitted(self)
        arrays: dict[str, Any] = {"weights": self.weights_, "scores": self.scores_}
        members = []
        for i, (name, member) in enumerate(zip(self.names_, self.members_, strict=True)):
            state = member.state()
            arrays |= {f"member{i}/{key}": array for key, array in state.arrays.items()}
            members.append({"name": name, "settings": dict(state.settings)})
        settings = {
            "members": members,
            "stretch": self.stretch_,
            "errors": self.errors_,
            "batch": self.batch,
            "seconds": self.seconds,
        }
        return State(arrays, settings)

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Auto:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        settings: Mapping[str, Any] = state.settings
        model = cls(
            space, layers=sources.layers, scores=sources.scores, batch=settings["batch"], seconds=settings["seconds"]
        )
        known = {candidate.name: candidate.model for candidate in CANDIDATES}
        for i, member in enumerate(settings["members"]):
            prefix = f"member{i}/"
            arrays = {k.removeprefix(prefix): a for k, a in state.arrays.items() if k.startswith(prefix)}
            part = State(arrays, member["settings"])
            model.members_.append(known[member["name"]].from_state(space, part, sources=sources))
            model.names_.append(member["name"])
        model.weights_, model.scores_ = state.arrays["weights"], state.arrays["scores"]
        model.stretch_ = float(settings["stretch"])
        model.errors_ = dict(settings["errors"])
        return model


def estimated_seconds(candidate: Candidate, n: int, n_genes: int) -> float:
    """Returns about how long a candidate's fit takes on one core of 3 GHz; measured in benchmarks/predictors."""
    if candidate.model is GaussianProcess:
        blocks = n_genes if candidate.sets == ("genes",) else 2 + 2 * len(candidate.sets)
        m = min(n, 256)
        per_step = 3e-4 + m * m * (blocks + 4) * 6e-9 + m**3 * 2e-10
        conditioning = 4 * (n**3 * 1.5e-10 + n * n * 1e-7)
        return 90 * per_step + conditioning + (0.3 if n <= 40 else 0.0)
    if candidate.model is NonNegative:
        return 0.05 + n * 2e-3
    if candidate.model is BoostedTrees:
        return 1.0 + n * 2e-3
    return 0.02 + n * 1e-4
