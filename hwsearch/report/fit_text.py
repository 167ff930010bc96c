"""The validation report of a predictor, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictors.validation import Report

WORTH_A_LOOK = 4.0


def fit_text(content: Mapping[str, Any]) -> str:
    """Returns the report as lines of one column each.

    Args:
        content: of `commands.fit.fit`.
    """
    unit = f" {content['unit']}" if content["unit"] else ""
    where = f" on {content['device']}" if content["device"] else ""
    repeats = "" if content["n_labels"] == content["n_rows"] else f" ({content['n_labels']} labels, averaged)"
    left = f"; {content['unlabelled']} rows without a label" if content["unlabelled"] else ""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in content["parts"].items() if share >= 0.005)
    lines = [
        f"{content['metric']}{where}: {content['n_rows']} architectures{repeats}{left}",
        f"model           {content['model']}{f': {shares}' if shares else ''}",
    ]
    if content["report"] is None:
        lines.append("held-out rows   - (cross-validation needs 4 architectures)")
    else:
        lines += Report.from_dict(content["report"]).text().splitlines()
    lines.append(f"noise of labels {_noise(content['noise'], content['report'], unit)}")
    if content["runs"] is not None:
        lines.append(f"measuring runs  {_runs(content['runs'])}")
    if content["curve"]:
        points = [f"{p['rows']}: {_error(p, unit)}" for p in content["curve"]]
        lines.append(f"learning curve  {', '.join(points)}")
    odd = sorted((s for s in content["stages"] if abs(s["z"]) >= WORTH_A_LOOK), key=lambda s: -abs(s["z"]))
    if content["stages"]:
        lines.append(f"stages          {'; '.join(map(_stage, odd[:5])) or 'no systematic residuals'}")
    return "\n".join(lines)


def _noise(noise: Mapping[str, Any] | None, report: Mapping[str, Any] | None, unit: str) -> str:
    if noise is None and report is not None and report["rmse_noise"] is not None:
        return f"{report['rmse_noise']:.4g}{unit} by their own standard errors"
    if noise is None:
        return "not known (no architecture was measured twice)"
    relative = "" if noise["mape"] is None else f", {noise['mape']:.2f} %"
    tau = "" if noise["kendall"] is None else f", Kendall tau of two labels {noise['kendall']:.3f}"
    return f"{noise['std']:.4g}{unit}{relative} from {noise['architectures']} architectures measured again{tau}"


def _runs(runs: Mapping[str, Any]) -> str:
    if not runs["shared_percent"]:
        return f"{runs['n']}, labels of one are no more alike than others"
    shared = f"{runs['shared_percent']:.2f} %"
    return f"{runs['n']}, labels of one share {shared}, which is taken off; intervals are of another session"


def _error(point: Mapping[str, Any], unit: str) -> str:
    return f"{point['rmse']:.4g}{unit}" if point["mape"] is None else f"{point['mape']:.2f} %"


def _stage(line: Mapping[str, Any]) -> str:
    return f"{line['gene']}={line['value']} {line['mean']:+.1%} (n {line['n']}, z {line['z']:+.1f})"
