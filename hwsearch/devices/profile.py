"""Profiles a device: probes kernels, channels, resolution, precisions and sparsity patterns on small plain nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.card import GAIN, CapabilityCard, Probe
from hwsearch.errors import DeviceError, UserError
from hwsearch.results import Artifact, Measurement
from search_spaces.genes import Value
from search_spaces.layers import LayerSpec, total_costs
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.sparsity import parse_pattern
from search_spaces.supernet import SparsityGenes, Supernet

PATTERNS = ("unstructured-0.5", "unstructured-0.8", "unstructured-0.9", "unstructured-0.95", "2:4", "1:4")
CHANNELS = (56, 58, 60, 61, 62, 63, 64, 65, 66, 68, 72)
MULTIPLES = (1, 2, 4, 8)
SUBJECTS = ("cnn", "ffn", "linear", "pointwise")
BOTTLENECKS = ((40, 28), (96, 14), (160, 7))
"""Channels and side of images between a sixfold expansion and its projection: as in MobileNets at 224 pixels."""
GROUPED = ("block-4x1-0.3", "block-4x1-0.5")
"""Patterns that are probed layer by layer only."""
DECIDING = ("sparsity", "precision")


class Exports(Protocol):
    """What a profile needs of an exporter."""

    precisions: tuple[str, ...]

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """As `Exporter.export`."""


@dataclass(frozen=True)
class Variant:
    """A plain net to be timed. The first of a subject is its baseline: dense, fp32."""

    group: str
    subject: str
    name: str
    module: Callable[[], nn.Module]
    """Made only where something is exported."""
    example: tuple[Tensor, ...]
    costs: Mapping[str, float]
    precision: str = "fp32"


def profile(
    device: Device,
    exporter: Exports | None,
    *,
    created: str,
    patterns: Sequence[str] = PATTERNS,
    side: int = 96,
    subjects: Sequence[str] = SUBJECTS,
    shapes: Sequence[tuple[int, int]] = BOTTLENECKS,
    observe: Callable[[str, int, int], None] | None = None,
) -> CapabilityCard:
    """Returns the capability card of a device. Random weights: what is probed is time.

    Args:
        device: to be profiled; its spec says threads, batch, precisions and how long to measure.
        exporter: of the device's format; None for devices that read costs alone.
        created: date for the card, ISO.
        patterns: sparsity patterns to probe.
        side: of the images of the CNN.
        subjects: which nets to probe.
        shapes: channels and side of the bottlenecks that are probed with each pattern, if the engine may skip zeros.
        observe: called with (subject, groups done, groups in all).

    Raises:
        DeviceError: not even the baselines can be measured.
    """
    precisions = [p for p in device.spec.precisions if p != "fp32" and (exporter is None or p in exporter.precisions)]
    sources = {
        "cnn": cnn(side=side, patterns=patterns, precisions=precisions),
        "ffn": ffn(patterns=patterns, precisions=precisions),
        "linear": linear(patterns=patterns),
        "pointwise": pointwise(),
    }
    # Where the engine may skip zeros, which of them pay depends on the layer.
    if any(type(device).skips_zeros(device.spec, pattern) is not False for pattern in patterns):
        for channels, size in shapes:
            name = f"{channels}-{6 * channels}-{channels} at {size} x {size}"
            sources[name] = bottleneck(name, channels, size, patterns=patterns)
            subjects = [*subjects, name]
    probes: list[Probe] = []
    missing: list[str] = []
    for done, subject in enumerate(subjects):
        if observe is not None:
            observe(subject, done, len(subjects))
        found, without = _measure(device, exporter, list(sources[subject]))
        probes += found
        missing += without
    return CapabilityCard(
        device=device.spec.name,
        fingerprint=dict(device.fingerprint()),
        created=created,
        channel_multiple=channel_multiple({int(p.variant): p.latency_ms for p in probes if p.group == "channels"}),
        probes=tuple(probes),
        missing=tuple(missing),
    )


def profiling_spec(spec: DeviceSpec) -> DeviceSpec:
    """Returns the spec to profile a device with: the run's, with narrow intervals."""
    return spec.model_copy(update={"protocol": "default", "target_ci": 0.02, "max_seconds": 5.0})


