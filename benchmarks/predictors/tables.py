"""Published measurements as spaces, populations, values and layer costs, for the predictor benchmarks."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from predictors.base import LayerFunction
from search_spaces.blocks import conv_norm_layers, inverted_residual_layers, make_divisible_array, out_size
from search_spaces.genes import Condition, Gene
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace


@dataclass(frozen=True)
class Table:
    """Rows of one space: population (n, g), and for each column its values (n,), NaN where not measured."""

    name: str
    space: SearchSpace
    population: Population
    values: dict[str, np.ndarray]
    layers: LayerFunction | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    stds: dict[str, np.ndarray] = field(default_factory=dict)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of a gzipped CSV; numbers as float64, other columns as strings."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(io.StringIO(file.read())))
    out: dict[str, np.ndarray] = {}
    for i, name in enumerate(rows[0]):
        column = [row[i] for row in rows[1:]]
        try:
            out[name] = np.array([float(v) if v else np.nan for v in column])
        except ValueError:
            out[name] = np.array(column)
    return out


def encode(space: SearchSpace, columns: dict[str, np.ndarray]) -> Population:
    """Returns the canonical population of gene columns."""
    rows = np.zeros((len(next(iter(columns.values()))), space.n_genes), dtype=np.uint8)
    for i, gene in enumerate(space.genes):
        choices = np.array(gene.choices, dtype=float)
        place = np.abs(columns[gene.name][:, None] - choices).argmin(axis=1)
        if not np.allclose(choices[place], columns[gene.name]):
            raise ValueError(f"column {gene.name} holds a value that is no choice.")
        rows[:, i] = place
    return space.canonical(rows)


# ---- OFA MobileNetV3 w1.0 ----------------------------------------------------------------------------------------

STAGES = (  # width, stride, squeeze-excite, activation is not needed for costs
    (24, 2, False),
    (40, 2, True),
    (80, 2, False),
    (112, 1, True),
    (160, 2, True),
)


def ofa_space(resolutions: tuple[int, ...]) -> SearchSpace:
    """Depth per stage, kernel and expansion per block, resolution."""
    genes = [Gene(f"stage{s}.depth", (2, 3, 4)) for s in range(1, 6)]
    for s in range(1, 6):
        for b in range(1, 5):
            when = () if b <= 2 else (Condition(f"stage{s}.depth", tuple(d for d in (2, 3, 4) if d >= b)),)
            genes.append(Gene(f"stage{s}.block{b}.kernel", (3, 5, 7), active_when=when))
            genes.append(Gene(f"stage{s}.block{b}.expand", (3, 4, 6), active_when=when))
    genes.append(Gene("resolution", resolutions))
    return SearchSpace(genes)


def ofa_layers(space: SearchSpace) -> LayerFunction:
    """Returns the layer function of OFA MobileNetV3 w1.0 with a resolution gene."""

    def layers(population: Population) -> list[LayerSpec]:
        columns = space.columns(population)
        size = columns["resolution"].astype(np.int64)
        out = conv_norm_layers("stem", "stem", inputs=3, outputs=16, size=size, kernel=3, stride=2)
        size = out_size(size, 2)
        out += inverted_residual_layers(
            "first", "stem", inputs=16, outputs=16, mid=16, kernel=3, size=size, expand=False, shortcut=True
        )
        channels = 16
        for s, (width, stride, se) in enumerate(STAGES, start=1):
            for b in range(1, 5):
                expand = columns[f"stage{s}.block{b}.expand"].astype(np.float64)
                out += inverted_residual_layers(
                    f"stage{s}.block{b}",
                    f"stage{s}",
                    inputs=channels,
                    outputs=width,
                    mid=make_divisible_array(np.rint(channels * expand)),
                    kernel=columns[f"stage{s}.block{b}.kernel"].astype(np.int64),
                    size=size,
                    stride=stride if b == 1 else 1,
                    se=se,
                    shortcut=b > 1,
                    active=columns[f"stage{s}.depth"] >= b,
                )
                if b == 1:
                    size = out_size(size, stride)
                channels = width
        out += conv_norm_layers("head", "head", inputs=160, outputs=960, size=size)
        out.append(LayerSpec("mix", "conv", "head", 960, 1280))
        out.append(LayerSpec("classifier", "linear", "head", 1280, 1000, bias=True))
        return out

    return layers


def ofa_columns(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the columns of a table by gene name."""
    out = {"resolution": table["r"]}
    for s in range(5):
        out[f"stage{s + 1}.depth"] = table[f"d{s}"]
        for b in range(4):
            i = 4 * s + b
            active = b < table[f"d{s}"]
            out[f"stage{s + 1}.block{b + 1}.kernel"] = np.where(active, table[f"ks{i}"], 3)
            out[f"stage{s + 1}.block{b + 1}.expand"] = np.where(active, table[f"e{i}"], 3)
    return out


