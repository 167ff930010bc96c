"""ONNX written directly from the layers of a plain module, each as its node: much faster than torch's exporter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from hwsearch.graphs.fold import affine
from hwsearch.graphs.layer_trace import LayerTrace, Step, Unsupported, Value, trace_layers, write_step
from hwsearch.graphs.onnx_file import onnx_file, onnx_node

DTYPES = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.int32: TensorProto.INT32}


class _Writer:
    """Collects nodes and tensors. Values are numbered as in the trace; `rank` knows their dimensions."""

    def __init__(self, trace: LayerTrace, names: Sequence[str]) -> None:
        self.trace = trace
        self.names: dict[int, str] = dict(enumerate(names))
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.rank: dict[str, int] = {}
        self.users: dict[int, list[Step]] = {}
        self.written: set[int] = set()
        for step in trace.steps:
            for operand in step.inputs:
                if isinstance(operand, Value):
                    self.users.setdefault(operand.number, []).append(step)

    def name(self, number: int) -> str:
        """Returns the name of the value that a step gives."""
        return self.names.setdefault(number, "output" if number == self.trace.output else f"v{number}")

    def tensor(self, name: str, values: NDArray[Any] | Tensor) -> str:
        """Adds a constant; returns its name."""
        if name not in self.tensors:
            array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
            self.tensors[name] = array
            self.rank[name] = array.ndim
        return name

    def scalar(self, value: float) -> str:
        """Adds a number; returns its name."""
        return self.tensor(f"scalar_{value!r}", np.array(value, np.float32))

    def add(self, operator: str, inputs: Sequence[str], output: str, *, rank: int, **attributes: Any) -> None:
        """Adds a node."""
        self.nodes.append(onnx_node(operator, inputs, output, attributes))
        self.rank[output] = rank

    def operand(self, operand: object) -> str:
        """Returns the name of an operand: an earlier value, a number, or a tensor of the module."""
        if isinstance(operand, Value):
            return self.name(operand.number)
        if isinstance(operand, Tensor) and id(operand) in self.trace.owned:
            return self.tensor(self.trace.owned[id(operand)], operand)
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            return self.scalar(float(operand))
        raise Unsupported(f"operand of type {type(operand).__name__}")

    def source(self, step: Step) -> str:
        """Returns the name of a step's first operand."""
        return self.operand(step.inputs[0])


def build_onnx(module: nn.Module, example: tuple[Tensor, ...], names: Sequence[str], *, opset: int) -> bytes:
    """Returns the ONNX file of a module in eval mode, BatchNorm folded into the convolution before it.

    Args:
        module: plain module, in eval mode.
        example: its inputs; only dtypes and shapes without batch are used.
        names: of the inputs.
        opset: 17.

    Raises:
        Unsupported: the module has control flow or an operator without an entry in the tables below; names it.
    """
    if any(part.training for part in module.modules()):
        raise ValueError("module must be in eval mode.")
    trace = trace_layers(module, len(example))
    if trace.output < trace.n_inputs:
        raise Unsupported("a module that returns its input")
    writer = _Writer(trace, names)
    inputs = []
    for name, tensor in zip(names, example, strict=True):
        if tensor.dtype not in DTYPES:
            raise Unsupported(f"input of type {tensor.dtype}")
        shape = ["batch", *tensor.shape[1:]]
        inputs.append(helper.make_tensor_value_info(name, DTYPES[tensor.dtype], shape))
        writer.rank[name] = tensor.dim()
    for step in trace.steps:
        if step.output not in writer.written:
            write_step(writer, step, LAYERS, FUNCTIONS)
    shape = ["batch", *[None] * (writer.rank["output"] - 1)]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
    return onnx_file(writer.nodes, writer.tensors, inputs=inputs, outputs=[output], opset=opset)


# ---- layers ---------------------------------------------------------------------------------------------------


def _conv(writer: _Writer, step: Step, part: nn.Conv2d) -> None:
    if part.padding_mode != "zeros" or isinstance(part.padding, str):
        raise Unsupported(f"convolution with padding {part.padding_mode} {part.padding}")
    weight: NDArray[Any] = part.weight.detach().cpu().numpy()
    bias = None if part.bias is None else part.bias.detach().cpu().numpy()
    out, users = step.output, writer.users.get(step.output, [])
    norm = users[0].layer if len(users) == 1 and out != writer.trace.output else None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
        scale, shift = affine(norm)
        weight = weight * scale.astype(np.float32)[:, None, None, None]
        bias = (shift + (0.0 if bias is None else bias * scale)).astype(np.float32)
        out = users[0].output
        writer.written.add(out)
    # A convolution that is called twice may be folded with two norms, or with none.
    name = step.path if out == step.output else f"{step.path}+{users[0].path}"
    operands = [writer.source(step), writer.tensor(f"{name}.weight", weight)]
    if bias is not None:
        operands.append(writer.tensor(f"{name}.bias", bias))
    height, width = (int(p) for p in part.padding)
    writer.add(
        "Conv",
        operands,
        writer.name(out),
        rank=4,
        kernel_shape=list(part.kernel_size),
        strides=list(part.stride),
        pads=[height, width, height, width],
        dilations=list(part.dilation),
        group=part.groups,
    )


