"""A readable model.py of plain torch layers that loads the exported safetensors file without hwsearch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from hwsearch.errors import UserError
from hwsearch.export.base import eval_mode
from hwsearch.graphs.layer_trace import LayerTrace, Step, Unsupported, Value, trace_layers

HEADER = '''"""{title}

Written by hwsearch; needs torch and safetensors only.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
'''
FOOTER = '''

def load(path=Path(__file__).with_name("model.safetensors")):
    """Returns the trained model in eval mode."""
    model = Model()
    model.load_state_dict(load_file(path))
    return model.eval()
'''
SHOWN: tuple[type[nn.Module], ...] = (
    *(nn.Embedding, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU),
    *(nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.MaxPool2d),
)
"""Further layers, whose `repr` is the call that makes them."""
OPERATORS = {"add": "+", "iadd": "+", "sub": "-", "mul": "*", "imul": "*", "truediv": "/", "matmul": "@"}
METHODS = ("mean", "flatten", "relu", "sigmoid")


def model_source(module: nn.Module, *, n_inputs: int = 1, title: str = "A sub-network.") -> str:
    """Returns the text of model.py: class `Model`, whose state dict has the names of the module's, and `load`.

    Args:
        module: plain module.
        n_inputs: tensors that it takes.
        title: first line of the file's docstring.

    Raises:
        UserError: the module does something that cannot be written down; names it.
    """
    try:
        with eval_mode(module):
            trace = trace_layers(module, n_inputs)
        lines = [*_constructor(module, trace), "", *_forward(trace)]
    except Unsupported as error:
        raise UserError(f"model.py cannot be written for {type(module).__name__}: {error}.") from error
    title = " ".join(title.replace('"""', "'''").replace("\\", "/").split())
    return HEADER.format(title=title) + "\n".join(lines) + "\n" + FOOTER


def _constructor(module: nn.Module, trace: LayerTrace) -> Iterator[str]:
    used = {step.path: step.layer for step in trace.steps if step.layer is not None}
    if "" in used:
        raise Unsupported("a module that is a single layer")
    made: set[str] = set()
    named = dict(module.named_modules())
    for path, layer in named.items():
        if path not in used:
            continue
        parents = path.split(".")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = ".".join(parents[:depth])
            if parent not in made:
                made.add(parent)
                yield f"        {_attach(parent, 'nn.Module()')}"
        yield f"        {_attach(path, _call(layer))}"
    names = {f"{path}.{name}".lstrip(".") for path in used for name in named[path].state_dict()}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in names:
            continue
        owner, _, leaf = name.rpartition(".")
        if id(tensor) not in trace.owned or (owner and owner not in made):
            raise Unsupported(f"a tensor {name} outside the layers that are called")
        target = f'self.get_submodule("{owner}")' if owner else "self"
        if isinstance(tensor, nn.Parameter):
            yield f'        {target}.register_parameter("{leaf}", nn.Parameter(torch.empty{tuple(tensor.shape)}))'
        else:
            dtype = str(tensor.dtype)
            yield f'        {target}.register_buffer("{leaf}", torch.empty({tuple(tensor.shape)}, dtype={dtype}))'


def _attach(path: str, value: str) -> str:
    """Returns the statement that makes a submodule; numbers (of an nn.Sequential) are no attribute names."""
    owner, _, leaf = path.rpartition(".")
    if all(part.isidentifier() for part in path.split(".")):
        return f"self.{path} = {value}"
    target = f'self.get_submodule("{owner}")' if owner else "self"
    return f'{target}.add_module("{leaf}", {value})'


