"""The figures of a report as PNG and SVG, for papers; drawn from the same content as the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

Draw = Callable[[Any], None]


def figures(content: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns file name -> picture, each figure as PNG and as SVG.

    Args:
        content: of `html.content.content`.
    """
    from matplotlib.figure import Figure  # and not pyplot, which is slow to import and keeps global state

    written = {}
    for name, draw in _drawings(content).items():
        figure = Figure(figsize=(5.6, 4.0), layout="constrained")
        draw(figure.subplots())
        for form in ("png", "svg"):
            buffer = io.BytesIO()
            # No date: the same run gives the same file.
            figure.savefig(buffer, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
            written[f"{name}.{form}"] = buffer.getvalue()
    return written


def _drawings(content: Mapping[str, Any]) -> dict[str, Draw]:
    drawings: dict[str, Draw] = {}
    first, *others = content["objectives"]
    for other in others or [first]:
        drawings[f"front-{_file(other['name'])}"] = lambda axis, o=other: _front(axis, content, o, first)  # type: ignore[misc]
    if content["hypervolume"] is not None:
        drawings["hypervolume"] = lambda axis: _hypervolume(axis, content["hypervolume"])
    for name, found in content["effects"].items():
        drawings[f"genes-{_file(name)}"] = lambda axis, n=name, f=found: _genes(axis, n, f)  # type: ignore[misc]
    for predictor in content["predictors"]:
        if predictor["held_out"] is not None:
            drawings[f"predictor-{_file(predictor['name'])}"] = lambda axis, p=predictor: _predictor(axis, p)  # type: ignore[misc]
    for device, found in content["stability"].items():
        drawings[f"stability-{_file(device)}"] = lambda axis, d=device, f=found: _stability(axis, d, f)  # type: ignore[misc]
    return drawings


def _file(name: str) -> str:
    return name.replace("@", "-").replace("/", "-")


def axis_label(objective: Mapping[str, Any]) -> str:
    """Returns name and unit of an objective, for an axis."""
    return f"{objective['name']} [{objective['unit']}]" if objective["unit"] else str(objective["name"])


def _front(axis: Any, content: Mapping[str, Any], x: Mapping[str, Any], y: Mapping[str, Any]) -> None:
    values = content["trials"]["values"]
    pairs = [(a, b) for a, b in zip(values[x["name"]], values[y["name"]], strict=True) if None not in (a, b)]
    axis.scatter(*zip(*pairs, strict=True) if pairs else ([], []), s=8, c="0.75", lw=0, rasterized=True, label="trials")
    for sparse, marker, kind in ((False, "o", "front, dense"), (True, "D", "front, sparse")):
        chosen = [
            m
            for m in content["members"]
            if m["sparse"] == sparse and None not in (m["values"].get(x["name"]), m["values"].get(y["name"]))
        ]
        if chosen:
            axis.errorbar(
                [m["values"][x["name"]] for m in chosen],
                [m["values"][y["name"]] for m in chosen],
                xerr=[m["stds"].get(x["name"]) or 0.0 for m in chosen],
                yerr=[m["stds"].get(y["name"]) or 0.0 for m in chosen],
                fmt=marker,
                ms=5,
                lw=1,
                label=kind,
            )
    axis.set(xlabel=axis_label(x), ylabel=axis_label(y))
    axis.grid(alpha=0.3)
    axis.legend()


def _hypervolume(axis: Any, found: Mapping[str, Any]) -> None:
    axis.plot(found["at"], found["found"], label="this run")
    if "alike" in found:
        axis.plot(found["at"], found["alike"], "--", c="C0", label="this run, as predicted")
    if "random" in found:
        band = found["random"]
        axis.fill_between(band["at"], band["low"], band["high"], color="0.8", lw=0)
        axis.plot(band["at"], band["middle"], c="0.4", label=f"random, {found['kind']}")
    axis.set(xlabel="trials", ylabel="hypervolume (share of the box)")
    axis.grid(alpha=0.3)
    axis.legend()


def _genes(axis: Any, name: str, found: Mapping[str, Any]) -> None:
    shares = dict(list(found["shares"].items())[:12])
    axis.barh(list(shares), list(shares.values()))
    axis.invert_yaxis()
    axis.set(xlabel="share of the variance", title=f"{name} (additive model, R2 {found['r2']:.2f})")


def _predictor(axis: Any, predictor: Mapping[str, Any]) -> None:
    held = predictor["held_out"]
    axis.errorbar(held["value"], held["mean"], yerr=held["std"], fmt="o", ms=3, lw=0.5, alpha=0.6)
    ends = [min(held["value"]), max(held["value"])]
    axis.plot(ends, ends, "--", c="0.4")
    axis.set(xlabel=f"measured {axis_label(predictor)}", ylabel="predicted, held out")
    axis.grid(alpha=0.3)


def _stability(axis: Any, device: str, found: Mapping[str, Any]) -> None:
    for key, label in (
        ("drift", "reference net against its first timing"),
        ("spread", "standard error of the latency"),
    ):
        pairs = [(i, v) for i, v in zip(found["index"], found[key], strict=True) if v is not None]
        if pairs:
            axis.plot(*zip(*pairs, strict=True), ".", label=label)
    axis.set(xlabel="trial", ylabel="%", title=device)
    axis.grid(alpha=0.3)
    axis.legend()
