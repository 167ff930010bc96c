"""Learning-rate schedule: linear warm-up, then half a cosine."""

from __future__ import annotations

from math import cos, pi


def rate_factor(done: float, warmup: float) -> float:
    """Returns the factor in [0, 1] on the peak learning rate.

    (done / warmup) while done < warmup, then (1 + cos(pi (done - warmup) / (1 - warmup))) / 2.
    Source: SGDR (Loshchilov and Hutter 2017), eq. 5, one period, minimum 0.

    Args:
        done: share of the training that is over at the middle of the step, in [0, 1].
        warmup: share of the training that is warm-up, in [0, 1).
    """
    if done < warmup:
        return done / warmup
    return (1.0 + cos(pi * (min(done, 1.0) - warmup) / (1.0 - warmup))) / 2.0