def _measure(device: Device, exporter: Exports | None, variants: list[Variant]) -> tuple[list[Probe], list[str]]:
    """Returns the probes of one subject, all timed interleaved, and what could not be measured."""
    artifacts, kept, missing = [], [], []
    for variant in variants:
        try:
            artifacts.append(_artifact(exporter, variant))
            kept.append(variant)
        except UserError as error:
            if variant is variants[0]:
                raise
            missing.append(f"{variant.group}/{variant.subject}/{variant.name}: {error}")
    results = [result["latency_ms"] for result in device.measure(artifacts)]
    if not all(math.isfinite(r.value) and r.value > 0 for r in results):
        raise DeviceError(f"device {device.spec.name} must give positive latencies, but gave {results[0].value}.")
    probes = [_probe(v, r, results[0]) for v, r in zip(kept, results, strict=True)]
    # What decides over the space is measured twice, and the smaller gain counts: of twenty probes one is off by chance.
    again = [i for i, p in enumerate(probes) if p.group in DECIDING and p.speedup >= GAIN]
    if again:
        second = [result["latency_ms"] for result in device.measure([artifacts[i] for i in [0, *again]])]
        for i, result in zip(again, second[1:], strict=True):
            probes[i] = min(probes[i], _probe(kept[i], result, second[0]), key=lambda p: p.speedup)
    return probes, missing


def _probe(variant: Variant, result: Measurement, base: Measurement) -> Probe:
    own, reference = (_half_width(r) / r.value for r in (result, base))
    speedup = base.value / result.value
    width = 0.0 if result is base else speedup * math.hypot(own, reference)
    return Probe(variant.group, variant.subject, variant.name, result.value, _half_width(result), speedup, width)


def _half_width(result: Measurement) -> float:
    within = result.environment.get("within_half_width_ms", 1.96 * result.std)
    return float(within) if isinstance(within, int | float) else 0.0


def _artifact(exporter: Exports | None, variant: Variant) -> Artifact:
    if exporter is None:
        name = f"{variant.subject}/{variant.group}/{variant.name}"
        return Artifact("costs", variant.precision, {"name": name.encode()}, "name", costs=variant.costs)
    return exporter.export(
        variant.module(),
        variant.example,
        precision=variant.precision,
        costs=variant.costs,
        calibration=_random(variant.example) if variant.precision != "fp32" else (),
    )


# ---- subjects ---------------------------------------------------------------------------------------------------


def cnn(*, side: int, patterns: Sequence[str], precisions: Sequence[str]) -> Iterator[Variant]:
    """Yields a small MobileNet and it with other kernels, expansions, depths, resolutions, patterns, precisions."""

    def supernet(resolution: int) -> Supernet:
        stages = [
            Stage(width=(width,), depth=(1, 2), stride=2, kernel=(3, 5, 7), expand=(3, 4, 6))
            for width in (24, 40, 80, 160)
        ]
        family = MobileNet(
            input_shape=(3, resolution, resolution), n_classes=100, stages=stages, stem_stride=2, head=320
        )
        return Supernet(family, sparsity=SparsityGenes(("dense", *patterns), per="model"), meta=True)

    full = supernet(side)
    filled = cache(lambda resolution: Supernet(supernet(resolution).family, sparsity=full.sparsity))
    baseline: dict[str, Value] = {"kernel": 3, "expand": 4, "depth": 2, "sparsity": "dense"}

    def make(group: str, name: str, *, net: Supernet = full, precision: str = "fp32", **changed: Value) -> Variant:
        wanted = {**baseline, **changed}
        genes = {gene.name: wanted.get(gene.name.rpartition(".")[2], gene.choices[0]) for gene in net.space.genes}
        kept = net.space.architecture(_active(net, genes))
        example = net.family.example_inputs(generator=torch.Generator().manual_seed(0))
        costs = {key: float(value) for key, value in net.layer_costs(kept).metrics().items()}
        resolution = net.family.input_shape[1]
        return Variant(group, "cnn", name, lambda: filled(resolution).extract(kept), example, costs, precision)

    yield make("baseline", "dense fp32")
    for kernel in (5, 7):
        yield make("kernel", str(kernel), kernel=kernel)
    for expand in (3, 6):
        yield make("expand", str(expand), expand=expand)
    yield make("depth", "1", depth=1)
    for share in (0.75, 1.25):
        yield make("resolution", str(int(side * share)), net=supernet(int(side * share)))
    for pattern in patterns:
        yield make("sparsity", pattern, sparsity=pattern)
    for precision in precisions:
        yield make("precision", precision, precision=precision)


def _active(net: Supernet, genes: Mapping[str, Value]) -> dict[str, Value]:
    """Returns the genes that exist at these values."""
    return {
        gene.name: genes[gene.name]
        for gene in net.space.genes
        if all(genes[condition.gene] in condition.values for condition in gene.active_when)
    }


