"""Low rank: linear and convolutional layers as two plain layers, by SVD of a trained one or as a gene of any family."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.layers import LayerSpec
from search_spaces.slicing import Transform
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns, Family

REDUCE, EXPAND = "reduce", "expand"


def rank_of(ratio: Any, outputs: Any, inputs: Any, kernel: Any = 1) -> Any:
    """Returns max(1, floor(ratio * min(outputs, inputs * kernel^2) + 1/2)); numbers or arrays (n,)."""
    full = np.minimum(outputs, inputs * kernel * kernel)
    return np.maximum(1, np.floor(np.asarray(ratio) * full + 0.5).astype(np.int64))


def blank_factors(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """Returns `reduce` (the layer's kernel and stride, to `rank` channels) and `expand` (1x1, with the bias)."""
    bias = layer.bias is not None
    pair: OrderedDict[str, nn.Module]
    if isinstance(layer, nn.Linear):
        pair = OrderedDict(
            reduce=nn.Linear(layer.in_features, rank, bias=False),
            expand=nn.Linear(rank, layer.out_features, bias=bias),
        )
        return nn.Sequential(pair)
    if layer.groups != 1:
        raise ValueError(f"a low-rank convolution must have groups = 1, but got {layer.groups}.")
    assert not isinstance(layer.padding, str)
    pair = OrderedDict(
        reduce=nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=False,
        ),
        expand=nn.Conv2d(rank, layer.out_channels, 1, bias=bias),
    )
    return nn.Sequential(pair)


