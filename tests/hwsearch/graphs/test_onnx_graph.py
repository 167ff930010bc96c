"""ONNX files written layer by layer: valid, and equal to the module, operator by operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwsearch.export.base import eval_mode
from hwsearch.export.onnx_exporter import OPSET, OnnxExporter, cpu_session, trace
from hwsearch.graphs.layer_trace import Unsupported, Value, trace_layers
from hwsearch.graphs.onnx_file import onnx_file
from hwsearch.graphs.onnx_graph import build_onnx
from tests.contracts.nets import conv_supernet, mlp_supernet, subnet


class Net(nn.Module):
    """Calls a function of its layers."""

    def __init__(self, forward, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.calls = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.calls(self, *inputs)


def inplace(net: Net, x: Tensor) -> Tensor:
    x = x * 2
    net.act(x)  # overwrites x
    return x + 1


def iadd(net: Net, x: Tensor) -> Tensor:
    y = x * 2
    z = y
    y += 3
    return z * y


CASES = {
    "conv": (nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=2, groups=3, bias=False), (3, 9, 9)),
    "conv_bias_norm": (nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)), (3, 5, 5)),
    "conv_norm_twice_used": (
        Net(lambda n, x: n.bn(n.conv(x)) + n.conv(x), conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3)),
        (3, 5, 5),
    ),
    "shared_value": (
        Net(lambda n, x: (lambda y: n.bn(y) + y)(n.conv(x)), conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3)),
        (3, 5, 5),
    ),
    "conv_with_two_norms": (
        Net(
            lambda n, x: n.a(n.conv(x)) * n.b(n.conv(x)),
            conv=nn.Conv2d(3, 3, 1),
            a=nn.BatchNorm2d(3),
            b=nn.BatchNorm2d(3),
        ),
        (3, 5, 5),
    ),
    "linear_of_two_ranks": (Net(lambda n, x: n.fc(x.mean(1)) + n.fc(x).mean(1), fc=nn.Linear(5, 4)), (6, 5)),
    "norm_alone": (nn.BatchNorm2d(3), (3, 4, 4)),
    "norm_plain": (nn.Sequential(nn.BatchNorm1d(7, affine=False), nn.Linear(7, 2, bias=False)), (7,)),
    "linear_3d": (nn.Linear(5, 4), (6, 5)),
    "linear_3d_plain": (nn.Linear(5, 4, bias=False), (6, 5)),
    "layernorm": (nn.LayerNorm(5), (6, 5)),
    "gelu": (nn.GELU(), (6,)),
    "silu": (nn.SiLU(), (6,)),
    "acts": (
        nn.Sequential(nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Identity(), nn.ReLU()),
        (9,),
    ),
    "dropout": (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 2)), (3, 4)),
    "pools": (
        nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (3, 12, 12),
    ),
    "avgpool_without_pad": (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (3, 8, 8)),
    "pools_rounded_up": (nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.MaxPool2d(2, ceil_mode=True)), (3, 9, 9)),
    "functions": (
        Net(lambda n, x: torch.cat([F.relu(x - 1), torch.flatten(x / 2, 1), 3 - x.relu(), x.mul(2)], dim=1)),
        (6,),
    ),
    "means": (
        Net(lambda n, x: torch.mean(x, (2, 3)) + x.mean((-1, -2), keepdim=True).flatten(1) + x.mean(3).mean(dim=2)),
        (3, 4, 5),
    ),
    "matmul_of_inputs": (Net(lambda n, x, y: x @ torch.matmul(x, y) + y), (4, 4), (4, 4)),
    "inplace_layer": (Net(inplace, act=nn.ReLU(inplace=True)), (5,)),
    "inplace_add": (Net(iadd), (5,)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_agree_with_torch(name: str) -> None:
    module, *shapes = CASES[name]
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
            if part.affine:
                with torch.no_grad():
                    part.weight.copy_(torch.randn(part.weight.shape, generator=generator))
                    part.bias.copy_(torch.randn(part.bias.shape, generator=generator))
    inputs = tuple(torch.randn(3, *shape, generator=generator) for shape in shapes)
    module.eval()
    names = [f"in{i}" for i in range(len(inputs))]
    content = build_onnx(module, tuple(x[:1] for x in inputs), names, opset=OPSET)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    got = cpu_session(content).run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})[0]
    with torch.no_grad():
        want = module(*(x.clone() for x in inputs)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_embedding_reads_whole_numbers() -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4)).eval()
    content = build_onnx(module, (torch.zeros(1, 3, dtype=torch.int64),), ["tokens"], opset=OPSET)
    tokens = torch.tensor([[0, 6, 3], [1, 1, 2]])
    got = cpu_session(content).run(None, {"tokens": tokens.numpy()})[0]
    np.testing.assert_allclose(got, module(tokens).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [conv_supernet, mlp_supernet])
def test_families_need_no_tracing(make) -> None:
    for largest in (True, False):
        module, example, _ = subnet(make(), largest=largest)
        direct = build_onnx(module, example, ["input"], opset=OPSET)
        assert direct == OnnxExporter().export(module, example, costs={}).content
        traced = trace(module, example, ["input"])
        x = torch.randn(4, *example[0].shape[1:]).numpy()
        outputs = [cpu_session(content).run(None, {"input": x})[0] for content in (direct, traced)]
        np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def control_flow(net: Net, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


REFUSED = {
    "attribute": (Net(lambda n, x: x.view(-1)), "tensor attribute view"),
    "shape": (Net(lambda n, x: x * x.shape[1]), "tensor attribute shape"),
    "truth": (Net(lambda n, x: x + 1 if x else x), "control flow or arithmetic on a tensor"),
    "comparison": (Net(lambda n, x: x if x == 0 else x + 1), "control flow or arithmetic on a tensor"),
    "iteration": (Net(lambda n, x: sum(x)), "control flow or arithmetic on a tensor"),
    "function": (Net(lambda n, x: torch.cumsum(x, 1)), "function cumsum"),
    "layer": (nn.LSTM(4, 4), "layer LSTM"),
    "pair": (Net(lambda n, x: (x, x)), "an output of type tuple"),
    "nothing_done": (Net(lambda n, x: x), "a module that returns its input"),
    "flatten": (nn.Flatten(0), "flatten from 0 to -1"),
    "padding": (nn.Conv2d(4, 4, 1, padding="same"), "convolution with padding"),
    "norm": (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm without running statistics"),
    "tensor_option": (Net(lambda n, x: torch.mean(x, dim=x)), "function mean with a tensor as an option"),
    "mean": (Net(lambda n, x: x.mean()), "mean over everything"),
    "alpha": (Net(lambda n, x: torch.add(x, x, alpha=2)), r"Add with options \['alpha'\]"),
    "foreign_tensor": (Net(lambda n, x: x + torch.ones(4)), "operand of type Tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_in_the_tables_is_refused(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(Unsupported, match=message), eval_mode(module):
        build_onnx(module, (torch.ones(1, 4),), ["x"], opset=OPSET)


def test_what_is_refused_is_traced() -> None:
    module = Net(lambda n, x: torch.cumsum(x, 1) + 1)
    artifact = OnnxExporter().export(module, (torch.ones(1, 4),), costs={})
    got = OnnxExporter().run(artifact, (np.ones((2, 4), np.float32),))
    np.testing.assert_allclose(got, [[2, 3, 4, 5]] * 2)


def test_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="module must be in eval mode"):
        build_onnx(nn.Linear(4, 4), (torch.ones(1, 4),), ["x"], opset=OPSET)


def test_other_modules_run_while_tracing() -> None:
    side = nn.Linear(2, 2)
    net = Net(lambda n, x: n.layer(x) + float(side(torch.ones(1, 2)).sum()), layer=nn.ReLU())
    steps = trace_layers(net, 1).steps
    assert [step.kind for step in steps] == ["layer", "add"]
    assert steps[1].inputs[0] == Value(1)
    assert isinstance(steps[1].inputs[1], float)


def test_module_tensors_are_constants() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.arange(4.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.shift + x * self.shift

    content = build_onnx(Shifted().eval(), (torch.ones(1, 4),), ["x"], opset=OPSET)
    assert [t.name for t in onnx.load_from_string(content).graph.initializer] == ["shift"]
    got = cpu_session(content).run(None, {"x": np.full((1, 4), 2, np.float32)})[0]
    np.testing.assert_allclose(got, [[0, 3, 6, 9]])


def test_file_holds_every_tensor_once() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [300])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [300])
    node = onnx.helper.make_node("Add", ["x", "big"], ["y"])
    big = np.arange(300, dtype=np.float32)
    content = onnx_file(
        [node], {"big": big, "none": np.zeros((0, 2), np.int64)}, inputs=[value], outputs=[out], opset=17
    )
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    read = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(read["big"], big)
    assert read["none"].shape == (0, 2)
    assert model.SerializeToString(deterministic=True) != b""
    assert model.ir_version == 8 and model.opset_import[0].version == 17