def ffn(*, patterns: Sequence[str], precisions: Sequence[str]) -> Iterator[Variant]:
    """Yields two feed-forward blocks of an encoder of width 256 on 128 tokens, with patterns and precisions."""
    tokens, width = 128, 256
    names = ["0", "2", "3", "5"]
    sizes = [(width, 4 * width), (4 * width, width)] * 2

    def make(group: str, name: str, *, pattern: str = "dense", precision: str = "fp32") -> Variant:
        def module() -> nn.Module:
            blocks = [(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(2)]
            return nn.Sequential(*blocks[0], *blocks[1])

        layers = [
            LayerSpec(n, "linear", "ffn", i, o, positions_in=tokens, positions=tokens, bias=True)
            for n, (i, o) in zip(names, sizes, strict=True)
        ]
        example = (torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0)),)
        return Variant(group, "ffn", name, *_plain(module, example, layers, pattern), precision)

    yield make("baseline", "dense fp32")
    for pattern in patterns:
        yield make("sparsity", pattern, pattern=pattern)
    for precision in precisions:
        yield make("precision", precision, precision=precision)


def linear(*, patterns: Sequence[str]) -> Iterator[Variant]:
    """Yields two linear layers of 1024 x 1024 on one row: bound by reading their weights."""

    def make(group: str, name: str, pattern: str = "dense") -> Variant:
        def module() -> nn.Module:
            return nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))

        layers = [LayerSpec(n, "linear", "linear", 1024, 1024, bias=True) for n in ("0", "2")]
        return Variant(group, "linear", name, *_plain(module, (torch.ones(1, 1024),), layers, pattern))

    yield make("baseline", "dense fp32")
    for pattern in patterns:
        yield make("sparsity", pattern, pattern)


def bottleneck(subject: str, channels: int, side: int, *, patterns: Sequence[str]) -> Iterator[Variant]:
    """Yields two 1x1 convolutions, to six times the channels and back, on images of one size."""
    sizes, n = ((channels, 6 * channels), (6 * channels, channels)), side * side

    def module() -> nn.Module:
        first, second = (nn.Conv2d(inputs, outputs, 1) for inputs, outputs in sizes)
        return nn.Sequential(first, nn.ReLU(), second)

    layers = [
        LayerSpec(name, "conv", "bottleneck", inputs, outputs, positions_in=n, positions=n, bias=True)
        for name, (inputs, outputs) in zip(("0", "2"), sizes, strict=True)
    ]
    for pattern in ("dense", *dict.fromkeys((*patterns, *GROUPED))):
        group, name = ("baseline", "dense fp32") if pattern == "dense" else ("sparsity", pattern)
        yield Variant(group, subject, name, *_plain(module, (torch.ones(1, channels, side, side),), layers, pattern))


def pointwise() -> Iterator[Variant]:
    """Yields stacks of four 1x1 convolutions at 28 x 28, with 64 channels and with others."""

    def make(group: str, channels: int) -> Variant:
        def module() -> nn.Module:
            return nn.Sequential(*(nn.Conv2d(channels, channels, 1) for _ in range(4)))

        layers = [
            LayerSpec(str(i), "conv", "pointwise", channels, channels, positions_in=784, positions=784, bias=True)
            for i in range(4)
        ]
        example = (torch.ones(1, channels, 28, 28),)
        name = str(channels) if group == "channels" else "64 channels"
        return Variant(group, "pointwise", name, *_plain(module, example, layers, "dense"))

    yield make("baseline", 64)
    for channels in CHANNELS:
        yield make("channels", channels)


def channel_multiple(latency_ms: Mapping[int, float]) -> int:
    """Returns the smallest m of `MULTIPLES` whose multiples are about as fast, per MAC, as those of any other.

    Time per MAC of a 1x1 convolution goes with latency / channels^2. For each m its mean over the multiples of m is
    taken; the smallest m within 5 % of the least mean is returned; 8 if nothing was measured.

    Args:
        latency_ms: channels -> latency.
    """
    means = {}
    for m in MULTIPLES:
        own = [ms / channels**2 for channels, ms in latency_ms.items() if channels % m == 0]
        if own:
            means[m] = float(np.mean(own))
    if not means:
        return 8
    least = min(means.values())
    return min(m for m, mean in means.items() if mean <= 1.05 * least)


def _plain(
    make: Callable[[], nn.Module], example: tuple[Tensor, ...], layers: Sequence[LayerSpec], pattern: str
) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, float]]:
    """Returns the maker of the module with the pattern applied to the layers' weights, the example, and exact costs."""
    rule = parse_pattern(pattern)
    costs = total_costs([layer.with_patterns((rule,), 0) for layer in layers], 1).metrics()

    def pruned() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = make().eval()
        with torch.no_grad():
            for layer in layers:
                weight = module.get_parameter(f"{layer.name}.weight")
                mask = rule.mask(weight)
                if mask is not None:
                    weight.mul_(mask)
        return module

    return pruned, example, {name: float(value) for name, value in costs.items()}


def _random(example: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(8, *tensor.shape[1:], generator=generator) for tensor in example)]