@torch.no_grad()
def factorise(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """Returns the two layers whose product is the best approximation of rank `rank` (Frobenius norm).

    With W = U S V^T as (outputs, inputs * kernel^2): reduce = S^(1/2) V^T, expand = U S^(1/2), so that leading
    ranks matter most. At full rank the product is W. Source: Eckart and Young 1936; Maestro (Horvath et al. 2023).

    Raises:
        ValueError: rank not between 1 and the smaller side, or a grouped convolution.
    """
    weight = layer.weight
    matrix = weight.detach().reshape(len(weight), -1)
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank must be between 1 and {min(matrix.shape)}, but got {rank}.")
    pair = blank_factors(layer, rank).to(weight.device, weight.dtype)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = values[:rank].sqrt()
    reduce, expand = pair.get_submodule(REDUCE), pair.get_submodule(EXPAND)
    _weight(reduce).copy_((root[:, None] * right[:rank]).reshape(_weight(reduce).shape))
    _weight(expand).copy_((left[:, :rank] * root).reshape(_weight(expand).shape))
    if layer.bias is not None:
        assert isinstance(expand.bias, Tensor)
        expand.bias.copy_(layer.bias)
    return pair


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


@torch.no_grad()
def merge(pair: nn.Sequential) -> nn.Linear | nn.Conv2d:
    """Returns the one layer that computes the same as the two of `factorise`; the inverse at full rank."""
    reduce, expand = pair.get_submodule(REDUCE), pair.get_submodule(EXPAND)
    product = _weight(expand).reshape(len(_weight(expand)), -1) @ _weight(reduce).reshape(len(_weight(reduce)), -1)
    bias = expand.bias if isinstance(expand.bias, Tensor) else None
    made: nn.Linear | nn.Conv2d
    if isinstance(reduce, nn.Conv2d):
        assert isinstance(expand, nn.Conv2d) and not isinstance(reduce.padding, str)
        made = nn.Conv2d(
            reduce.in_channels,
            expand.out_channels,
            reduce.kernel_size,  # type: ignore[arg-type]
            reduce.stride,  # type: ignore[arg-type]
            reduce.padding,  # type: ignore[arg-type]
            reduce.dilation,  # type: ignore[arg-type]
            bias=bias is not None,
        )
    else:
        made = nn.Linear(reduce.weight.shape[1], len(product), bias=bias is not None)  # type: ignore[index, arg-type]
    made.weight.copy_(product.reshape(made.weight.shape))
    if bias is not None:
        assert made.bias is not None
        made.bias.copy_(bias)
    return made


class LowRank(Family):
    """Any family with its plain conv and linear layers factorised: one rank-ratio gene per stage.

    All ratios share weights: a smaller one uses the leading ranks. Training that samples ratios orders the ranks by
    importance (ordered dropout over ranks, Maestro). Layers that may not be sparse (first layer, classifier,
    depthwise) and layers with a transform stay whole. At ratio 1 a layer costs more than unfactorised: leave 1 out
    unless the comparison is wanted.

    Args:
        base: the family.
        ratios: choices of the share of the full rank, in (0, 1].
    """

    def __init__(self, base: Family, *, ratios: tuple[float, ...]) -> None:
        if not ratios or any(not 0.0 < r <= 1.0 for r in ratios):
            raise ValueError(f"rank ratios must be in (0, 1], at least one, but got {list(ratios)}.")
        self.base, self.ratios = base, ratios
        self.name = f"low-rank-{base.name}"
        self.input_shape = base.input_shape
        row = base.space.row(base.space.largest())
        layers = base.layers(base.space.columns(row[None]))
        self._stages = {layer.name: layer.stage for layer in layers if self._splits(layer)}
        genes = [Gene(f"{stage}.rank", ratios) for stage in dict.fromkeys(self._stages.values())]
        self.space = SearchSpace([*base.space.genes, *genes])

    def _splits(self, layer: LayerSpec) -> bool:
        return layer.may_be_sparse and f"{layer.name}.weight" not in self.base.transforms

    @property
    def transforms(self) -> Mapping[str, Transform]:  # type: ignore[override]
        """The base's: factorised layers have none."""
        return self.base.transforms

    def build(self, arch: Architecture) -> nn.Module:
        """Returns the base's module with every factorisable layer as a Sequential of `reduce` and `expand`."""
        module = self.base.build(arch)
        for name, stage in self._stages.items():
            parent_name, _, leaf = name.rpartition(".")
            try:
                layer = module.get_submodule(name)
            except AttributeError:
                continue  # this architecture has no such block
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            kernel = layer.weight.shape[2] if layer.weight.dim() > 2 else 1
            rank = int(rank_of(float(arch[f"{stage}.rank"]), layer.weight.shape[0], layer.weight.shape[1], kernel))
            setattr(module.get_submodule(parent_name), leaf, blank_factors(layer, rank))
        return module

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns the base's layers, factorised ones as two."""
        out = []
        for layer in self.base.layers(columns):
            if layer.name not in self._stages:
                out.append(layer)
                continue
            ratio = columns[f"{layer.stage}.rank"].astype(np.float64)
            rank = rank_of(ratio, layer.outputs, layer.inputs, layer.kernel)
            out.append(replace(layer, name=f"{layer.name}.{REDUCE}", outputs=rank, bias=False))
            out.append(
                replace(
                    layer,
                    name=f"{layer.name}.{EXPAND}",
                    inputs=rank,
                    kernel=1,
                    positions_in=layer.positions,
                )
            )
        return out

    def source(self, name: str, arch: Architecture) -> str:
        """Returns the base's source of a tensor that it knows; factors are their own."""
        layer = name.rpartition(".")[0].rpartition(".")[0]
        return name if layer in self._stages else self.base.source(name, arch)

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the base's groups, and the ranks of every factorised layer."""

        def moved(member: tuple[str, int]) -> tuple[str, int]:
            name, dim = member
            layer, _, leaf = name.rpartition(".")
            if layer not in self._stages:
                return member
            part = EXPAND if leaf == "bias" or dim == 0 else REDUCE
            return f"{layer}.{part}.{leaf}", dim

        groups = [
            ChannelGroup(tuple(moved(m) for m in group.members), score=moved(group.score), block=group.block)
            for group in self.base.channel_groups()
        ]
        return groups + [rank_group(name) for name in self._stages]

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns the base's inputs."""
        return self.base.example_inputs(batch=batch, generator=generator, arch=arch)


def rank_group(name: str) -> ChannelGroup:
    """Returns the ranks of a factorised layer as coupled channels, scored by what reads them."""
    members = ((f"{name}.{REDUCE}.weight", 0), (f"{name}.{EXPAND}.weight", 1))
    return ChannelGroup(members, score=members[1])
