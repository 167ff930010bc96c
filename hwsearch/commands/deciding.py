"""What a run leaves out of its space: choices that no objective can gain from; decided once, at its first start."""

from __future__ import annotations

import inspect
from dataclasses import replace
from math import lcm
from pathlib import Path

from hwsearch import build
from hwsearch.build import Plan
from hwsearch.build.registry import named
from hwsearch.config import DecidedSection, parse
from hwsearch.devices.base import Fingerprint
from hwsearch.devices.card import CapabilityCard, Decision, decide
from hwsearch.errors import ConfigError, DeviceError, RunFolderError, UserError
from hwsearch.runfolder import RunFolder

CARDS = Path("devices")
"""Where `hwsearch profile` leaves its cards."""
VOLATILE = frozenset({"batch", "clock", "cores", "governor", "platform", "python", "reference_net", "usable_cores"})
"""What a card does not depend on: its numbers are ratios."""


def freeze(plan: Plan, folder: RunFolder) -> tuple[Plan, list[str]]:
    """Returns the plan with what was decided of its space, and a line for each choice that is not searched.

    Decided is at the first start; `save_config` keeps it. A run that exists goes by what its folder says.

    Raises:
        UserError: a card that the configuration names cannot be used.
    """
    if plan.config.decided is not None:
        decided: DecidedSection | None = plan.config.decided
    elif folder.config.exists():
        decided = _stored(folder)
    else:
        decided = decide_space(plan)
    if decided is None:
        return plan, []
    config = plan.config.model_copy(update={"decided": decided})
    return build.plan(config, source=plan.config.name), list(decided.dropped)


def _stored(folder: RunFolder) -> DecidedSection | None:
    try:
        parsed = parse({key: value for key, value in folder.load_config().items() if key != "format_version"})
    except RunFolderError:
        return None  # `check_identity` has the words for it
    return None if parsed.config is None else parsed.config.decided


def decide_space(plan: Plan) -> DecidedSection:
    """Returns which sparsity patterns and precisions are searched, why the others are not, and which widths pay.

    Raises:
        UserError: a card that the configuration names cannot be used.
    """
    rounds = _rounds(plan)
    needed = plan.sparsity is not None or len(plan.precisions) > 1 or rounds
    cards, notes = find_cards(plan) if needed else ({}, [])
    tracked = (*plan.objectives, *plan.limits)
    left: dict[str, tuple[str, ...]] = {"precision": ()}
    lines = list(notes)
    for group, choices in (("sparsity", _patterns(plan)), ("precision", plan.precisions)):
        if not choices:
            continue
        decisions = decide(
            choices,
            group=group,
            objectives=tracked,
            cards=cards,
            skips_zeros=lambda device, pattern: plan.device_types[device].skips_zeros(plan.devices[device], pattern),
            admits=plan.admitted,
        )
        kept, dropped = _kept(plan, group, decisions)
        left[group] = kept
        lines += [f"{group}.choices: {d.choice} is not searched: {d.reason}" for d in dropped]
    multiple = None
    if rounds and any(card.channel_multiple > 1 for card in cards.values()):
        multiple = lcm(*(card.channel_multiple for card in cards.values()))
        whose = ", ".join(f"{card.channel_multiple} on {name}" for name, card in cards.items())
        lines.append(f"supernet.params.multiple: {multiple}, because multiples of these channels are fast: {whose}")
    return DecidedSection(
        sparsity=left.get("sparsity"), precision=left.get("precision"), channel_multiple=multiple, dropped=tuple(lines)
    )


def _rounds(plan: Plan) -> bool:
    """Returns whether the family rounds the channels that it keeps, and the configuration does not say to what."""
    section = plan.config.supernet
    takes = "multiple" in inspect.signature(named("families", section.family, "supernet.family")).parameters
    return takes and "multiple" not in section.params


def _patterns(plan: Plan) -> tuple[str, ...]:
    return plan.sparsity.choices if plan.sparsity is not None else ()


def _kept(plan: Plan, group: str, decisions: list[Decision]) -> tuple[tuple[str, ...], list[Decision]]:
    """Returns the choices that stay, and the decisions against the others.

    Stay must what the configuration says, a device's only precision, and at least one choice.
    """
    section = plan.config.sparsity if group == "sparsity" else plan.config.precision
    keep = () if section is None else section.keep
    needed = {choice for d in decisions for choice in [d.choice] if keep == "all" or choice in keep}
    if group == "precision":
        kept = {d.choice for d in decisions if d.kept} | needed
        needed |= {admits[0] for admits in plan.admitted.values() if admits and not kept & set(admits)}
    stays = [replace(d, kept=d.kept or d.choice in needed) for d in decisions]
    if not any(d.kept for d in stays):
        stays[0] = replace(stays[0], kept=True)
    return tuple(d.choice for d in stays if d.kept), [d for d in stays if not d.kept]


def find_cards(plan: Plan) -> tuple[dict[str, CapabilityCard], list[str]]:
    """Returns device -> capability card for the measured devices that have one, and a line for each that does not fit.

    Raises:
        ConfigError: a card that the configuration names is not there, or is of another device.
    """
    cards: dict[str, CapabilityCard] = {}
    notes = []
    for name in plan.measured:
        given = plan.devices[name].card
        path = CARDS / f"{name}.card.json" if given is None else Path(given)
        if not path.is_file():
            if given is not None:
                raise ConfigError(f"devices.{name}.card must be a file that `hwsearch profile` wrote, but got {given}.")
            continue
        card = _read(path, f"devices.{name}.card")
        try:
            here = plan.device(name).fingerprint()
        except (DeviceError, UserError):
            continue  # not here: nobody can say whether the card is this device's
        other = differences(card.fingerprint, here)
        if not other:
            cards[name] = card
        elif given is not None:
            raise ConfigError(f"devices.{name}.card must be of this device, but {path} is of another: {other}.")
        else:
            notes.append(f"{path} does not count: it is not of device {name} ({other})")
    return cards, notes


def _read(path: Path, where: str) -> CapabilityCard:
    try:
        return CapabilityCard.from_json(path.read_text())
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise ConfigError(f"{where}: {path}: {error}") from error


def differences(one: Fingerprint, other: Fingerprint) -> str:
    """Returns in what two fingerprints differ that both state and a card depends on; empty: nothing."""
    shared = [key for key in one if key in other and key not in VOLATILE]
    return ", ".join(f"{key} {one[key]} against {other[key]}" for key in shared if one[key] != other[key])
