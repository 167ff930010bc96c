"""The picture of a predictor's validation."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtri

from predictors.base import FloatArray, Prediction


def fit_png(content: Mapping[str, Any], held_out: Prediction | None, values: FloatArray, *, label: str) -> bytes:
    """Returns a PNG: held-out predictions against measured values, the learning curve, residuals by stage.

    Args:
        content: of `Fitted.to_dict`.
        held_out: (n,) predictions; None where there are none.
        values: (n,) measured.
        label: of the values, with their unit.
    """
    from matplotlib.figure import Figure  # and not pyplot, which is slow to import and keeps global state

    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    scatter, curve, stages = figure.subplots(1, 3)
    if held_out is not None:
        _scatter(scatter, held_out, values, label)
    _curve(curve, content)
    _stages(stages, content)
    for axis in (scatter, curve, stages):
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _scatter(axis: Any, held_out: Prediction, values: FloatArray, label: str) -> None:
    half = float(ndtri(0.95)) * held_out.std
    axis.errorbar(values, held_out.mean, yerr=half, fmt="o", ms=3, lw=0.6, alpha=0.7, label="90 % interval")
    ends = [float(min(values.min(), held_out.mean.min())), float(max(values.max(), held_out.mean.max()))]
    axis.plot(ends, ends, c="0.4", lw=1)
    axis.set_xlabel(f"measured {label}")
    axis.set_ylabel("predicted without that row")
    axis.legend(loc="upper left")


def _curve(axis: Any, content: Mapping[str, Any]) -> None:
    points = list(content["curve"])
    report = content["report"]
    if report is not None:
        points.append({"rows": content["n_rows"], "mape": report["mape"], "rmse": report["rmse"]})
    relative = all(p["mape"] is not None for p in points)
    name = "mape" if relative else "rmse"
    axis.plot([p["rows"] for p in points], [p[name] for p in points], marker="o", label="held-out rows")
    noise = content["noise"]
    floor = None if noise is None else noise["mape" if relative else "std"]
    if floor is not None:
        axis.axhline(floor, c="0.4", ls="--", lw=1, label="noise of one label")
        axis.legend(loc="upper right")
    if points:
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
    axis.set_xlabel("rows trained on")
    axis.set_ylabel("MAPE [%]" if relative else "RMSE")


def _stages(axis: Any, content: Mapping[str, Any]) -> None:
    lines = sorted(content["stages"], key=lambda line: abs(line["z"]))[-12:]
    places = np.arange(len(lines))
    axis.barh(places, [line["z"] for line in lines], color=["C1" if abs(line["z"]) > 4 else "0.7" for line in lines])
    axis.set_yticks(places, [f"{line['gene']} = {line['value']}" for line in lines], fontsize=7)
    axis.set_xlabel("mean residual in standard errors")
