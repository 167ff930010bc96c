"""Static pictures of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from hwsearch.objectives import Objective
from hwsearch.results import State
from hwsearch.study import Study


def front_png(study: Study, content: Mapping[str, Any]) -> bytes:
    """Returns a PNG: the first objective against each other one, all trials and the validated front.

    Args:
        study: all trials.
        content: of `front.json`.
    """
    from matplotlib.figure import Figure  # and not pyplot, which is slow to import and keeps global state

    first, *others = study.objectives
    others = others or [first]
    figure = Figure(figsize=(5.2 * len(others), 4.4), layout="constrained")
    axes = figure.subplots(1, len(others), squeeze=False)
    done = [t for t in study.trials if t.state == State.FINISHED]
    for axis, other in zip(axes[0], others, strict=True):
        shown = [t for t in done if other.name in t.metrics and first.name in t.metrics]
        xs, ys = ([t.metrics[o.name] for t in shown] for o in (other, first))
        axis.scatter(xs, ys, s=12, c="0.7", label="trials")
        _members(axis, content["members"], other, first)
        axis.set_xlabel(_label(other))
        axis.set_ylabel(_label(first))
        counted = other.metric.endswith(("bytes", "_ms")) or other.metric in {"macs", "parameters", "nonzeros"}
        if counted and any(x > 0 for x in xs):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _members(axis: Any, members: Sequence[Mapping[str, Any]], x: Objective, y: Objective) -> None:
    for sparse, marker, label in ((False, "o", "front, dense"), (True, "D", "front, sparse")):
        chosen = [
            m for m in members if is_sparse(m) == sparse and x.name in m["validated"] and y.name in m["validated"]
        ]
        if chosen:
            axis.errorbar(
                [m["validated"][x.name] for m in chosen],
                [m["validated"][y.name] for m in chosen],
                xerr=[m["validated_stds"].get(x.name, 0.0) for m in chosen],
                fmt=marker,
                ms=6,
                lw=1,
                label=label,
            )


def is_sparse(member: Mapping[str, Any]) -> bool:
    """Whether any sparsity gene of a front member is not dense."""
    return any(gene.endswith("sparsity") and value != "dense" for gene, value in member["architecture"].items())


def _label(objective: Objective) -> str:
    return f"{objective.name} [{objective.unit}]" if objective.unit else objective.name
