"""What labels of one measuring run have in common, found in held-out residuals: it is not the architecture's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from predictors.auto import Auto
from predictors.base import FloatArray, Predictor
from predictors.model import FeatureModel
from predictors.transfer import Transfer

LEAST_RUNS = 4
"""With fewer, what runs differ by is not told from chance."""


@dataclass(frozen=True)
class RunEffects:
    """Relative errors of labels, taken apart.

    Args:
        n_runs: measuring runs.
        shared_std: deviation of what all labels of a run share.
        own_std: deviation of the rest: one label's own noise, and what the predictor does not know.
        shift: (n,) what each label's run probably shares, as a share of the label.
    """

    n_runs: int
    shared_std: float
    own_std: float
    shift: FloatArray


def run_effects(residuals: FloatArray, runs: NDArray[np.intp]) -> RunEffects | None:
    """Returns the variance components of held-out residuals; None where there are too few runs or repeats in them.

    Method of moments for unbalanced groups (Searle, Casella and McCulloch 1992, Variance Components, section 3.6);
    a run's shift is the mean of its residuals, shrunk by the components (the best linear unbiased predictor, ibid.
    section 7.4).

    Args:
        residuals: (n,) of labels, (label - held-out answer) / answer.
        runs: (n,) number of each label's run.
    """
    names, member = np.unique(runs, return_inverse=True)
    count = np.bincount(member).astype(np.float64)
    n, n_runs = len(residuals), len(names)
    if n_runs < LEAST_RUNS or n - n_runs < LEAST_RUNS:
        return None
    means = np.bincount(member, weights=residuals) / count
    overall = float(residuals.mean())
    within = float(((residuals - means[member]) ** 2).sum() / (n - n_runs))
    between = float((count * (means - overall) ** 2).sum() / (n_runs - 1))
    usual = (n - float((count**2).sum()) / n) / (n_runs - 1)
    shared = max(0.0, (between - within) / usual)
    trust = shared / np.maximum(shared + within / count, 1e-300)
    return RunEffects(n_runs, float(np.sqrt(shared)), float(np.sqrt(within)), (trust * (means - overall))[member])


def can_widen(predictor: Predictor) -> TypeGuard[Auto | FeatureModel | Transfer]:
    """Whether a predictor's deviations can be widened: those of this package; a third party's says what it says."""
    return isinstance(predictor, Auto | FeatureModel | Transfer)


def widen(predictor: Predictor, factor: float) -> None:
    """Multiplies a fitted predictor's deviations, and with them its intervals, by a factor, see `can_widen`."""
    if can_widen(predictor):
        predictor.stretch_ *= factor
