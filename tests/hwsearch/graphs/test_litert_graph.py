"""LiteRT files written layer by layer: equal to the module, operator by operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwsearch.errors import UserError

pytest.importorskip("ai_edge_litert")

from hwsearch.export.litert_exporter import LiteRtExporter
from hwsearch.graphs.litert_file import LiteRtFile


class Net(nn.Module):
    """Calls a function of its layers."""

    def __init__(self, forward, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.calls = forward
        self.shift = nn.Parameter(torch.arange(3.0).reshape(3, 1, 1))
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.calls(self, *inputs)


CASES = {
    "same": (nn.Conv2d(3, 6, 3, padding=1), (3, 9, 9)),
    "stride_odd": (nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()), (3, 9, 9)),
    "stride_even": (nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.ReLU6()), (3, 8, 8)),
    "valid": (nn.Conv2d(3, 6, (3, 2), dilation=2), (3, 9, 9)),
    "depthwise": (nn.Conv2d(4, 8, 5, 2, 2, groups=4), (4, 8, 8)),
    "depthwise_one": (nn.Sequential(nn.Conv2d(3, 3, 7, 1, 3, groups=3), nn.BatchNorm2d(3), nn.ReLU()), (3, 9, 9)),
    "fold": (nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Hardswish()), (3, 5, 5)),
    "relu_used_twice": (
        Net(lambda n, x: (lambda y: n.act(y) - y)(n.conv(x)), conv=nn.Conv2d(3, 3, 1), act=nn.ReLU()),
        (3, 5, 5),
    ),
    "norm_alone": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU6()), (3, 4, 4)),
    "norm_vector": (nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 2)), (7,)),
    "linear": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)), (5,)),
    "linear_tokens": (nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 5), nn.LayerNorm(5)), (6, 5)),
    "norm_without_bias": (nn.LayerNorm(5, bias=False), (6, 5)),
    "acts": (
        nn.Sequential(nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Identity()),
        (9,),
    ),
    "gelu_tanh": (nn.Sequential(nn.GELU(approximate="tanh")), (9,)),
    "flatten_image": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2), nn.Dropout()), (3, 5, 5)),
    "flatten_point": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (3, 5, 5)),
    "pools": (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)), (3, 11, 11)),
    "functions": (
        Net(lambda n, x: torch.cat([F.relu(x - 1), torch.flatten(x / 2, 1), 3 - x.relu(), x.mul(2)], dim=1)),
        (6,),
    ),
    "means": (Net(lambda n, x: x * x.mean((2, 3), keepdim=True) + x.mean(1, keepdim=True)), (3, 4, 5)),
    "mean_vector": (Net(lambda n, x: torch.mean(x, (-1, -2)).mean(1, keepdim=True)), (3, 4, 5)),
    "mean_tokens": (Net(lambda n, x: x.mean(1)), (4, 5)),
    "images_side_by_side": (Net(lambda n, x: torch.cat([x, x + 1], 1).mean((2, 3))), (3, 4, 5)),
    "own_tensor": (Net(lambda n, x: x + n.shift), (3, 4, 5)),
    "products": (Net(lambda n, x, y: x @ y), (4, 5), (5, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_agree_with_torch(name: str) -> None:
    module, *shapes = CASES[name]
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    module.eval()
    inputs = tuple(torch.randn(3, *shape, generator=generator) for shape in shapes)
    exporter = LiteRtExporter()
    artifact = exporter.export(module, tuple(x[:1] for x in inputs), costs={})
    with torch.no_grad():
        want = module(*(x.clone() for x in inputs)).numpy()
    got = exporter.run(artifact, tuple(x.numpy() for x in inputs))
    if want.ndim == 4:  # images come out as they go in: channels last
        got = np.moveaxis(got, -1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    again = exporter.run(artifact, tuple(x[:1].numpy() for x in inputs))  # the batch is open
    np.testing.assert_allclose(np.moveaxis(again, -1, 1) if want.ndim == 4 else again, want[:1], rtol=1e-4, atol=2e-5)


def test_embedding_reads_whole_numbers() -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4)).eval()
    exporter = LiteRtExporter()
    artifact = exporter.export(module, (torch.zeros(1, 3, dtype=torch.int64),), costs={})
    tokens = torch.tensor([[0, 6, 3], [1, 1, 2]])
    got = exporter.run(artifact, (tokens.numpy(),))
    np.testing.assert_allclose(got, module(tokens).detach().numpy(), rtol=1e-4, atol=1e-5)


REFUSED = {
    "groups": (nn.Conv2d(4, 4, 1, groups=2), (4, 3, 3), "convolution with 2 groups of 4 channels"),
    "padding": (nn.Conv2d(4, 4, 1, padding="same"), (4, 3, 3), "convolution with padding"),
    "linear_on_images": (nn.Linear(3, 3), (4, 3, 3), "a linear layer on images"),
    "norm_of_images": (nn.LayerNorm(3), (4, 3, 3), "LayerNorm over several axes, or of images"),
    "layer": (nn.Softplus(), (4,), "layer Softplus"),
    "function": (Net(lambda n, x: torch.cumsum(x, 1)), (4,), "function cumsum"),
    "pool_up": (nn.AvgPool2d(2, ceil_mode=True), (4, 3, 3), "pooling with ceil_mode"),
    "pool_pad": (nn.AvgPool2d(3, 1, 1), (4, 3, 3), "average pooling that counts its padding"),
    "pool_even": (nn.MaxPool2d(3, 2, 1), (4, 8, 8), "pooling whose padding is not the format's"),
    "mean_batch": (Net(lambda n, x: x.mean(0)), (4,), "mean over the batch"),
    "mean_height": (Net(lambda n, x: x.mean(2)), (4, 3, 3), "mean of images over"),
    "cat_batch": (Net(lambda n, x: torch.cat([x, x])), (4,), "cat along the batch"),
    "ranks": (Net(lambda n, x: x + x.mean((2, 3))), (4, 3, 3), "add of values with different numbers of axes"),
    "input": (Net(lambda n, x: x), (4,), "a module that returns its input"),
    "product": (Net(lambda n, x: x @ n.shift), (4, 4), "a matrix product that is not of two batches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_in_the_tables_is_refused(name: str) -> None:
    module, shape, message = REFUSED[name]
    with pytest.raises(UserError, match=f"cannot be exported to LiteRT: {message}"):
        LiteRtExporter().export(module.eval(), (torch.ones(1, *shape),), costs={})


def test_the_layer_is_named() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))).eval()
    with pytest.raises(UserError, match=r"convolution with 2 groups of 4 channels, in layer 1\.0\.$"):
        LiteRtExporter().export(module, (torch.ones(1, 4, 3, 3),), costs={})


def test_file_refuses_unknown_options() -> None:
    file = LiteRtFile()
    tensor = file.tensor((3,))
    with pytest.raises(ValueError, match="operator ADD has no option colour"):
        file.operator("ADD", [tensor, tensor], tensor, {"colour": 1})
    with pytest.raises(ValueError, match="operator RELU has no options, but got"):
        file.operator("RELU", [tensor], tensor, {"colour": 1})


def test_equal_constants_are_stored_once() -> None:
    file = LiteRtFile()
    one = file.constant(np.ones(4, np.float32))
    assert file.constant(np.ones(4, np.float32)) == one
    assert file.constant(np.ones(4, np.int32)) != one
    assert file.constant(np.ones((2, 2), np.float32)) != one


@pytest.mark.parametrize("channels", [100, 300, 70_000])
def test_weights_that_are_mostly_zero_are_stored_as_their_non_zeros(channels: int) -> None:
    # 100, 300 and 70,000 columns: positions of one, two and four bytes.
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(channels, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
    exporter = LiteRtExporter()
    example = (torch.randn(1, channels, generator=generator),)
    dense = exporter.export(module, example, costs={})
    with torch.no_grad():
        module[0].weight.mul_(torch.rand(module[0].weight.shape, generator=generator) < 0.1)
    artifact = exporter.export(module, example, costs={})
    assert len(artifact.content) < 0.5 * len(dense.content) + 2000
    x = torch.randn(3, channels, generator=generator)
    np.testing.assert_allclose(exporter.run(artifact, (x.numpy(),)), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_sparse_convolutions_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 12, 3))
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim == 4:
                weight.mul_(torch.rand(weight.shape, generator=generator) < 0.2)
        module[0].weight[:, :] = 0  # a matrix without any non-zero
    exporter = LiteRtExporter()
    artifact = exporter.export(module.eval(), (torch.ones(1, 8, 7, 7),), costs={})
    x = torch.randn(2, 8, 7, 7, generator=generator)
    got = np.moveaxis(exporter.run(artifact, (x.numpy(),)), -1, 1)
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
