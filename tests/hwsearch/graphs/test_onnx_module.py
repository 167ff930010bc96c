"""ONNX in: every operator against ONNX Runtime, whole networks both ways, and what a file is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from hwsearch.errors import UserError
from hwsearch.graphs.onnx_module import OnnxModule, close, read_onnx
from hwsearch.graphs.onnx_operators import OPERATORS
from hwsearch.graphs.onnx_values import Unsupported
from hwsearch.own_model import check_onnx, from_model
from search_spaces.from_model import space_from_model
from search_spaces.supernet import Supernet
from tests.search_spaces.from_model.styles import STYLES, made

IMAGE = (2, 4, 6, 6)


def values(*shape: int) -> Any:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def ints(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def one_node(path: Path, operator: str, constants: list[Any], *, shape: tuple[int, ...], **attributes: Any) -> Path:
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    node = helper.make_node(operator, ["x", *names], ["y"], name="the_node", **attributes)
    tensors = [numpy_helper.from_array(c, n) for n, c in zip(names, constants, strict=True) if c is not None]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])
    compares = operator.startswith(("Greater", "Less"))
    kind = attributes.get("to", TensorProto.BOOL if compares else TensorProto.FLOAT)
    y = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(path))
    return path


def agrees(path: Path, *inputs: np.ndarray[Any, Any]) -> OnnxModule:
    session = ort.InferenceSession(str(path))
    wanted = session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})
    module = read_onnx(path)
    with torch.no_grad():
        got = module(*map(torch.from_numpy, inputs))
    outs = list(got.values()) if isinstance(got, dict) else [got]
    assert all(close(mine, theirs, tolerance=1e-5) for mine, theirs in zip(outs, wanted, strict=True))
    return module


POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *[(name, [], {}) for name in ("Identity", "Neg", "Abs", "Exp", "Sin", "Cos", "Erf", "Floor", "Relu", "Sigmoid")],
    *[(name, [], {}) for name in ("Tanh", "Softplus", "HardSwish", "Gelu", "LeakyRelu", "Elu", "HardSigmoid")],
    *[(name, [], {}) for name in ("Softmax", "LogSoftmax", "Reciprocal", "GlobalAveragePool", "GlobalMaxPool")],
    ("Gelu", [], {"approximate": "tanh"}),
    *[(name, [values(4, 1, 1)], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    *[(name, [values(1)], {}) for name in ("Add", "Mul", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")],
    ("Pow", [np.array(2.0, dtype=np.float32)], {}),
    ("Clip", [np.array(-0.5, dtype=np.float32), None], {}),
    ("Clip", [np.array(0.0, dtype=np.float32), np.array(6.0, dtype=np.float32)], {}),
    ("Cast", [], {"to": TensorProto.INT64}),
    ("Reshape", [ints(0, 2, 2, -1)], {}),
    ("Flatten", [], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [ints(1, -1)], {}),
    ("Slice", [ints(1), ints(5), ints(2), ints(2)], {}),
    ("Slice", [ints(0, -3), ints(2**62, 2**62), ints(1, 3)], {}),
    ("Gather", [ints(2, 0)], {"axis": 1}),
    ("Expand", [ints(3, 1, 1, 1, 1)], {}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1), np.array(0.5, dtype=np.float32)], {}),
    ("CumSum", [np.array(1)], {}),
    ("Trilu", [np.array(1)], {"upper": 0}),
    *[
        (name, [ints(2, 3)], {"keepdims": 0})
        for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")
    ],
    ("ReduceMean", [], {}),
    ("MaxPool", [], POOL),
    ("AveragePool", [], POOL),
    ("AveragePool", [], {**POOL, "count_include_pad": 1, "ceil_mode": 1}),
    ("Resize", [None, np.array([1, 1, 2, 2], dtype=np.float32)], {"mode": "nearest"}),
    ("Resize", [None, None, ints(2, 4, 9, 9)], {"mode": "linear"}),
    ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ("InstanceNormalization", [values(4), values(4)], {}),
    ("Split", [ints(4)], {"axis": 1}),
    ("MatMul", [values(2, 4, 6, 3)], {}),
    ("MatMul", [values(6, 3)], {}),
    ("Conv", [values(8, 2, 3, 3), values(8)], {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", [values(4, 3, 2, 2)], {"strides": [2, 2], "output_padding": [1, 1]}),
    ("BatchNormalization", [values(4), values(4), values(4), values(4) ** 2], {}),
    ("LayerNormalization", [values(6), values(6)], {}),
    ("PRelu", [values(4, 1, 1)], {}),
]


@pytest.mark.parametrize(("operator", "constants", "attributes"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_an_operator_is_onnx_runtimes(
    tmp_path: Path, operator: str, constants: list[Any], attributes: dict[str, Any]
) -> None:
    path = one_node(tmp_path / "one.onnx", operator, constants, shape=IMAGE, **attributes)
    agrees(path, values(*IMAGE))


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(tmp_path: Path, turned: int) -> None:
    weight = values(5, 6) if turned else values(6, 5)
    path = one_node(tmp_path / "g.onnx", "Gemm", [weight, values(5)], shape=(3, 6), transB=turned)
    module = agrees(path, values(3, 6))
    linear = next(m for m in module.modules() if isinstance(m, nn.Linear))
    assert np.array_equal(linear.weight.detach().numpy(), weight if turned else weight.T)


def exported(path: Path, module: nn.Module, example: Any, *, new: bool) -> list[Tensor]:
    args = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    inputs = list(example.values()) if isinstance(example, dict) else list(args)
    if new:
        torch.onnx.export(
            module, args, str(path), kwargs=example if isinstance(example, dict) else None, dynamo=True, verbose=False,
            dynamic_shapes={k: {0: torch.export.Dim("batch")} for k in example} if isinstance(example, dict)
            else tuple({0: torch.export.Dim("batch")} for _ in args),
        )  # fmt: skip
    else:
        names = [f"in{i}" for i in range(len(args))]
        torch.onnx.export(
            module, args, str(path), dynamo=False, opset_version=17, input_names=names,
            dynamic_axes={n: {0: "batch"} for n in names},
        )  # fmt: skip
    return inputs


def held(module: nn.Module) -> set[bytes]:
    """Sorted numbers of every tensor: an order of axes or gates does not matter, a bit does."""
    tensors = (*module.parameters(), *module.buffers())
    return {np.sort(t.detach().numpy().ravel()).tobytes() for t in tensors}


OLD = [s for s in STYLES if s.name not in {"grouped_query", "hf_dict"}]  # which the tracing exporter does not take
QUICK = {"residual", "separate_qkv"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("style", "new"),
    [
        pytest.param(s, new, id=f"{s.name}-{'dynamo' if new else 'traced'}",
                     marks=() if s.name in QUICK and not new else pytest.mark.slow)
        for new in (False, True) for s in (STYLES if new else OLD)
    ],
)  # fmt: skip
def test_a_network_comes_back_and_can_be_searched(tmp_path: Path, style: Any, new: bool) -> None:
    path = tmp_path / "net.onnx"
    inputs = exported(path, made(style), style.example(), new=new)
    module = agrees(path, *(x.numpy() for x in inputs))
    numbers = [np.array(numpy_helper.to_array(t, str(tmp_path))) for t in onnx.load(str(path)).graph.initializer]
    floats = [n for n in numbers if n.dtype == np.float32 and n.ndim > 1 and n.size > 40]
    if style.name not in {"lstm", "gru"}:  # their gates are parts of one ONNX tensor each
        assert floats and {np.sort(n.ravel()).tobytes() for n in floats} <= held(module)
    net = Supernet(space_from_model(module, tuple(inputs)))
    whole, small = (net.extract(a)(*inputs) for a in (net.space.largest(), net.space.smallest()))
    got = module(*inputs)
    for first, second in zip(*(list(o.values()) if isinstance(o, dict) else [o] for o in (whole, got)), strict=True):
        assert torch.equal(first, second)
    assert isinstance(small, dict | Tensor)
    arch = net.space.smallest()
    assert net.layer_costs(arch).parameters[0] == sum(p.numel() for p in net.extract(arch).parameters())


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    with pytest.raises(Unsupported, match=r"must be an ONNX file, but"):
        read_onnx(path)
    one_node(path, "Det", [], shape=IMAGE)
    with pytest.raises(
        Unsupported, match=r"operators must be among those in docs/own_model.md, .*Det \(node 'the_node'\)"
    ):
        read_onnx(path)
    one_node(path, "Conv", [values(8, 4, 3, 3)], shape=IMAGE, auto_pad="SAME_UPPER")
    with pytest.raises(Unsupported, match=r"node 'the_node' \(Conv\): padding must be the same on both sides"):
        read_onnx(path)
    one_node(path, "DepthToSpace", [], shape=IMAGE, blocksize=2)
    with pytest.raises(Unsupported, match=r"node 'the_node' \(DepthToSpace\): .*mode DCR is not supported"):
        read_onnx(path)(torch.zeros(IMAGE))
    one_node(path, "Relu", [], shape=IMAGE)
    model = onnx.load(str(path))
    model.opset_import[0].version = 9
    onnx.save(model, str(path))
    with pytest.raises(Unsupported, match="must have ONNX opset 13 to 23, but has 9"):
        read_onnx(path)


def test_the_check_against_onnx_runtime(tmp_path: Path) -> None:
    path = one_node(tmp_path / "g.onnx", "Gemm", [values(6, 5), values(5)], shape=(3, 6))
    module = read_onnx(path)
    x = torch.from_numpy(values(3, 6))
    check_onnx(path, module, x)
    with pytest.raises(UserError, match=r"example inputs of .* must be \['x'\], but got \['z'\]"):
        check_onnx(path, module, {"z": x})
    with pytest.raises(UserError, match=r"must run on its example inputs, but"):
        check_onnx(path, module, x[:, :2])
    next(module.parameters()).data.add_(0.01)
    with pytest.raises(UserError, match=r"output 'y' of .* as a torch module must be ONNX Runtime's, but it differs"):
        check_onnx(path, module, x)


def test_a_file_is_a_model_of_the_configuration(tmp_path: Path) -> None:
    body = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    exported(tmp_path / "m.onnx", body, torch.zeros(2, 6), new=False)
    family = from_model(model=str(tmp_path / "m.onnx"), input_shape=(6,))
    assert [g.counts for g in family.groups] == [(8, 16, 24, 32)]


def test_every_operator_has_a_case() -> None:
    """Those that only meet shapes or belong to the networks are seen there: the list says which."""
    in_networks = {"Dropout", "Equal", "And", "Or", "Not", "Sqrt", "Log", "IsNaN", "Shape", "Squeeze", "Concat"}
    in_networks |= {"GatherND", "ConstantOfShape", "Range", "Where"}
    assert set(OPERATORS) == {name for name, _, _ in CASES if name in OPERATORS} | in_networks
