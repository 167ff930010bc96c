"""BatchNorm in eval mode as scale and shift, to be folded into the convolution before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns scale and shift (channels,) of a BatchNorm with running statistics, computed in double precision."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = (t.detach().cpu().numpy().astype(np.float64) for t in (norm.running_mean, norm.running_var))
    scale = 1.0 / np.sqrt(variance + norm.eps)
    if norm.affine:
        scale *= norm.weight.detach().cpu().numpy()
    shift = -mean * scale
    if norm.affine:
        shift += norm.bias.detach().cpu().numpy()
    return scale, shift
