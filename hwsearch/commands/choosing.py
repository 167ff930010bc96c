"""Choosing one net of a run's front: by key, trial or preference; and handing it over: `hwsearch export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsearch.commands.exporting import Request, export_net
from hwsearch.commands.forms import WEIGHTS_FORM, parse_form
from hwsearch.commands.query import device_spec, parse_limit, run_plan
from hwsearch.errors import UserError
from hwsearch.front import Member, choose, load_front
from hwsearch.objectives import MAXIMISED, Objective
from hwsearch.runfolder import RunFolder


@dataclass(frozen=True)
class Choice:
    """Which net of a front: exactly one of key, trial and prefer.

    Args:
        key: of the architecture.
        trial: its proposal index.
        prefer: the metric to be best in.
        limits: that the net keeps which is chosen by `prefer`, see `parse_limit`.
    """

    key: str | None = None
    trial: int | None = None
    prefer: str | None = None
    limits: Sequence[str] = ()


def export(
    run: str,
    choice: Choice,
    *,
    forms: Sequence[str] = (),
    devices: Sequence[str] = (),
    out: Path | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """Exports one net of the validated front and returns its card with the folder it lies in.

    Args:
        run: folder of the run, or `RUN:KEY`.
        choice: of the net.
        forms: `onnx`, `openvino-int8`, `pt2`, ...; none: as it was measured, and ONNX.
        devices: to time it on besides those of the run: YAML files or names of runtimes.
        out: folder to write to; `<run>/models` by default.
        license: of the weights, for the card.

    Raises:
        UserError: not exactly one way of choosing, no such net on the front, or no such form.
        DeviceError: a form does not agree with the module, or its engine fails.
    """
    folder_name, found, key = run.rpartition(":")
    if found and not Path(run).exists():
        run, choice = folder_name, Choice(choice.key or key, choice.trial, choice.prefer, choice.limits)
    if sum(given is not None for given in (choice.key, choice.trial, choice.prefer)) != 1:
        raise UserError("export must be told one of --key, --trial or --prefer.")
    asked = tuple(parse_form(text) for text in dict.fromkeys(forms) if text != WEIGHTS_FORM)
    plan, folder = run_plan(Path(run))
    member = chosen(load_front(folder), choice)
    target = folder
    if out is not None:
        target = RunFolder(folder.path)
        target.models = out
    request = Request(
        forms=asked,
        devices=tuple(device_spec(name, plan) for name in devices),
        measure=bool(forms or devices),
        command=("hwsearch", *sys.argv[1:]),
        license=license,
    )
    card = export_net(member, plan, plan.supernet(meta=True), target, request=request)
    return {"folder": str(target.models / member.key), "card": card}


def chosen(members: Sequence[Member], choice: Choice) -> Member:
    """Returns the net of a front.

    Raises:
        UserError: it is not there, or none keeps the limits.
    """
    if choice.prefer is not None:
        return choose(members, _metric(choice.prefer, members), [_limit(text, members) for text in choice.limits])
    found = [m for m in members if m.key == choice.key or m.index == choice.trial]
    if not found:
        wanted = f"key {choice.key!r}" if choice.key is not None else f"trial {choice.trial}"
        raise UserError(
            f"only measured and validated nets are exported: the front holds {[m.key for m in members]}, "
            f"but not {wanted}."
        )
    return found[0]


def _limit(text: str, members: Sequence[Member]) -> Objective:
    """Returns a limit whose metric may leave out the device when only one measures it."""
    limit = parse_limit(text)
    known = _metric(limit.name, members)
    return Objective(known.metric, known.device, limit.direction, limit=limit.limit)


def _metric(text: str, members: Sequence[Member]) -> Objective:
    """Returns the metric as an objective; `latency_ms` stands for `latency_ms@cpu` when only one device has it."""
    known = sorted({name for m in members for name in m.validated})
    matches = [name for name in known if name == text or name.split("@")[0] == text]
    if len(matches) != 1:
        raise UserError(f"the metric must be one of {known}, but got {text!r}.")
    metric, _, device = matches[0].partition("@")
    return Objective(metric, device or None, "maximize" if metric in MAXIMISED else "minimize")
