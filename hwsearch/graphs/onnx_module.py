"""An ONNX file as a torch module: layers hold the file's weights, the rest is run operator by operator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.graphs.onnx_layers import LAYERS, array, as_parameter, call
from hwsearch.graphs.onnx_operators import OPERATORS
from hwsearch.graphs.onnx_values import Unsupported, host

OPSETS = range(13, 24)
KNOWN_INPUTS = frozenset({"Resize", "Pad", "Slice", "Clip", "Reshape", "Expand"})
"""Operators whose inputs behind the first one are numbers and never weights."""
DOCS = "docs/own_model.md"


@dataclass(frozen=True)
class Step:
    """One node: what it reads, writes, and the layer that it is, if it is one."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    layer: str = ""


class OnnxModule(nn.Module):
    """Runs the nodes of an ONNX graph; returns a tensor, or a dict by output name. Made by `read_onnx`."""

    steps: tuple[Step, ...]
    hosts: Mapping[str, Any]
    places: Mapping[str, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, *inputs: Tensor) -> Any:
        """Returns the outputs of the graph."""
        values: dict[str, Any] = {"": None, **self.hosts, **dict(zip(self.input_names, inputs, strict=True))}
        for name, place in self.places.items():
            owner, _, leaf = place.rpartition(".")
            values[name] = getattr(self.get_submodule(owner), leaf)
        for step in self.steps:
            given = [values[name] for name in step.inputs]
            try:
                if step.layer:
                    out = call(self.get_submodule(step.layer), given[0])
                else:
                    out = OPERATORS[step.operator](given, step.attributes)
            except Unsupported as error:
                raise Unsupported(f"ONNX node {step.name!r} ({step.operator}): {error} ({DOCS}).") from error
            outs = out if isinstance(out, list) else [out]
            values.update(zip(step.outputs, outs, strict=False))
        found = {name: values[name] for name in self.output_names}
        return next(iter(found.values())) if len(found) == 1 else found


