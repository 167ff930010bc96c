"""The HTML file of a report: content, styles and script in one, for a browser without network."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself then refuses every request, whatever a name in the content says."""


def page(content: Mapping[str, Any], *, command: str, written: str) -> bytes:
    """Returns the report as one HTML file.

    Args:
        content: of `content.content`.
        command: that searched, to type again.
        written: when, as people read it.
    """
    room = files("hwsearch.report.html")
    styles, script = ((room / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    data = json.dumps({**content, "command": command}, separators=(",", ":"), allow_nan=False, default=str)
    data = data.replace("<", "\\u003c")  # a name can then not end the script element
    title = html.escape(f"{content['name']} - hwsearch report")
    body = _body(content, command=command, written=written)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,"><style>{styles}</style></head>
<body>{body}<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>
""".encode()


def _body(content: Mapping[str, Any], *, command: str, written: str) -> str:
    """Returns the frame; also what is read where scripts are off: title, front as a table, commands."""
    done = sum(state == 1 for state in content["trials"]["state"])
    failed = f", {content['n_failed']} failed" if content["n_failed"] else ""
    versions = content["environment"].get("versions", {})
    machine = content["environment"].get("machine", {})
    where = ", ".join(
        str(x) for x in (machine.get("cpu_model"), f"hwsearch {versions.get('hwsearch', '?')}") if x is not None
    )
    chosen = len(content["members"])
    facts = (
        f"{done} finished trials{failed} out of {_size(content['space_size'])} architectures; "
        f"{chosen} nets on the validated front. {html.escape(where)}. Written {html.escape(written)}."
    )
    sections = [
        ("front", "Which net do I take?", "", _front_table(content)),
        ("progress", "Was it better than random?", "", ""),
        ("effects", "What costs how much?", "", ""),
        ("layers", "Layers of the chosen nets", "", ""),
        ("predictors", "How good are the predictions?", "", ""),
        ("stability", "How steady were the measurements?", "", ""),
    ]
    parts = [
        '<a class="skip" href="#front">Skip to the front</a>',
        f"<header><h1>{html.escape(content['name'])}</h1><p>{facts}</p>",
        '<nav aria-label="Sections">',
        *(f'<a href="#{name}">{title}</a>' for name, title, _, _ in sections),
        '<a href="#again">Reproduce</a><button id="theme" type="button">Light or dark</button></nav></header><main>',
    ]
    for name, title, text, inner in sections:
        parts.append(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
            f'{text}<div class="figures"></div>{inner}</section>'
        )
    parts.append(_again(content, command))
    return "".join(parts) + "</main>"


def _size(text: str) -> str:
    return f"{int(text):,}" if len(text) < 10 else f"about {text[0]}.{text[1]}e{len(text) - 1}"


def _front_table(content: Mapping[str, Any]) -> str:
    names = [o["name"] for o in content["objectives"]]
    units = {o["name"]: o["unit"] for o in content["objectives"]}
    head = "".join(f'<th scope="col">{html.escape(_label(n, units[n]))}</th>' for n in names)
    rows = []
    for member in sorted(content["members"], key=lambda m: _worse(m, content["objectives"][0])):
        cells = "".join(f"<td>{_value(member['values'].get(n), member['stds'].get(n))}</td>" for n in names)
        key = html.escape(member["key"])
        notes = html.escape(_notes(member))
        rows.append(
            f'<tr><th scope="row"><button type="button" class="key" data-key="{key}">{key}</button></th>'
            f"{cells}<td>{notes}</td></tr>"
        )
    if not rows:
        return "<p>There is no validated front yet: the run has not come that far, or nothing keeps the limits.</p>"
    return (
        f"<details open><summary>All {len(rows)} nets of the front as a table</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of the front"><table><thead><tr>'
        f'<th scope="col">net</th>{head}<th scope="col">notes</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _worse(member: Mapping[str, Any], objective: Mapping[str, Any]) -> float:
    value = member["values"].get(objective["name"])
    return math.inf if value is None else float(objective["sign"] * value)


def _label(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _value(value: float | None, std: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:,.0f}" if value == int(value) else f"{value:.5g}"
    return shown + (f" ± {std:.2g}" if std else "")


def _notes(member: Mapping[str, Any]) -> str:
    notes = ["sparse"] if member["sparse"] else []
    if member["behind"]:
        notes.append("falls behind another net when measured again")
    if member["ties"]:
        notes.append("cannot be told from " + ", ".join(member["ties"]))
    if member["probability"] is not None:
        notes.append(f"on the true front with a probability of {member['probability']:.0%}")
    if member["passed"]:
        notes.append("passes the limit of " + ", ".join(member["passed"]))
    return "; ".join([*notes, *([member["error"]] if member["error"] else [])])


def _again(content: Mapping[str, Any], command: str) -> str:
    environment = html.escape(json.dumps(content["environment"], indent=2, default=str))
    failures = "".join(f"<li>{n} times: {html.escape(reason)}</li>" for reason, n in content["failures"])
    return (
        '<section id="again" aria-labelledby="again-title"><h2 id="again-title">Reproduce</h2>'
        "<p>With the folder of the run it continues; with another --run-dir it searches again.</p>"
        f'<pre class="command" tabindex="0">{html.escape(command)}</pre>'
        f'<details><summary>Configuration</summary><pre tabindex="0">{html.escape(content["config"])}</pre></details>'
        f'<details><summary>Environment</summary><pre tabindex="0">{environment}</pre></details>'
        + (f"<details><summary>What failed</summary><ul>{failures}</ul></details>" if failures else "")
        + "</section>"
    )
