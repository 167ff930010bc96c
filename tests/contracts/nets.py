"""Small plain modules that contract tests export and measure, with the costs of their architectures."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import SparsityGenes, Supernet


@cache
def conv_supernet() -> Supernet:
    stages = [Stage(width=(16, 24)), Stage(width=(24, 32), se=True, act="hswish")]
    family = MobileNet(input_shape=(3, 16, 16), n_classes=10, stages=stages, stem=8, head=64)
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.8", "2:4")), seed=1)


@cache
def mlp_supernet() -> Supernet:
    family = MLP(input_shape=(8, 8), n_classes=10, hidden=[(32, 64), (16, 32)])
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.9")), seed=1)


def subnet(supernet: Supernet, *, largest: bool) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, float]]:
    """Returns a plain module with lively BatchNorm statistics, one example and its costs."""
    arch = supernet.space.largest() if largest else supernet.space.smallest()
    module = supernet.extract(arch)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None and part.running_var is not None
                part.running_mean.copy_(0.1 * torch.randn(part.running_mean.shape, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))
    costs = {name: float(value) for name, value in supernet.layer_costs(arch).metrics().items()}
    return module, supernet.family.example_inputs(generator=generator), costs