def ofa_latency(data: Path) -> Table:
    """5,000 subnets of OFA MobileNetV3 on two GPUs."""
    table = read(data / "help_ofa_latency_ms.csv.gz")
    space = ofa_space(tuple(range(128, 225, 4)))
    rows = encode(space, ofa_columns(table))
    return Table("ofa", space, rows, {d: table[d] for d in ("2080ti_1", "titan_xp_32")}, ofa_layers(space))


def ofa_accuracy(data: Path) -> Table:
    """ImageNet accuracy of OFA MobileNetV3 subnets; `extra` says which search a row is from."""
    table = read(data / "dynas_ofa_mbv3_w10_imagenet.csv.gz")
    space = ofa_space((224,))
    rows = encode(space, ofa_columns(table))
    extra = {"source": table["source_file"], "macs": table["macs"], "params": table["params"]}
    return Table("dynas", space, rows, {"top1": table["top1"]}, ofa_layers(space), extra)


# ---- the others --------------------------------------------------------------------------------------------------


FBNET_STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Width, layers, stride of the first layer (Wu et al. 2019, FBNet, table 1)."""
FBNET_OPERATORS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
"""Kernel, expansion and groups of the pointwise convolutions of operators 0 to 7; 8 skips (table 2)."""


def fbnet_layers(space: SearchSpace) -> LayerFunction:
    """Returns the layer function of the FBNet space at 224 pixels."""
    kernels, expansions, groups = (np.array([*column, 1]) for column in zip(*FBNET_OPERATORS, strict=True))

    def layers(population: Population) -> list[LayerSpec]:
        columns = space.columns(population)
        out = conv_norm_layers("stem", "stem", inputs=3, outputs=16, size=224, kernel=3, stride=2)
        size, channels, layer = 112, 16, 0
        for s, (width, count, first) in enumerate(FBNET_STAGES, start=1):
            for b in range(count):
                stride = first if b == 0 else 1
                choice = columns[f"op{layer}"].astype(np.int64)
                mid, group, there = channels * expansions[choice], groups[choice], choice != 8
                small = out_size(size, stride)
                before, after = size * size, small * small
                for name, inputs, outputs, kernel, of, read, written in (
                    ("expand", channels, mid, 1, group, before, before),
                    ("depthwise", mid, mid, kernels[choice], mid, before, after),
                    ("project", mid, width, 1, group, after, after),
                ):
                    out.append(
                        LayerSpec(
                            f"layer{layer}.{name}",
                            "conv",
                            f"stage{s}",
                            inputs,
                            outputs,
                            kernel,
                            of,
                            read,
                            written,
                            active=there,
                        )
                    )
                if stride > 1 or channels != width:  # a skip that changes the shape is a pointwise convolution
                    name = f"layer{layer}.skip"
                    out.append(
                        LayerSpec(name, "conv", f"stage{s}", channels, width, 1, 1, before, after, active=~there)
                    )
                size, channels, layer = small, width, layer + 1
        out += conv_norm_layers("head", "head", inputs=352, outputs=1984, size=size)
        out.append(LayerSpec("classifier", "linear", "head", 1984, 1000, bias=True))
        return out

    return layers


def fbnet(data: Path) -> Table:
    """5,000 nets of the FBNet space (22 layers of 9 operators) on 20 devices."""
    table = read(data / "help_fbnet_latency_ms.csv.gz")
    space = SearchSpace([Gene(f"op{i}", tuple(range(9))) for i in range(22)])
    names = [n for n in table if n != "index" and not n.startswith("op")]
    return Table("fbnet", space, encode(space, table), {n: table[n] for n in names}, fbnet_layers(space))


def hat(data: Path) -> list[Table]:
    """Four times 2,000 transformers: the ten published features as genes, one table per device."""
    table = read(data / "hat_transformer_latency_ms.csv.gz")
    names = list(table)[2:12]
    out = []
    for device in sorted({(t, d) for t, d in zip(table["task"], table["device"], strict=True)}):
        rows = (table["task"] == device[0]) & (table["device"] == device[1])
        part = {n: table[n][rows] for n in names}
        genes = [Gene(n, tuple(sorted(set(part[n].tolist())))) for n in names]
        space = SearchSpace([g for g in genes if len(g.choices) > 1])
        stds = np.hypot(table["latency_std_encoder"][rows], table["latency_std_decoder"][rows])
        label = f"{device[0]}@{device[1]}"
        values = {label: table["latency_ms"][rows]}
        out.append(Table("hat", space, encode(space, part), values, stds={label: stds}))
    return out


def nas_bench_macro(data: Path) -> Table:
    """CIFAR-10 accuracy of all 6,561 nets, three trainings each; without layer costs."""
    table = read(data / "nas_bench_macro_cifar10.csv.gz")
    space = SearchSpace([Gene(f"l{i}", (0, 1, 2)) for i in range(8)])
    names = ("mean_acc", "acc_seed0", "acc_seed1", "acc_seed2")
    extra = {n: table[n] for n in ("params", "flops")}
    return Table("macro", space, encode(space, table), {n: table[n] for n in names}, extra=extra)
