"""The figure of a comparison: fronts side by side, hypervolume over trials, and the last value of every run."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from hwsearch.report.figures import axis_label

FORMS = (".svg", ".png", ".html")
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 24px auto; padding: 0 16px; }
svg { max-width: 100%; height: auto; background: #fff; } table { border-collapse: collapse; }
th, td { padding: 4px 12px; border-bottom: 1px solid #d0d7de; text-align: left; } :root { color-scheme: light dark; }"""


def comparison_figure(content: Mapping[str, Any], form: str) -> bytes:
    """Returns the figure as `.svg`, `.png`, or as an `.html` page with sentences and table that needs nothing else.

    Args:
        content: of `comparison.comparison`.
        form: one of `FORMS`.
    """
    from matplotlib.figure import Figure  # and not pyplot, which is slow to import and keeps global state

    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    fronts, growth, last = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1.0])
    _fronts(fronts, content)
    for i, group in enumerate(content["groups"]):
        curve = group["curve"]
        growth.fill_between(content["at"], curve["low"], curve["high"], color=f"C{i}", alpha=0.2, lw=0)
        growth.plot(content["at"], curve["middle"], c=f"C{i}", label=f"{group['label']} ({len(group['runs'])})")
    growth.set(xlabel="trials", ylabel="hypervolume (share of the box)", title="median and quartiles of the runs")
    growth.grid(alpha=0.3)
    growth.legend(fontsize="small")
    shares = [[run["hypervolume"] for run in group["runs"]] for group in content["groups"]]
    last.boxplot(shares, showfliers=False)
    for i, values in enumerate(shares):
        last.plot([i + 1] * len(values), values, "o", ms=4, c=f"C{i}", alpha=0.6)
    last.set_xticks(range(1, len(shares) + 1), [_folded(g["label"]) for g in content["groups"]], fontsize="small")
    last.set(title=f"hypervolume after {content['trials']} trials")
    last.grid(alpha=0.3, axis="y")
    buffer = io.BytesIO()
    kind = "png" if form == ".png" else "svg"
    # No date: the same runs give the same file.
    figure.savefig(buffer, format=kind, dpi=140, metadata={"Date": None} if kind == "svg" else None)
    picture = buffer.getvalue()
    return _page(content, picture.decode()).encode() if form == ".html" else picture


def _fronts(axis: Any, content: Mapping[str, Any]) -> None:
    """Draws the front of every run: its second objective across, its first one up."""
    objectives = content["objectives"]
    up, across = objectives[0], objectives[min(1, len(objectives) - 1)]
    column = objectives.index(across)
    for i, group in enumerate(content["groups"]):
        for j, run in enumerate(group["runs"]):
            xs, ys = [p[column] for p in run["points"]], [p[0] for p in run["points"]]
            joined = dict(zip(xs, ys, strict=True))
            form = "-" if len(objectives) == 2 else ""  # with more objectives, the front is no line in two of them
            axis.plot(
                sorted(joined), [joined[x] for x in sorted(joined)], "o" + form, ms=3, lw=0.8, c=f"C{i}", alpha=0.5,
                label=group["label"] if j == 0 else None,
            )  # fmt: skip
    axis.set(xlabel=axis_label(across), ylabel=axis_label(up), title="fronts, as searched")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def _folded(text: str) -> str:
    return text.replace("=", "\n", 1).replace(", ", "\n")


def _page(content: Mapping[str, Any], picture: str) -> str:
    names = [o["name"] for o in content["objectives"]]
    head = "".join(f"<th>{html.escape(n)}</th>" for n in ("group", "runs", "hypervolume: median", "quartiles", *names))
    rows = "".join(f"<tr>{_row(group, names)}</tr>" for group in content["groups"])
    said = "".join(f"<p>{html.escape(text)}</p>" for text in content["sentences"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>hwsearch compare</title><link rel="icon" '
        f'href="data:,"><style>{STYLE}</style></head><body><h1>Runs compared</h1>{said}'
        f"{picture[picture.index('<svg') :]}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{html.escape(basis(content))}</p></body></html>"
    )


def _row(group: Mapping[str, Any], names: Sequence[str]) -> str:
    found = group["hypervolume"]
    cells = [
        group["label"],
        str(len(group["runs"])),
        f"{found['median']:.4f}",
        f"{found['low']:.4f} - {found['high']:.4f}",
    ]
    cells += [f"{group['best'][name]:.5g}" for name in names]
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def basis(content: Mapping[str, Any]) -> str:
    """Returns what the numbers of a comparison stand on, in one line."""
    point = ", ".join(f"{name} {value:.5g}" for name, value in content["reference"].items())
    return (
        f"First {content['trials']} trials of every run, as searched; hypervolume to the reference point {point}, as a "
        "share of the box from there to the best values of all runs; best values are medians over runs."
    )
