"""Pictures of comparisons: how the share of the best front grows with evaluations."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def curve_picture(bands: Mapping[str, NDArray[np.float64]], *, title: str) -> bytes:
    """Returns a PNG: what is missing of the best hypervolume, on a logarithmic axis, median and quartiles.

    Args:
        bands: engine -> (3, n) quartiles and median of the share after 1 ... n evaluations.
        title: of the picture.
    """
    from matplotlib.figure import Figure  # and not pyplot, which is slow to import and keeps global state

    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axis = figure.subplots()
    for name, band in bands.items():
        at = np.arange(1, band.shape[1] + 1)
        low, middle, high = np.maximum(1.0 - band, 1e-5)
        (line,) = axis.plot(at, middle, label=name, lw=1.5)
        axis.fill_between(at, high, low, color=line.get_color(), alpha=0.15, lw=0)
    axis.set_yscale("log")
    axis.set_xlabel("evaluations")
    axis.set_ylabel("1 - share of the best hypervolume")
    axis.set_title(title)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