def _batchnorm(writer: _Writer, step: Step, part: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if part.running_mean is None:
        raise Unsupported("BatchNorm without running statistics")
    name, ones = step.path, torch.ones_like(part.running_mean)
    operands = [
        writer.source(step),
        writer.tensor(f"{name}.weight", part.weight if part.affine else ones),
        writer.tensor(f"{name}.bias", part.bias if part.affine else 0 * ones),
        writer.tensor(f"{name}.running_mean", part.running_mean),
        writer.tensor(f"{name}.running_var", cast(Tensor, part.running_var)),
    ]
    writer.add(
        "BatchNormalization", operands, writer.name(step.output), rank=writer.rank[operands[0]], epsilon=part.eps
    )


def _linear(writer: _Writer, step: Step, part: nn.Linear) -> None:
    x, path, out = writer.source(step), step.path, writer.name(step.output)
    bias: Tensor | None = part.bias
    rank = writer.rank[x]
    biases = [] if bias is None else [writer.tensor(f"{path}.bias", bias)]
    if rank == 2:
        writer.add("Gemm", [x, writer.tensor(f"{path}.weight", part.weight), *biases], out, rank=rank, transB=1)
        return
    product = f"{out}.product" if biases else out
    writer.add("MatMul", [x, writer.tensor(f"{path}.weight.transposed", part.weight.T)], product, rank=rank)
    if biases:
        writer.add("Add", [product, *biases], out, rank=rank)


def _layernorm(writer: _Writer, step: Step, part: nn.LayerNorm) -> None:
    if not part.elementwise_affine:
        raise Unsupported("LayerNorm without weights")
    name, x = step.path, writer.source(step)
    operands = [x, writer.tensor(f"{name}.weight", part.weight)]
    if part.bias is not None:
        operands.append(writer.tensor(f"{name}.bias", part.bias))
    axis = -len(part.normalized_shape)
    writer.add(
        "LayerNormalization", operands, writer.name(step.output), rank=writer.rank[x], axis=axis, epsilon=part.eps
    )


def _embedding(writer: _Writer, step: Step, part: nn.Embedding) -> None:
    if part.max_norm is not None:
        raise Unsupported("Embedding with max_norm")
    x = writer.source(step)
    weight = writer.tensor(f"{step.path}.weight", part.weight)
    writer.add("Gather", [weight, x], writer.name(step.output), rank=writer.rank[x] + 1, axis=0)


def _plain(operator: str, **attributes: Any) -> Callable[[_Writer, Step, Any], None]:
    """Returns the handler of a layer without weights that keeps the rank."""

    def handler(writer: _Writer, step: Step, part: Any) -> None:
        x = writer.source(step)
        writer.add(operator, [x], writer.name(step.output), rank=writer.rank[x], **attributes)

    return handler


def _relu6(writer: _Writer, step: Step, part: Any = None) -> None:
    x = writer.source(step)
    writer.add("Clip", [x, writer.scalar(0.0), writer.scalar(6.0)], writer.name(step.output), rank=writer.rank[x])


def _gelu(writer: _Writer, step: Step, part: nn.GELU) -> None:
    if part.approximate != "none":
        raise Unsupported(f"GELU with approximate={part.approximate}")
    x, name = writer.source(step), writer.name(step.output)
    rank = writer.rank[x]
    writer.add("Div", [x, writer.scalar(math.sqrt(2.0))], f"{name}.scaled", rank=rank)
    writer.add("Erf", [f"{name}.scaled"], f"{name}.erf", rank=rank)
    writer.add("Add", [f"{name}.erf", writer.scalar(1.0)], f"{name}.shifted", rank=rank)
    writer.add("Mul", [x, f"{name}.shifted"], f"{name}.product", rank=rank)
    writer.add("Mul", [f"{name}.product", writer.scalar(0.5)], name, rank=rank)


def _silu(writer: _Writer, step: Step, part: Any = None) -> None:
    x = writer.source(step)
    writer.add("Sigmoid", [x], f"{writer.name(step.output)}.gate", rank=writer.rank[x])
    writer.add("Mul", [x, f"{writer.name(step.output)}.gate"], writer.name(step.output), rank=writer.rank[x])


def _identity(writer: _Writer, step: Step, part: Any = None) -> None:
    x = writer.source(step)
    writer.add("Identity", [x], writer.name(step.output), rank=writer.rank[x])


def _flatten_layer(writer: _Writer, step: Step, part: nn.Flatten) -> None:
    _flatten(writer, step, part.start_dim, part.end_dim)


def _flatten(writer: _Writer, step: Step, start: int, end: int) -> None:
    x = writer.source(step)
    if start != 1 or end not in (-1, writer.rank[x] - 1):
        raise Unsupported(f"flatten from {start} to {end}")
    writer.add("Flatten", [x], writer.name(step.output), rank=2, axis=1)


def _adaptive_pool(writer: _Writer, step: Step, part: nn.AdaptiveAvgPool2d) -> None:
    if part.output_size not in (1, (1, 1)):
        raise Unsupported(f"adaptive pooling to {part.output_size}")
    writer.add("GlobalAveragePool", [writer.source(step)], writer.name(step.output), rank=4)


def _pool(writer: _Writer, step: Step, part: nn.MaxPool2d | nn.AvgPool2d) -> None:
    def pair(value: Any) -> list[int]:
        return [value, value] if isinstance(value, int) else list(value)

    attributes: dict[str, Any] = {
        "kernel_shape": pair(part.kernel_size),
        "strides": pair(part.stride or part.kernel_size),
        "pads": pair(part.padding) * 2,
        "ceil_mode": int(part.ceil_mode),
    }
    if isinstance(part, nn.MaxPool2d) and (pair(part.dilation) != [1, 1] or part.return_indices):
        raise Unsupported("pooling with dilation or indices")
    if isinstance(part, nn.AvgPool2d):
        padded = pair(part.padding) != [0, 0]
        if part.divisor_override is not None or (part.ceil_mode and padded):
            raise Unsupported("average pooling with divisor_override, or with ceil_mode and padding")
        attributes["count_include_pad"] = int(part.count_include_pad and padded)
    name = "MaxPool" if isinstance(part, nn.MaxPool2d) else "AveragePool"
    writer.add(name, [writer.source(step)], writer.name(step.output), rank=4, **attributes)


# ---- functions and methods ------------------------------------------------------------------------------------


def _binary(operator: str) -> Callable[[_Writer, Step], None]:
    def handler(writer: _Writer, step: Step) -> None:
        if step.arguments or step.options:
            raise Unsupported(f"{operator} with options {[*step.arguments, *step.options]}")
        operands = [writer.operand(operand) for operand in step.inputs]
        writer.add(operator, operands, writer.name(step.output), rank=max(writer.rank[name] for name in operands))

    return handler


def _mean(writer: _Writer, step: Step) -> None:
    x = writer.source(step)
    axes, keep = _arguments(step, dim=None, keepdim=False)
    if axes is None:
        raise Unsupported("mean over everything")
    rank = writer.rank[x]
    places = sorted(int(a) % rank for a in ([axes] if isinstance(axes, int) else axes))
    if places == [2, 3] and rank == 4:
        # Engines have a kernel for this; ReduceMean is slower in some.
        pooled = writer.name(step.output) if keep else f"{writer.name(step.output)}.pooled"
        writer.add("GlobalAveragePool", [x], pooled, rank=4)
        if not keep:
            writer.add("Flatten", [pooled], writer.name(step.output), rank=2, axis=1)
        return
    left = rank if keep else rank - len(places)
    writer.add("ReduceMean", [x], writer.name(step.output), rank=left, axes=places, keepdims=int(keep))


def _arguments(step: Step, **defaults: Any) -> list[Any]:
    """Returns a function's options in the order of `defaults`, whether given by position or by name."""
    if len(step.arguments) > len(defaults) or set(step.options) - set(defaults):
        raise Unsupported(f"{step.kind} with options {[*step.arguments, *step.options]}")
    given = {**defaults, **dict(zip(defaults, step.arguments, strict=False)), **step.options}
    return [given[name] for name in defaults]


def _call_relu(writer: _Writer, step: Step) -> None:
    _arguments(step, inplace=False)
    _plain("Relu")(writer, step, None)


def _call_flatten(writer: _Writer, step: Step) -> None:
    start, end = _arguments(step, start_dim=0, end_dim=-1)
    _flatten(writer, step, start, end)


def _cat(writer: _Writer, step: Step) -> None:
    parts = [writer.operand(operand) for operand in step.inputs]
    (axis,) = _arguments(step, dim=0)
    writer.add("Concat", parts, writer.name(step.output), rank=writer.rank[parts[0]], axis=axis)


LAYERS: Mapping[type[nn.Module], Callable[[_Writer, Step, Any], None]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batchnorm,
    nn.BatchNorm1d: _batchnorm,
    nn.Linear: _linear,
    nn.LayerNorm: _layernorm,
    nn.Embedding: _embedding,
    nn.ReLU: _plain("Relu"),
    nn.ReLU6: _relu6,
    nn.Hardswish: _plain("HardSwish"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Tanh: _plain("Tanh"),
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    nn.Identity: _identity,
    nn.Dropout: _identity,
    nn.Flatten: _flatten_layer,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
}
FUNCTIONS: Mapping[str, Callable[[_Writer, Step], None]] = {
    "add": _binary("Add"),
    "iadd": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "imul": _binary("Mul"),
    "truediv": _binary("Div"),
    "matmul": _binary("MatMul"),
    "mean": _mean,
    "flatten": _call_flatten,
    "relu": _call_relu,
    "cat": _cat,
}
