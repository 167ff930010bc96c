"""Leave-one-out answers of an average over hyperparameters, by importance weights instead of refits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictors.base import FloatArray
from predictors.gp import BlockGP
from predictors.regression import HeldOut


def left_out(processes: Sequence[BlockGP], labels: FloatArray) -> HeldOut:
    """Returns for each training row, mean and deviation (n,), what the average would say had it not seen the row.

    The processes' hyperparameters were drawn from their posterior given all n rows. Without row i a draw s is as
    probable as with it over p(y_i | other rows, s) (Gelfand, Dey and Chang 1992, importance weights), and its own
    leave-one-out answer is exact (Rasmussen and Williams 2006, eq. 5.12): no process is fitted again, and what is
    judged is the average itself, not a single process that stands for it. Weights are cut off at sqrt(draws) times
    their mean, which keeps their variance finite (Ionides 2008).

    Args:
        processes: the draws, each conditioned on the same rows.
        labels: (n,) of the rows.
    """
    pairs = [process.leave_one_out() for process in processes]
    error, std = np.stack([e for e, _ in pairs]), np.stack([s for _, s in pairs])  # (draws, n)
    unlikely = 0.5 * (error / std) ** 2 + np.log(std)  # minus the log density of the label, without its constant
    weight = np.exp(unlikely - unlikely.max(axis=0))
    weight = np.minimum(weight, np.sqrt(len(weight)) * weight.mean(axis=0))
    weight /= weight.sum(axis=0)
    mean = labels - (weight * error).sum(axis=0)
    away = labels - error - mean
    return HeldOut(mean, np.sqrt((weight * (std**2 + away**2)).sum(axis=0)))