def read_onnx(path: Path) -> OnnxModule:
    """Returns an ONNX file as a module in eval mode; its numbers are the file's, bit by bit.

    Raises:
        Unsupported: no ONNX file, an opset outside of 13 to 23, or an operator without counterpart; names the node.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx share no narrower class
        raise Unsupported(f"{path} must be an ONNX file, but: {' '.join(str(error).split())[:200]}") from error
    opset = max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)
    if opset not in OPSETS:
        raise Unsupported(f"{path} must have ONNX opset {OPSETS[0]} to {OPSETS[-1]}, but has {opset}.")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return _Reader(model).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants: dict[str, NDArray[Any]] = {t.name: array(t) for t in self.graph.initializer}
        self.turned: dict[str, str] = {}  # output of a transposition -> matrix
        self.nodes = [node for node in self.graph.node if not self.constant(node)]
        self.users = Counter(name for node in self.nodes for name in node.input)
        self.users.update(o.name for o in self.graph.output)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.tensors: dict[tuple[str, bool], Tensor] = {}
        self.layers: dict[Any, str] = {}
        self.module = OnnxModule()
        self.places: dict[str, str] = {}
        self.hosts: dict[str, Any] = {}

    def constant(self, node: onnx.NodeProto) -> bool:
        """Takes nodes that only name or turn a constant out of the graph."""
        if node.op_type == "Constant":
            found = _attributes(node)
            self.constants[node.output[0]] = np.asarray(next(iter(found.values())))
        elif node.op_type == "Identity" and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        elif (
            node.op_type == "Transpose"
            and node.input[0] in self.constants
            and self.constants[node.input[0]].ndim == 2
            and list(_attributes(node).get("perm", [1, 0])) == [1, 0]
        ):
            self.turned[node.output[0]] = node.input[0]
            self.constants[node.output[0]] = self.constants[node.input[0]].T
        else:
            return False
        return True

    def read(self) -> OnnxModule:
        unknown = [n for n in self.nodes if n.op_type not in OPERATORS and n.op_type not in LAYERS]
        if unknown:
            named = ", ".join(f"{n.op_type} (node {n.name or n.output[0]!r})" for n in unknown[:5])
            raise Unsupported(f"ONNX operators must be among those in {DOCS}, but the graph has {named}.")
        steps, fused = [], set[str]()
        for node in self.nodes:
            if node.output[0] in fused:
                continue
            step = self.step(node)
            if node.output and step.outputs[0] != node.output[0]:  # the sum behind it is its bias
                fused.add(step.outputs[0])
            steps.append(step)
        for step in steps:
            for name in step.inputs:
                self.place(name)
        inputs = [i.name for i in self.graph.input if i.name not in self.constants]
        made = self.module
        made.steps, made.hosts, made.places = tuple(steps), self.hosts, self.places
        made.input_names, made.output_names = tuple(inputs), tuple(o.name for o in self.graph.output)
        for output in made.output_names:
            self.place(output)
        return _with_arguments(made).eval()

    def step(self, node: onnx.NodeProto) -> Step:
        attributes, name = _attributes(node), node.name or node.output[0]
        try:
            path, adds = self.layer(node, attributes)
        except Unsupported as error:
            raise Unsupported(f"ONNX node {name!r} ({node.op_type}): {error} ({DOCS}).") from error
        if not path and node.op_type not in OPERATORS:
            raise Unsupported(f"ONNX node {name!r} ({node.op_type}): its weights must be constants ({DOCS}).")
        if node.op_type == "Split":
            attributes |= {"outputs": len(node.output)}
        source = node.input[1] if path and node.op_type == "Gather" else node.input[0] if node.input else ""
        inputs = (source,) if path else tuple(node.input)
        outputs = tuple(adds.output if adds is not None else node.output)
        return Step(node.op_type, name, inputs, outputs, attributes, path)

    # -- layers --------------------------------------------------------------------------------------

    def layer(self, node: onnx.NodeProto, a: Mapping[str, Any]) -> tuple[str, onnx.NodeProto | None]:
        """Returns the path of the layer that a node is, and the sum behind a product that is its bias."""
        if node.op_type not in LAYERS:
            return "", None
        names = [node.input[0]] if node.op_type == "Gather" else list(node.input[1:])
        adds = None
        first = self.constants.get(names[0]) if names else None
        if first is None or not np.issubdtype(first.dtype, np.floating):
            return "", None
        if node.op_type in {"Gather", "MatMul"} and first.ndim != 2:
            return "", None
        if node.op_type == "Gather" and int(a.get("axis", 0)):
            return "", None
        if node.op_type in {"LSTM", "GRU"}:
            self.check_states(node)
            names = names[:3]
        turn = node.op_type == "MatMul" or (node.op_type == "Gemm" and not int(a.get("transB", 0)))
        if node.op_type == "MatMul":
            adds = self.bias_behind(node)
            if adds is not None:
                names = [names[0], next(n for n in adds.input if n != node.output[0])]
        missing = [n for n in names if n and n not in self.constants]
        if missing:
            return "", None
        key = (node.op_type == "Gather", *names, str(sorted(a.items(), key=lambda item: item[0])))
        if key not in self.layers:
            weights = [self.tensor(n, turned=turn and i == 0) if n else None for i, n in enumerate(names)]
            made = LAYERS[node.op_type](weights, a, self.ranks.get(node.input[0], 0))
            self.layers[key] = self.attach(self.path(node, names[0]), made)
        return self.layers[key], adds

    def bias_behind(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        if self.users[node.output[0]] != 1:
            return None
        user = next((n for n in self.nodes if node.output[0] in n.input), None)
        if user is None or user.op_type != "Add":
            return None
        other = next(n for n in user.input if n != node.output[0])
        shape = self.constants[node.input[1]].shape[1:]
        return user if other in self.constants and self.constants[other].shape == shape else None

    def tensor(self, name: str, *, turned: bool = False) -> Tensor:
        """Returns one parameter per constant: a matrix that is read both ways is one tensor."""
        if name in self.turned:
            name, turned = self.turned[name], not turned
        if (name, turned) not in self.tensors:
            values = self.constants[name]
            self.tensors[name, turned] = as_parameter(values.T if turned else values)
        return self.tensors[name, turned]

    def check_states(self, node: onnx.NodeProto) -> None:
        if any(node.input[4:5]):
            raise Unsupported("a recurrent layer with lengths of its sequences is not supported")
        if not all(self.zeros(name) for name in node.input[5:7] if name):
            raise Unsupported("the first state of a recurrent layer must be zeros")

    def zeros(self, name: str) -> bool:
        if name in self.constants:
            return not self.constants[name].any()
        maker = self.makers.get(name)
        if maker is None:
            return False
        if maker.op_type == "ConstantOfShape":
            value = _attributes(maker).get("value")
            return value is None or not np.any(value)
        if maker.op_type == "Concat":
            return all(self.zeros(n) for n in maker.input)
        return maker.op_type in {"Expand", "Slice", "Reshape", "Unsqueeze", "Squeeze"} and self.zeros(maker.input[0])

    # -- names ---------------------------------------------------------------------------------------

    def path(self, node: onnx.NodeProto, weight: str) -> str:
        """Returns where a layer goes: by its weight's name, as torch writes it, else by the node's."""
        if weight.endswith(".weight"):
            return weight.removesuffix(".weight")
        parts: list[str] = []
        for part in [p for p in node.name.split("/") if p][: -1 if "/" in node.name else None]:
            if parts and part.startswith(f"{parts[-1]}."):
                parts.pop()
            parts.append(part)
        return ".".join(parts) or node.op_type.lower()

    def attach(self, wanted: str, layer: nn.Module) -> str:
        clean = [re.sub(r"\W", "_", part) for part in wanted.split(".") if part]
        clean = [f"{part}_" if hasattr(nn.Module, part) else part for part in clean] or ["layer"]
        path, again = ".".join(clean), 2
        taken = [name for name, _ in self.module.named_modules() if name] + list(self.places.values())
        while path in taken:
            path, again = f"{'.'.join(clean)}_{again}", again + 1
        owner: nn.Module = self.module
        *parents, leaf = path.split(".")
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(leaf, layer)
        return path

    def place(self, name: str) -> None:
        """Gives a constant that an operator reads a place: few numbers on the host, more in the module."""
        if name not in self.constants or name in self.hosts or name in self.places:
            return
        values = self.constants[name]
        readers = [n.op_type for n in self.nodes if name in n.input[1:]]
        few = values.ndim <= 1 and (not np.issubdtype(values.dtype, np.floating) or values.size <= 1)
        if few or values.size == 0 or (readers and KNOWN_INPUTS.issuperset(readers)):
            self.hosts[name] = host(values)
            return
        clean = re.sub(r"\W", "_", name)
        clean = f"{clean}_" if hasattr(self.module, clean) else clean
        made = self.tensor(name)
        if isinstance(made, nn.Parameter):
            self.module.register_parameter(clean, made)
        else:
            self.module.register_buffer(clean, made)
        self.places[name] = clean


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for name, value in found.items():
        if isinstance(value, bytes):
            found[name] = value.decode()
        elif isinstance(value, onnx.TensorProto):
            found[name] = array(value)
    return found


def _with_arguments(module: OnnxModule) -> OnnxModule:
    """Gives `forward` the graph's inputs as named arguments: torch.export looks at them."""
    names = [re.sub(r"\W", "_", name) for name in module.input_names]
    if not names or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        names = [f"input{i}" for i in range(len(names))]
    space: dict[str, Any] = {}
    exec(f"def forward(self, {', '.join(names)}):\n    return self.run({', '.join(names)})", space)  # names only
    module.__class__ = type("OnnxModule", (OnnxModule,), {"forward": space["forward"]})
    return module


def argument_names(module: OnnxModule) -> tuple[str, ...]:
    """Returns the names of the arguments of `forward`, in the order of the graph's inputs."""
    code = type(module).forward.__code__
    return code.co_varnames[1 : code.co_argcount]


def close(mine: Tensor, theirs: NDArray[Any], *, tolerance: float) -> bool:
    """Whether two outputs agree, relative to the largest number."""
    other = torch.as_tensor(theirs)
    if mine.shape != other.shape:
        return False
    if not other.is_floating_point():
        return bool(torch.equal(mine, other))
    scale = 1.0 + float(other.abs().max()) if other.numel() else 1.0
    return bool(((mine - other).abs() <= tolerance * scale).all())
