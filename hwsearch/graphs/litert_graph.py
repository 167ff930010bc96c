"""LiteRT (tflite) files written directly from the layers of a plain module, channels last, without a converter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.graphs.fold import affine
from hwsearch.graphs.layer_trace import LayerTrace, Step, Unsupported, Value, trace_layers, write_step
from hwsearch.graphs.litert_file import LiteRtFile

Shape = tuple[int, ...]
RELU, RELU6 = 1, 3
SAME, VALID = 0, 1
SPARSE = 2 / 3
"""XNNPACK has sparse kernels from this share of zeros on."""


class _Writer:
    """Walks a trace. Every value has its shape without batch; images are (height, width, channels)."""

    def __init__(self, trace: LayerTrace, file: LiteRtFile, *, sparse: bool) -> None:
        self.trace, self.file, self.sparse = trace, file, sparse
        self.tensors: dict[int, int] = {}
        self.shapes: dict[int, Shape] = {}
        self.users: dict[int, list[Step]] = {}
        self.written: set[int] = set()
        for step in trace.steps:
            for operand in step.inputs:
                if isinstance(operand, Value):
                    self.users.setdefault(operand.number, []).append(step)

    def number(self, step: Step) -> int:
        """Returns the number of a step's first operand, which must be an earlier value."""
        operand = step.inputs[0]
        if not isinstance(operand, Value):
            raise Unsupported(f"{step.kind} of something that is no value")
        return operand.number

    def op(self, name: str, inputs: Sequence[int], shape: Shape, **options: Any) -> int:
        """Adds an operator whose output has this shape; returns the output tensor."""
        out = self.file.tensor(shape)
        self.file.operator(name, inputs, out, options)
        return out

    def give(self, value: int, tensor: int, shape: Shape) -> None:
        """Says which tensor holds a value."""
        self.tensors[value], self.shapes[value] = tensor, shape

    def follower(self, value: int) -> Step | None:
        """Returns the only user of a value; None where there are more or it is the output."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and value != self.trace.output else None

    def fuse(self, value: int) -> tuple[int, int]:
        """Returns the activation code and the value of a ReLU that is the only user of `value`, else 0 and `value`."""
        step = self.follower(value)
        code = {nn.ReLU: RELU, nn.ReLU6: RELU6}.get(type(step.layer)) if step is not None else None  # type: ignore[arg-type]
        if step is None or code is None:
            return 0, value
        self.written.add(step.output)
        return code, step.output

    def weight(self, array: NDArray[np.float32]) -> int:
        """Returns the tensor of a weight, stored sparsely where `SPARSE` of it is zero and rows are long enough."""
        if self.sparse and array.shape[-1] >= 8 and float(np.mean(array == 0)) >= SPARSE:
            return self.file.sparse_constant(array)
        return self.file.constant(array)

    def constant(self, operand: object, rank: int) -> tuple[int, Shape]:
        """Returns the tensor of a number or of a tensor that the module owns, laid out for values of this rank."""
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            return self.file.constant(np.array([operand], np.float32)), (1,)
        if not isinstance(operand, Tensor) or id(operand) not in self.trace.owned:
            raise Unsupported(f"operand of type {type(operand).__name__}")
        array = operand.detach().cpu().numpy()
        if rank == 3:  # an image without its batch axis
            if array.ndim == 4 and array.shape[0] == 1:
                array = array[0]
            if array.ndim != 3:
                raise Unsupported(f"a tensor of shape {array.shape} with images")
            array = np.transpose(array, (1, 2, 0))
        return self.file.constant(array), tuple(array.shape)


def build_litert(module: nn.Module, example: tuple[Tensor, ...], *, sparse: bool = False) -> bytes:
    """Returns the LiteRT file of a module in eval mode. Images come in as (batch, height, width, channels).

    BatchNorm is folded into the convolution before it, ReLU and ReLU6 are fused. Batch is open.

    Args:
        module: plain module, in eval mode.
        example: its inputs; only types and shapes without batch are used.
        sparse: store weights of which at least `SPARSE` is zero as such.

    Raises:
        Unsupported: the module has control flow or an operator without an entry in the tables below; names it.
    """
    trace = trace_layers(module, len(example))
    if trace.output < trace.n_inputs:
        raise Unsupported("a module that returns its input")
    file = LiteRtFile()
    writer = _Writer(trace, file, sparse=sparse)
    for i, tensor in enumerate(example):
        if tensor.dtype not in (torch.float32, torch.int64, torch.int32):
            raise Unsupported(f"input of type {tensor.dtype}")
        shape = tuple(tensor.shape[1:])
        shape = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        made = file.tensor(shape, dtype=str(tensor.dtype).removeprefix("torch."))
        file.inputs.append(made)
        writer.give(i, made, shape)
    for step in trace.steps:
        if step.output not in writer.written:
            write_step(writer, step, LAYERS, FUNCTIONS)
    file.outputs.append(writer.tensors[trace.output])
    return file.content()


# ---- layers -----------------------------------------------------------------------------------------------------


def _conv(writer: _Writer, step: Step, part: nn.Conv2d) -> None:
    if part.padding_mode != "zeros" or isinstance(part.padding, str):
        raise Unsupported(f"convolution with padding {part.padding_mode} {part.padding}")
    depthwise = part.groups == part.in_channels and part.groups > 1
    if part.groups != 1 and not depthwise:
        raise Unsupported(f"convolution with {part.groups} groups of {part.in_channels} channels")
    weight: NDArray[Any] = part.weight.detach().cpu().numpy()
    bias = np.zeros(part.out_channels) if part.bias is None else part.bias.detach().cpu().numpy()
    value, follower = step.output, writer.follower(step.output)
    norm = follower.layer if follower is not None else None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and follower is not None:
        scale, shift = affine(norm)
        weight = weight * scale.astype(np.float32)[:, None, None, None]
        bias = bias * scale + shift
        value = follower.output
        writer.written.add(value)
    activation, value = writer.fuse(value)
    number = writer.number(step)
    source, shape = writer.tensors[number], writer.shapes[number]
    options = {
        "strideH": part.stride[0],
        "strideW": part.stride[1],
        "dilationHFactor": part.dilation[0],
        "dilationWFactor": part.dilation[1],
        "fusedActivationFunction": activation,
    }
    source, sizes, options["padding"] = _padded(
        writer, source, shape, part.kernel_size, part.stride, _pair(part.padding), part.dilation
    )
    # (outputs, inputs, h, w) -> (outputs, h, w, inputs); depthwise (1, h, w, outputs)
    laid_out = np.transpose(weight, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    if depthwise:
        options["depthMultiplier"] = part.out_channels // part.in_channels
    operands = [source, writer.weight(laid_out), writer.file.constant(bias.astype(np.float32))]
    out = (*sizes, part.out_channels)
    writer.give(value, writer.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", operands, out, **options), out)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padded(
    writer: _Writer,
    source: int,
    shape: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, int],
    dilation: tuple[int, ...],
    *,
    may_pad: bool = True,
) -> tuple[int, tuple[int, ...], int]:
    """Returns the tensor to read, the output's height and width, and the padding code.

    torch pads both sides alike; `SAME` pads what is missing, the odd pixel at the end: with stride 2 and an even size
    they differ, and the image is padded by an operator of its own.
    """
    out, same = [], True
    for size, k, s, p, d in zip(shape[:2], kernel, stride, padding, dilation, strict=True):
        extent = d * (k - 1) + 1
        out.append((size + 2 * p - extent) // s + 1)
        needed = max((math.ceil(size / s) - 1) * s + extent - size, 0)
        same = same and out[-1] == math.ceil(size / s) and needed // 2 == p
    if same:
        return source, tuple(out), SAME
    if padding != (0, 0):
        if not may_pad:
            raise Unsupported("pooling whose padding is not the format's")
        pads = np.array([[0, 0], [padding[0]] * 2, [padding[1]] * 2, [0, 0]], np.int32)
        larger = (shape[0] + 2 * padding[0], shape[1] + 2 * padding[1], shape[2])
        source = writer.op("PAD", [source, writer.file.constant(pads)], larger)
    return source, tuple(out), VALID


def _batchnorm(writer: _Writer, step: Step, part: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if part.running_mean is None:
        raise Unsupported("BatchNorm without running statistics")
    number = writer.number(step)
    shape = writer.shapes[number]
    scale, shift = (writer.file.constant(a.astype(np.float32)) for a in affine(part))
    if isinstance(part, nn.BatchNorm1d) and len(shape) != 1:
        raise Unsupported("BatchNorm1d of sequences")
    scaled = writer.op("MUL", [writer.tensors[number], scale], shape)
    writer.give(step.output, writer.op("ADD", [scaled, shift], shape), shape)


def _linear(writer: _Writer, step: Step, part: nn.Linear) -> None:
    number = writer.number(step)
    shape = writer.shapes[number]
    if len(shape) == 3:
        raise Unsupported("a linear layer on images")
    activation, value = writer.fuse(step.output)
    bias: Tensor | None = part.bias
    operands = [writer.tensors[number], writer.weight(part.weight.detach().cpu().numpy())]
    zeros = np.zeros(part.out_features, np.float32)
    operands.append(writer.file.constant(zeros if bias is None else bias.detach().cpu().numpy()))
    out = (*shape[:-1], part.out_features)
    made = writer.op("FULLY_CONNECTED", operands, out, keepNumDims=len(shape) > 1, fusedActivationFunction=activation)
    writer.give(value, made, out)


def _layernorm(writer: _Writer, step: Step, part: nn.LayerNorm) -> None:
    number = writer.number(step)
    shape = writer.shapes[number]
    if len(part.normalized_shape) != 1 or len(shape) == 3:
        raise Unsupported("LayerNorm over several axes, or of images")
    x, one = writer.tensors[number], (*shape[:-1], 1)
    axes = writer.file.constant(np.array([len(shape)], np.int32))
    mean = writer.op("MEAN", [x, axes], one, keepDims=True)
    squares = writer.op("SQUARED_DIFFERENCE", [x, mean], shape)
    variance = writer.op("MEAN", [squares, axes], one, keepDims=True)
    shifted = writer.op("ADD", [variance, writer.file.constant(np.array([part.eps], np.float32))], one)
    made = writer.op("MUL", [writer.op("SUB", [x, mean], shape), writer.op("RSQRT", [shifted], one)], shape)
    for kind, name in (("MUL", "weight"), ("ADD", "bias")):
        tensor = dict(part.named_parameters()).get(name)
        if tensor is not None:
            made = writer.op(kind, [made, writer.file.constant(tensor.detach().cpu().numpy())], shape)
    writer.give(step.output, made, shape)


def _embedding(writer: _Writer, step: Step, part: nn.Embedding) -> None:
    if part.max_norm is not None:
        raise Unsupported("Embedding with max_norm")
    number = writer.number(step)
    shape = (*writer.shapes[number], part.embedding_dim)
    table = writer.file.constant(part.weight.detach().cpu().numpy())
    writer.give(step.output, writer.op("GATHER", [table, writer.tensors[number]], shape, axis=0), shape)


def _plain(name: str) -> Callable[[_Writer, Step, Any], None]:
    """Returns the handler of an operator that keeps the shape."""

    def handler(writer: _Writer, step: Step, part: Any) -> None:
        number = writer.number(step)
        shape = writer.shapes[number]
        writer.give(step.output, writer.op(name, [writer.tensors[number]], shape), shape)

    return handler


def _gelu(writer: _Writer, step: Step, part: nn.GELU) -> None:
    number = writer.number(step)
    shape = writer.shapes[number]
    made = writer.op("GELU", [writer.tensors[number]], shape, approximate=part.approximate != "none")
    writer.give(step.output, made, shape)


def _hardsigmoid(writer: _Writer, step: Step, part: nn.Hardsigmoid) -> None:
    number = writer.number(step)
    shape = writer.shapes[number]
    three, sixth = (writer.file.constant(np.array([v], np.float32)) for v in (3.0, 1.0 / 6.0))
    clipped = writer.op("ADD", [writer.tensors[number], three], shape, fusedActivationFunction=RELU6)
    writer.give(step.output, writer.op("MUL", [clipped, sixth], shape), shape)


def _silu(writer: _Writer, step: Step, part: nn.SiLU) -> None:
    number = writer.number(step)
    x, shape = writer.tensors[number], writer.shapes[number]
    writer.give(step.output, writer.op("MUL", [x, writer.op("LOGISTIC", [x], shape)], shape), shape)


def _identity(writer: _Writer, step: Step, part: Any) -> None:
    number = writer.number(step)
    writer.give(step.output, writer.tensors[number], writer.shapes[number])


def _flatten_layer(writer: _Writer, step: Step, part: nn.Flatten) -> None:
    _flatten(writer, step, part.start_dim, part.end_dim)


def _flatten(writer: _Writer, step: Step, start: int, end: int) -> None:
    number = writer.number(step)
    source, shape = writer.tensors[number], writer.shapes[number]
    if start != 1 or end not in (-1, len(shape)):
        raise Unsupported(f"flatten from {start} to {end}")
    if len(shape) == 3 and shape[:2] != (1, 1):  # torch flattens (channels, height, width)
        order = writer.file.constant(np.array([0, 3, 1, 2], np.int32))
        source = writer.op("TRANSPOSE", [source, order], (shape[2], shape[0], shape[1]))
    out = (math.prod(shape),)
    target = writer.file.constant(np.array([-1, *out], np.int32))
    writer.give(step.output, writer.op("RESHAPE", [source, target], out, newShape=[-1, *out]), out)


def _reduce(writer: _Writer, step: Step, axes: list[int], keep: bool) -> None:
    """Writes a mean over axes, counted as torch counts them with the batch axis."""
    number = writer.number(step)
    shape = writer.shapes[number]
    rank = len(shape) + 1
    places = sorted(axis % rank for axis in axes)
    if rank == 4:
        if not keep and places != [2, 3]:
            raise Unsupported(f"mean of images over {axes}")
        places = sorted({0: 0, 1: 3, 2: 1, 3: 2}[place] for place in places)
    if 0 in places:
        raise Unsupported("mean over the batch")
    left = tuple(1 if i + 1 in places else size for i, size in enumerate(shape))
    out = left if keep else tuple(size for i, size in enumerate(shape) if i + 1 not in places)
    operands = [writer.tensors[number], writer.file.constant(np.array(places, np.int32))]
    writer.give(step.output, writer.op("MEAN", operands, out, keepDims=keep), out)


def _adaptive_pool(writer: _Writer, step: Step, part: nn.AdaptiveAvgPool2d) -> None:
    if part.output_size not in (1, (1, 1)):
        raise Unsupported(f"adaptive pooling to {part.output_size}")
    _reduce(writer, step, [2, 3], True)


def _pool(writer: _Writer, step: Step, part: nn.MaxPool2d | nn.AvgPool2d) -> None:
    maximum = isinstance(part, nn.MaxPool2d)
    if part.ceil_mode or (maximum and (_pair(part.dilation) != (1, 1) or part.return_indices)):
        raise Unsupported("pooling with ceil_mode, dilation or indices")
    padding = _pair(part.padding)
    if not maximum and (part.divisor_override is not None or (part.count_include_pad and padding != (0, 0))):
        raise Unsupported("average pooling that counts its padding")
    number = writer.number(step)
    source, shape = writer.tensors[number], writer.shapes[number]
    kernel, stride = _pair(part.kernel_size), _pair(part.stride or part.kernel_size)
    source, sizes, code = _padded(writer, source, shape, kernel, stride, padding, (1, 1), may_pad=False)
    out = (*sizes, shape[2])
    options = {"filterHeight": kernel[0], "filterWidth": kernel[1], "strideH": stride[0], "strideW": stride[1]}
    name = "MAX_POOL_2D" if maximum else "AVERAGE_POOL_2D"
    writer.give(step.output, writer.op(name, [source], out, padding=code, **options), out)


# ---- functions --------------------------------------------------------------------------------------------------


def _binary(name: str) -> Callable[[_Writer, Step], None]:
    def handler(writer: _Writer, step: Step) -> None:
        if step.arguments or step.options:
            raise Unsupported(f"{step.kind} with options")
        values = [o for o in step.inputs if isinstance(o, Value)]
        rank = max(len(writer.shapes[v.number]) for v in values)
        tensors, shapes = [], []
        for operand in step.inputs:
            if isinstance(operand, Value):
                tensor, shape = writer.tensors[operand.number], writer.shapes[operand.number]
                if len(shape) != rank:
                    raise Unsupported(f"{step.kind} of values with different numbers of axes")
            else:
                tensor, shape = writer.constant(operand, rank)
            tensors.append(tensor)
            shapes.append(shape)
        out = tuple(int(n) for n in np.broadcast_shapes(*shapes))
        writer.give(step.output, writer.op(name, tensors, out), out)

    return handler


def _matmul(writer: _Writer, step: Step) -> None:
    numbers = [o.number for o in step.inputs if isinstance(o, Value)]
    if len(numbers) != 2 or any(len(writer.shapes[n]) != 2 for n in numbers):
        raise Unsupported("a matrix product that is not of two batches of matrices")
    out = (writer.shapes[numbers[0]][0], writer.shapes[numbers[1]][1])
    writer.give(step.output, writer.op("BATCH_MATMUL", [writer.tensors[n] for n in numbers], out), out)


def _arguments(step: Step, **defaults: Any) -> list[Any]:
    if len(step.arguments) > len(defaults) or set(step.options) - set(defaults):
        raise Unsupported(f"{step.kind} with options {[*step.arguments, *step.options]}")
    given = {**defaults, **dict(zip(defaults, step.arguments, strict=False)), **step.options}
    return [given[name] for name in defaults]


def _mean(writer: _Writer, step: Step) -> None:
    axes, keep = _arguments(step, dim=None, keepdim=False)
    if axes is None:
        raise Unsupported("mean over everything")
    _reduce(writer, step, [axes] if isinstance(axes, int) else list(axes), bool(keep))


def _call_flatten(writer: _Writer, step: Step) -> None:
    start, end = _arguments(step, start_dim=0, end_dim=-1)
    _flatten(writer, step, start, end)


def _call_relu(writer: _Writer, step: Step) -> None:
    _arguments(step, inplace=False)
    _plain("RELU")(writer, step, None)


def _cat(writer: _Writer, step: Step) -> None:
    (axis,) = _arguments(step, dim=0)
    numbers = [o.number for o in step.inputs if isinstance(o, Value)]
    shapes = [writer.shapes[n] for n in numbers]
    if len(numbers) != len(step.inputs):
        raise Unsupported("cat of something that is no value")
    rank = len(shapes[0]) + 1
    place = axis % rank
    place = {0: 0, 1: 3, 2: 1, 3: 2}[place] if rank == 4 else place
    if place == 0:
        raise Unsupported("cat along the batch")
    out = list(shapes[0])
    out[place - 1] = sum(shape[place - 1] for shape in shapes)
    made = writer.op("CONCATENATION", [writer.tensors[n] for n in numbers], tuple(out), axis=place)
    writer.give(step.output, made, tuple(out))


LAYERS: Mapping[type[nn.Module], Callable[[_Writer, Step, Any], None]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batchnorm,
    nn.BatchNorm1d: _batchnorm,
    nn.Linear: _linear,
    nn.LayerNorm: _layernorm,
    nn.Embedding: _embedding,
    nn.ReLU: _plain("RELU"),
    nn.ReLU6: _plain("RELU6"),
    nn.Hardswish: _plain("HARD_SWISH"),
    nn.Hardsigmoid: _hardsigmoid,
    nn.Sigmoid: _plain("LOGISTIC"),
    nn.Tanh: _plain("TANH"),
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
    "add": _binary("ADD"),
    "iadd": _binary("ADD"),
    "sub": _binary("SUB"),
    "mul": _binary("MUL"),
    "imul": _binary("MUL"),
    "truediv": _binary("DIV"),
    "matmul": _matmul,
    "mean": _mean,
    "flatten": _call_flatten,
    "relu": _call_relu,
    "cat": _cat,
}
