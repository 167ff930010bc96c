"""Small super-networks for the tests, and costs counted on a built module by hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import Family, SparsityGenes, Supernet

SPARSITY = SparsityGenes(choices=("dense", "unstructured-0.6", "2:4"))


def small_mlp() -> MLP:
    return MLP(input_shape=(1, 4, 4), n_classes=3, hidden=[(4, 8, 12), (6, 10)])


def small_mobilenet(*, resolutions: Sequence[int] | None = None) -> MobileNet:
    stages = (
        Stage(width=(8, 16), depth=(1, 2), kernel=(3, 5), expand=(2, 3)),
        Stage(width=(16, 24), depth=(1, 2, 3), kernel=(3, 5, 7), expand=(1, 2), se=True, act="hswish"),
    )
    return MobileNet(
        input_shape=(3, 9, 9), n_classes=5, stages=stages, stem=8, stem_stride=2, head=24, resolutions=resolutions
    )


FAMILIES = {"mlp": small_mlp, "mobilenet": small_mobilenet}


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Gives every floating tensor random values (running variances positive), so that nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)


def supernet(family: Family, *, sparse: bool = False, sparsity: SparsityGenes | None = None, seed: int = 0) -> Supernet:
    net = Supernet(family, sparsity=SPARSITY if sparse else sparsity, seed=seed)
    randomise(net.full, seed)
    return net.eval()


def counted_macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one example, counted while the module runs."""
    total = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += out[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += out[0].numel() * layer.in_features

    handles = [m.register_forward_hook(count) for m in module.modules()]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal_states(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
