"""The capability card of a device: what pays there, as measured; and which choices no objective can gain from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from hwsearch.devices.base import Fingerprint
from hwsearch.errors import UserError
from hwsearch.objectives import COST_METRICS, Objective

FORMAT_VERSION = 1
GAIN = 1.05
"""A speed-up below this is none: it is within what two measurements of one net may differ by."""
SHRINKING = {"sparsity": ("stored_bytes", "nonzeros"), "precision": ("stored_bytes",)}
"""Exact costs that shrink with every zero, or with the bytes of a value, on any device."""
BASELINES = ("dense", "fp32")
Facts = Callable[[str, str], bool | None]
"""Device and sparsity pattern -> whether the device can skip such zeros; None where only measuring would tell."""


def unknown(device: str, pattern: str) -> bool | None:
    """Returns None: nothing is known of any device."""
    return None


@dataclass(frozen=True)
class Probe:
    """One variant of a subject against the dense fp32 baseline of the same subject, timed interleaved with it.

    Args:
        group: `sparsity`, `precision`, `kernel`, `expand`, `depth`, `resolution`, `channels`.
        subject: `cnn`, `linear`, `ffn`, `pointwise`.
        variant: `unstructured-0.9`, `int8`, `7`, ...
        latency_ms: of the variant. half_width_ms: 95 %, within the run.
        speedup: baseline / variant. speedup_half_width: 95 %.
    """

    group: str
    subject: str
    variant: str
    latency_ms: float
    half_width_ms: float
    speedup: float
    speedup_half_width: float


@dataclass(frozen=True)
class CapabilityCard:
    """What was measured on one device.

    Args:
        device: its name.
        fingerprint: what the numbers depend on.
        created: date, ISO.
        channel_multiple: multiples of this many channels are fast.
        probes: in the order measured.
        missing: `group/subject/variant: why` for what could not be measured.
    """

    device: str
    fingerprint: Fingerprint
    created: str
    channel_multiple: int
    probes: tuple[Probe, ...]
    missing: tuple[str, ...] = ()

    def of(self, group: str, variant: str) -> list[Probe]:
        """Returns the probes of a variant, the largest speed-up first; empty if there is none."""
        found = [p for p in self.probes if p.group == group and p.variant == variant]
        return sorted(found, key=lambda p: -p.speedup)

    def break_even(self, subject: str, kind: str) -> float | None:
        """Returns the share of zeros from which a pattern is faster than dense, interpolated between those probed.

        Args:
            subject: of the probes.
            kind: a pattern's name without its share: `unstructured`, `block-4x1`.

        Returns:
            None if not even the most zeros are; the least share probed if that already is.
        """
        found = self._times(subject, kind)
        slower = [i for i, (_, time) in enumerate(found) if time >= 1]
        if not found or slower[-1:] == [len(found) - 1]:
            return None
        if not slower:
            return found[0][0]
        (share, time), (more, less) = found[slower[-1]], found[slower[-1] + 1]
        return share + (more - share) * (time - 1) / (time - less)

    def _times(self, subject: str, kind: str) -> list[tuple[float, float]]:
        """Returns (share of zeros, time relative to dense) of the probes of a kind of pattern, by share."""
        own = [p for p in self.probes if (p.group, p.subject, _kind(p)) == ("sparsity", subject, kind)]
        return sorted((float(p.variant.rpartition("-")[2]), 1 / p.speedup) for p in own)

    def to_json(self) -> str:
        """Returns the card as JSON that `from_json` reads."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CapabilityCard:
        """Returns a card.

        Raises:
            UserError: not a card, or of another format.
        """
        try:
            raw = json.loads(text)
            version = raw.pop("format_version")
            if version != FORMAT_VERSION:
                raise UserError(f"a capability card must have format_version {FORMAT_VERSION}, but got {version}.")
            probes = tuple(Probe(**probe) for probe in raw.pop("probes"))
            return cls(probes=probes, missing=tuple(raw.pop("missing")), **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"a capability card must be JSON written by `profile`, but: {error!r}.") from error

    def table(self) -> str:
        """Returns the card as a Markdown table."""
        lines = [
            f"# {self.device}",
            "",
            ", ".join(f"{key} {value}" for key, value in self.fingerprint.items() if value is not None),
            "",
            f"Measured {self.created}. Multiples of {self.channel_multiple} channels are fast.",
            "",
            "| what | net | variant | ms | speed-up over dense fp32 |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {p.group} | {p.subject} | {p.variant} | {p.latency_ms:.3f} "
            f"| {p.speedup:.2f} +- {p.speedup_half_width:.2f} |"
            for p in self.probes
        ]
        lines += self._break_even_table()
        lines += [f"\nNot measured: {entry}" for entry in self.missing]
        return "\n".join(lines) + "\n"

    def _break_even_table(self) -> list[str]:
        """Returns from which share of zeros on each kind of pattern pays, per net; nothing where none was probed."""
        sparse = [p for p in self.probes if p.group == "sparsity"]
        kinds = [kind for kind in dict.fromkeys(_kind(p) for p in sparse) if kind]
        if not kinds:
            return []
        lines = ["", "Zeros from which on a pattern is faster than dense:", ""]
        lines += [f"| net | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
        for subject in dict.fromkeys(p.subject for p in sparse):
            cells = []
            for kind in kinds:
                shares, share = [share for share, _ in self._times(subject, kind)], self.break_even(subject, kind)
                if share is None:
                    cells.append(f"above {shares[-1]:.2f}" if shares else "-")
                else:
                    cells.append(f"{'at most ' if share == shares[0] else ''}{share:.2f}")
            lines.append(f"| {subject} | {' | '.join(cells)} |")
        return lines


def _kind(probe: Probe) -> str:
    """Returns a pattern's name without its share of zeros: `unstructured`; empty where the name has no share."""
    return probe.variant.rpartition("-")[0]


@dataclass(frozen=True)
class Decision:
    """Whether a choice stays in the space, and why. One line."""

    choice: str
    kept: bool
    reason: str


def decide(
    choices: Sequence[str],
    *,
    group: str,
    objectives: Sequence[Objective],
    cards: Mapping[str, CapabilityCard],
    skips_zeros: Facts = unknown,
    admits: Mapping[str, Sequence[str]] | None = None,
    gain: float = GAIN,
) -> list[Decision]:
    """Returns, for each sparsity pattern or precision, whether any objective or limit can gain from it.

    The baseline (`dense`, `fp32`) always stays. Another choice is dropped only if every objective is known not to gain:
    accuracy does not; MACs, parameters and activation bytes do not depend on it; latency gains on a device whose card
    shows it: on any subject a speed-up of at least `gain` whose interval lies above 1. Without a card, or where it has
    no such probe, what is known of the engine counts, and where nothing is, it might gain. `stored_bytes` gains from
    zeros and from smaller values, `nonzeros` from zeros.

    Args:
        choices: of the gene.
        group: `sparsity` or `precision`.
        objectives: of the run, limits included.
        cards: device name -> card.
        skips_zeros: what is known of the engines without measuring.
        admits: device name -> precisions that it takes; on others it gains nothing. None: every device takes all.
        gain: least speed-up that counts.
    """
    return [_decide(choice, group, objectives, cards, skips_zeros, admits, gain) for choice in choices]


def _decide(
    choice: str,
    group: str,
    objectives: Sequence[Objective],
    cards: Mapping[str, CapabilityCard],
    skips_zeros: Facts,
    admits: Mapping[str, Sequence[str]] | None,
    gain: float,
) -> Decision:
    if choice in BASELINES:
        return Decision(choice, True, "the baseline")
    against = []
    for objective in objectives:
        device = objective.device
        if objective.metric in SHRINKING[group]:
            how = "every zero" if group == "sparsity" else "the bytes of a value"
            return Decision(choice, True, f"{objective.name} shrinks with {how}")
        if device is None or objective.metric in COST_METRICS:
            continue
        if group == "precision" and admits is not None and choice not in admits.get(device, ()):
            continue
        card = cards.get(device)
        found = card.of(group, choice) if card is not None and objective.metric == "latency_ms" else []
        if not found:
            known = skips_zeros(device, choice) if group == "sparsity" else None
            if known is False:
                against.append(f"{objective.name} cannot, the engine of {device} computes zeros like any value")
                continue
            if known:
                return Decision(choice, True, f"{objective.name} gains: {device} skips zeros")
            why = "it is not on the card of" if card is not None else "there is no capability card of"
            return Decision(choice, True, f"{objective.name} may gain: {why} {device}")
        for probe in found:
            if probe.speedup >= gain and probe.speedup - probe.speedup_half_width > 1.0:
                return Decision(choice, True, f"{objective.name} gains {probe.speedup:.2f}x ({probe.subject})")
        best = found[0]
        against.append(
            f"{objective.name} was at most {best.speedup:.2f} +- {best.speedup_half_width:.2f} times as fast "
            f"({best.subject}), and {gain:g} must be shown"
        )
    what = "; ".join(against) or "none depends on it"
    return Decision(choice, False, f"no objective can gain from it: {what}")