def _call(layer: nn.Module | None) -> str:
    """Returns the call that makes a layer. Only what differs from torch's defaults is named, in any version's words."""
    if isinstance(layer, nn.Conv2d):
        sizes = [repr(layer.in_channels), repr(layer.out_channels), repr(_one(layer.kernel_size))]
        options: dict[str, tuple[object, object]] = {
            "stride": (_one(layer.stride), 1),
            "padding": (_one(layer.padding), 0),
            "dilation": (_one(layer.dilation), 1),
            "groups": (layer.groups, 1),
            "bias": (layer.bias is not None, True),
            "padding_mode": (layer.padding_mode, "zeros"),
        }
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        sizes = [repr(layer.num_features)]
        options = {
            "eps": (layer.eps, 1e-5),
            "momentum": (layer.momentum, 0.1),
            "affine": (layer.affine, True),
            "track_running_stats": (layer.track_running_stats, True),
        }
    elif isinstance(layer, nn.Linear):
        sizes = [repr(layer.in_features), repr(layer.out_features)]
        options = {"bias": ("bias" in dict(layer.named_parameters()), True)}
    elif isinstance(layer, nn.LayerNorm):
        sizes = [repr(tuple(layer.normalized_shape))]
        options = {
            "eps": (layer.eps, 1e-5),
            "elementwise_affine": (layer.elementwise_affine, True),
            "bias": ("bias" in dict(layer.named_parameters()) or not layer.elementwise_affine, True),
        }
    elif isinstance(layer, nn.AvgPool2d):
        sizes = [repr(layer.kernel_size), repr(layer.stride), repr(layer.padding)]
        options = {
            "ceil_mode": (layer.ceil_mode, False),
            "count_include_pad": (layer.count_include_pad, True),
            "divisor_override": (layer.divisor_override, None),
        }
    elif type(layer) in SHOWN:
        return f"nn.{layer!r}"
    else:
        raise Unsupported(f"layer {type(layer).__name__}")
    named = [f"{key}={value!r}" for key, (value, default) in options.items() if value != default]
    return f"nn.{type(layer).__name__}({', '.join([*sizes, *named])})"


def _one(size: object) -> object:
    """Returns 3 for (3, 3)."""
    return size[0] if isinstance(size, tuple) and len(set(size)) == 1 else size


def _forward(trace: LayerTrace) -> Iterator[str]:
    names = {i: "x" if trace.n_inputs == 1 else f"x{i}" for i in range(trace.n_inputs)}
    last = _last_uses(trace)
    yield f"    def forward(self, {', '.join(names.values())}):"
    free = [f"y{i}" for i in range(len(trace.steps), 0, -1)]
    block = ""
    for step in trace.steps:
        expression = _expression(step, trace, names)
        for number in {v.number for v in step.inputs if isinstance(v, Value)}:
            if last[number] == step.output and number >= trace.n_inputs:
                free.append(names[number])  # its name may be used again: few names read better than hundreds
        names[step.output] = free.pop()
        owner = step.path.rpartition(".")[0]
        if step.layer is not None and owner != block:
            block = owner
            if block:
                yield f"        # {block}"
        yield f"        {names[step.output]} = {expression}"
    yield f"        return {names[trace.output]}"


def _last_uses(trace: LayerTrace) -> dict[int, int]:
    last = {trace.output: len(trace.steps) + trace.n_inputs + 1}
    for step in trace.steps:
        for operand in step.inputs:
            if isinstance(operand, Value) and operand.number != trace.output:
                last[operand.number] = step.output
    return last


def _expression(step: Step, trace: LayerTrace, names: dict[int, str]) -> str:
    operands = [_operand(operand, trace, names) for operand in step.inputs]
    if step.layer is not None:
        if all(part.isidentifier() for part in step.path.split(".")):
            return f"self.{step.path}({operands[0]})"
        return f'self.get_submodule("{step.path}")({operands[0]})'
    options = [repr(a) for a in step.arguments] + [f"{key}={value!r}" for key, value in step.options.items()]
    if step.kind in OPERATORS and not options:
        return f"{operands[0]} {OPERATORS[step.kind]} {operands[1]}"
    if step.kind == "cat":
        return f"torch.cat([{', '.join(operands)}]{''.join(f', {o}' for o in options)})"
    if step.kind in METHODS:
        return f"{operands[0]}.{step.kind}({', '.join(options)})"
    raise Unsupported(f"function {step.kind}")


def _operand(operand: object, trace: LayerTrace, names: dict[int, str]) -> str:
    if isinstance(operand, Value):
        return names[operand.number]
    if isinstance(operand, Tensor) and id(operand) in trace.owned:
        name = trace.owned[id(operand)]
        owner, _, leaf = name.rpartition(".")
        return f'self.get_submodule("{owner}").{leaf}' if owner else f"self.{leaf}"
    if isinstance(operand, int | float):
        return repr(operand)
    raise Unsupported(f"operand of type {type(operand).__name__}")
