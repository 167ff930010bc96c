"""Terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


def number(value: float | None) -> str:
    """Returns a value with four significant digits; large whole numbers with separators; `-` when missing."""
    if value is None or value != value:
        return "-"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def size(n_bytes: float) -> str:
    """Returns a number of bytes with the unit that suits it: 0 bytes, 12 kB, 3.4 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def front_table(content: Mapping[str, Any]) -> Table:
    """Returns the table of a validated front (the content of `front.json`)."""
    objectives = content["objectives"]
    names = [o["metric"] + (f"@{o['device']}" if o["device"] else "") for o in objectives]
    members = list(content["members"])
    first = objectives[0]
    sign = 1.0 if first["direction"] == "minimize" else -1.0
    members.sort(key=lambda m: sign * m["validated"].get(names[0], sign * float("inf")))
    table = Table(
        title=f"Validated front: {len(members)} nets (scored on the hold-out, measured again, ± spread)",
        box=SIMPLE_HEAD,
    )
    table.add_column("key", no_wrap=True)
    for objective, name in zip(objectives, names, strict=True):
        metric, _, device = name.partition("@")
        unit = f"{objective['unit']} @{device}" if device else objective["unit"]
        table.add_column(f"{metric}\n{unit}", justify="right", no_wrap=True)
    table.add_column("sparse\ngroups", no_wrap=True)
    with_precision = any("precision" in member["architecture"] for member in members)
    if with_precision:
        table.add_column("precision", no_wrap=True)
    with_probability = any(member.get("front_probability") is not None for member in members)
    if with_probability:
        table.add_column("on the\nfront", justify="right", no_wrap=True)
    table.add_column("note", min_width=6)
    for member in members:
        cells = [member["key"]]
        for name in names:
            value, std = member["validated"].get(name), member["validated_stds"].get(name)
            cells.append(number(value) + (f"±{std:.2g}" if std else ""))
        patterns = [str(v) for gene, v in member["architecture"].items() if gene.endswith("sparsity")]
        sparse = [p for p in patterns if p != "dense"]
        cells.append(f"{len(sparse)}/{len(patterns)}" if patterns else "-")
        if with_precision:
            cells.append(str(member["architecture"]["precision"]))
        if with_probability:
            probability = member.get("front_probability")
            cells.append("-" if probability is None else f"{probability:.0%}")
        cells.append(escape(member["error"] or ", ".join(_notes(member))))
        table.add_row(*cells)
    return table


def _notes(member: Mapping[str, Any]) -> list[str]:
    """Returns what is special about a net of a front."""
    passed = [f"passes {name}" for name in member["passed"]]
    refused = [f"not on {device}" for device in member.get("refused", {})]
    ties = [f"ties with {_few(member['ties'])}"] if member.get("ties") else []
    return ["behind"] * member["behind"] + ties + passed + refused + ["remade"] * member["remade"]


def _few(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{len(keys)} others"


def exports_table(exports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns the table of a net's forms (`exports` of its card)."""
    table = Table(title="Checked in the engine against the module, on real inputs", box=SIMPLE_HEAD)
    for column in ("format", "file", "accuracy", "max error", "top-1 agreement", "latency, ms"):
        table.add_column(column)
    for name, entry in exports.items():
        agreement, accuracy = entry.get("agreement"), entry.get("accuracy")
        timed = [
            f"{device} {number(t['value'])}" + (f"±{t['half_width']:.2g}" if t.get("half_width") else "") + _batch(t)
            for device, t in entry.get("latency", {}).items()
        ]
        table.add_row(
            name,
            escape(entry["entry"]),
            number(accuracy["value"]) if accuracy else "-",
            f"{agreement['max_abs_error']:.2g}" if agreement else "-",
            f"{100 * agreement['top1_agreement']:.1f} %" if agreement else "-",
            escape(", ".join(timed) or "-"),
        )
    return table


def _batch(timed: Mapping[str, Any]) -> str:
    batch = timed.get("environment", {}).get("batch", 1)
    return "" if batch == 1 else f" for {batch} examples"


def rows_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> Table:
    """Returns a table of plain rows."""
    table = Table(title=escape(title), box=SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[number(row[c]) if isinstance(row[c], float | int) else escape(str(row[c])) for c in columns])
    return table


def comparison_table(rows: Sequence[Mapping[str, float | str]], *, title: str) -> Table:
    """Returns the table of a comparison of engines (rows of `tasks.compare.summary`)."""
    table = Table(title=title, box=SIMPLE_HEAD)
    shown = [name for name in rows[0] if not name.startswith("reached_")]
    for name in shown:
        table.add_column(name.replace("_", " "), justify="left" if name == "engine" else "right")
    for row in rows:
        cells = [str(row["engine"])]
        for name in shown[1:]:
            value = float(row[name])
            share = row.get(name.replace("n_to_", "reached_"), 1.0) if name.startswith("n_to_") else 1.0
            text = number(value) if value < float("inf") else "-"
            cells.append(f"{text} ({float(share):.0%})" if float(share) < 1.0 else text)
        table.add_row(*cells)
    return table
