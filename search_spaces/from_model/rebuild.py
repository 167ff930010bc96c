"""Rebuild: a plain module from a captured graph, at the sizes that a selection leaves."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from search_spaces.from_model.capture import Captured
from search_spaces.from_model.layers_of import PLAIN, layer_of, make_layer
from search_spaces.from_model.residuals import Branch
from search_spaces.from_model.units import Label
from search_spaces.from_model.walk import Walk, arguments, operator_name
from search_spaces.low_rank import blank_factors

VIEWS = frozenset({"view", "reshape", "_unsafe_view"})
SPLITS = frozenset({"split", "split_with_sizes", "chunk", "tensor_split"})
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "matmul": torch.matmul,
    "flatten": torch.flatten,
}
"""Operators that are written in their usual form; the others stay ATen operators."""
CONSTANTS: Mapping[str, Callable[..., Any]] = {
    "arange": torch.arange,
    "zeros": torch.zeros,
    "ones": torch.ones,
    "full": torch.full,
}
"""Made on the default device; written as functions, since exporters do not know the operators."""


@dataclass(frozen=True)
class Selection:
    """What stays of a model.

    Args:
        keep: whether an entry stays, (entries,).
        removed: branches that are left out.
        kernels: layer -> side of its cropped kernel.
        ranks: layer -> rank of its two factors.
    """

    keep: NDArray[np.bool_]
    removed: tuple[Branch, ...] = ()
    kernels: Mapping[str, int] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)

    def size(self, label: Label) -> int:
        """Returns how many positions of an axis stay."""
        return int(self.keep[label].sum())


@dataclass(frozen=True)
class Rebuilt:
    """A module and what its tensors are.

    Args:
        module: plain, on the default device, freshly initialised.
        graph: what its forward was written from.
        names: place of a parameter or buffer in it -> name of the captured tensor.
    """

    module: nn.Module
    graph: fx.Graph
    names: Mapping[str, str]


def rebuild(state: Walk, selection: Selection, *, name: str) -> Rebuilt:
    """Returns the plain module of a selection: torch.nn layers under the user's names, joined as in the graph."""
    return _Rebuilder(state, selection).run(name)


def live_nodes(captured: Captured, removed: tuple[Branch, ...]) -> set[fx.Node]:
    """Returns the nodes that outputs depend on once branches are left out."""
    instead = {branch.exit: branch.entry for branch in removed}
    queue = [n for n in captured.graph.nodes if n.op == "output"]
    found: set[fx.Node] = set()
    while queue:
        node = queue.pop()
        if node in found:
            continue
        found.add(node)
        if node in instead:
            queue.append(instead[node])
        elif operator_name(node) in {"lstm", "gru"} and layer_of(captured, node) is not None:
            queue += [node.args[0], *node.args[2]]
        else:
            queue += node.all_input_nodes
    return found


def _with_forward(root: nn.Module, graph: fx.Graph, name: str) -> nn.Module:
    """Returns `root` as a module whose forward is the graph, written out as ordinary Python (`module.code`).

    Not an fx.GraphModule: those make a class per copy and are several times slower to copy.
    """
    code = graph.python_code(root_module="self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(code.src, namespace)  # generated from the graph of the user's own model, nothing read from a file
    root.__class__ = type(name, (nn.Module,), {"forward": namespace["forward"], "code": code.src})
    return root


class _Rebuilder:
    def __init__(self, state: Walk, selection: Selection) -> None:
        self.state, self.captured, self.selection = state, state.captured, selection
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.names: dict[str, str] = {}
        self.shared: dict[str, Tensor] = {}  # captured tensor -> the one that stands for it
        self.layers: set[str] = set()

    def run(self, name: str) -> Rebuilt:
        instead = {branch.exit: branch.entry for branch in self.selection.removed}
        live = live_nodes(self.captured, self.selection.removed)
        for node in self.captured.graph.nodes:
            if node.op == "placeholder":
                if node.name in self.captured.inputs:
                    self.made[node] = self.graph.placeholder(node.name)
            elif node.op == "output":
                self.graph.output(fx.node.map_arg(node.args[0], self.value))
            elif node in instead and node in live:
                self.made[node] = self.value(instead[node])
            elif node in live:
                self.made[node] = self.emit(node)
        return Rebuilt(_with_forward(self.root, self.graph, name).eval(), self.graph, dict(self.names))

    # -- values --------------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> fx.Node:
        """Returns the new node of an old one; tensors that are read directly become attributes."""
        if node not in self.made and node.op == "placeholder":
            self.made[node] = self.attribute(self.captured.tensors[node.name])
        return self.made[node]

    def attribute(self, name: str) -> fx.Node:
        full = self.captured.values[name]
        if name not in self.shared:
            axes = self.state.parameters.get(name, (None,) * full.dim())
            shape = [n if a is None else self.selection.size(a) for n, a in zip(full.shape, axes, strict=True)]
            made = torch.empty(shape, dtype=full.dtype)
            self.shared[name] = nn.Parameter(made, full.requires_grad) if isinstance(full, nn.Parameter) else made
        owner, _, leaf = name.rpartition(".")
        module = self.container(owner)
        tensor = self.shared[name]
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor)
        self.names[name] = name
        return self.graph.get_attr(name)

    def container(self, path: str) -> nn.Module:
        module = self.root
        for part in path.split(".") if path else []:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            inner = module._modules[part]
            assert inner is not None
            module = inner
        return module

    # -- nodes ---------------------------------------------------------------------------------------

    def emit(self, node: fx.Node) -> fx.Node:
        layer = layer_of(self.captured, node)
        if layer is not None:
            return self.emit_layer(node)
        path = self.captured.paths[node]
        plain = dict(self.captured.module.named_modules()).get(path) if path else None
        name = operator_name(node)
        if plain is not None and name in PLAIN.get(type(plain), ()) and len(node.all_input_nodes) == 1:
            if path not in self.layers:
                self.layers.add(path)
                self.attach(path, copy.deepcopy(plain))
            return self.graph.call_module(path, (self.value(node.all_input_nodes[0]),))
        return self.emit_function(node, name)

    def attach(self, path: str, module: nn.Module) -> None:
        owner, _, leaf = path.rpartition(".")
        self.container(owner).add_module(leaf, module)

    def emit_layer(self, node: fx.Node) -> fx.Node:
        path, args = self.captured.paths[node], arguments(node)
        if path not in self.layers:
            self.layers.add(path)
            made = make_layer(self.state, node, self.selection)
            module = made.module
            rank = self.selection.ranks.get(path)
            if rank is not None:
                assert isinstance(module, nn.Linear | nn.Conv2d)
                module = blank_factors(module, rank)
                weight = made.tensors["weight"]
                self.names |= {f"{path}.reduce.weight": weight, f"{path}.expand.weight": weight}
                if "bias" in made.tensors:
                    self.names[f"{path}.expand.bias"] = made.tensors["bias"]
            else:
                for leaf, name in made.tensors.items():
                    own = getattr(module, leaf)
                    setattr(module, leaf, self.shared.setdefault(name, own))
                    self.names[f"{path}.{leaf}"] = name
            self.attach(path, module)
        read = args["indices"] if operator_name(node) == "embedding" else node.args[0]
        assert isinstance(read, fx.Node)
        return self.graph.call_module(path, (self.value(read),))

    def emit_function(self, node: fx.Node, name: str) -> fx.Node:
        args = arguments(node)
        labels: Any = self.state.axes.get(node)
        mapped = {key: fx.node.map_arg(value, self.value) for key, value in args.items()}
        x = mapped.get("self", mapped.get("input"))
        if name == "getitem":
            return self.emit_item(node)
        if name == "sym_size":
            return self.graph.call_method("size", (x, mapped["dim"]))
        if name in VIEWS or name == "expand":
            sizes = self.sizes(mapped["size" if name == "expand" or "size" in mapped else "shape"], labels)
            method, opened = "expand" if name == "expand" else "reshape", self.open(node, sizes)
            return self.graph.call_method(method, (x, *opened) if opened else (x, ()))  # () is a scalar
        if name == "unflatten":
            dim = args["dim"] % len(self.state.shape(args["self"]))
            sizes = self.sizes(mapped["sizes"], labels[dim : dim + len(args["sizes"])])
            return self.graph.call_method("unflatten", (x, dim, tuple(sizes)))
        if name in SPLITS:
            dim = int(args["dim"] or 0)
            shapes = self.captured.shapes[node]
            parts = [self.kept(axes[dim], shape[dim]) for axes, shape in zip(labels, shapes, strict=True)]
            return self.graph.call_function(torch.split, (x, parts, dim))
        if name == "slice":
            mapped |= self.stretch(args)
        if name == "repeat_interleave":
            mapped["output_size"] = None
        if name.startswith("conv") and "groups" in mapped:
            mapped["groups"] = self.groups(args)
        if name == "group_norm":
            axes = self.state.of(args["input"])
            full = self.state.shape(args["input"])[1]
            mapped["num_groups"] = args["num_groups"] * self.kept(axes[1], full) // full
        if name == "add" and mapped.get("alpha", 1) == 1 and len(node.args) == 2:
            return self.graph.call_function(operator.add, (mapped["self"], mapped["other"]))
        if name == "mul" and len(node.args) == 2 and "other" in mapped:
            return self.graph.call_function(operator.mul, (mapped["self"], mapped["other"]))
        if name in CONSTANTS:
            positional = tuple(fx.node.map_arg(a, self.value) for a in node.args)
            kwargs = {"dtype": mapped["dtype"]} if mapped.get("dtype") is not None else {}
            return self.graph.call_function(CONSTANTS[name], positional, kwargs)
        if name in {"cat", "concat"}:
            return self.graph.call_function(torch.cat, (list(mapped["tensors"]), mapped["dim"]))
        if name == "mean" and mapped.get("dim") is not None and mapped.get("dtype") is None:
            return self.graph.call_method("mean", (x, tuple(mapped["dim"]), bool(mapped["keepdim"])))
        if name in FUNCTIONS and not node.kwargs:
            return self.graph.call_function(FUNCTIONS[name], tuple(fx.node.map_arg(a, self.value) for a in node.args))
        return self.emit_operator(node, mapped)

    def emit_operator(self, node: fx.Node, mapped: Mapping[str, Any]) -> fx.Node:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return self.graph.call_function(
                node.target,  # type: ignore[arg-type]
                tuple(fx.node.map_arg(a, self.value) for a in node.args),
                {k: fx.node.map_arg(v, self.value) for k, v in node.kwargs.items()},
            )
        names = [argument.name for argument in schema.arguments]
        positional = tuple(mapped[n] for n in names[: len(node.args)])
        extra = {n: mapped[n] for n in names[len(node.args) :] if n in node.kwargs}
        for changed in ("groups", "num_groups", "start", "end"):
            if changed in names[len(node.args) :] and changed in mapped:
                extra[changed] = mapped[changed]
        return self.graph.call_function(node.target, positional, extra)  # type: ignore[arg-type]

    def emit_item(self, node: fx.Node) -> fx.Node:
        source, index = node.args
        assert isinstance(source, fx.Node)
        value = self.value(source)
        if operator_name(source) in {"lstm", "gru"} and layer_of(self.captured, source) is not None:
            if operator_name(source) == "gru" or index == 0:
                return self.graph.call_function(operator.getitem, (value, index))
            states = self.graph.call_function(operator.getitem, (value, 1))
            return self.graph.call_function(operator.getitem, (states, int(index) - 1))  # type: ignore[arg-type]
        return self.graph.call_function(operator.getitem, (value, index))

    # -- sizes ---------------------------------------------------------------------------------------

    def kept(self, label: Label | None, full: int) -> int:
        return full if label is None else self.selection.size(label)

    def sizes(self, sizes: Any, labels: Any) -> list[Any]:
        return [n if label is None else self.selection.size(label) for n, label in zip(sizes, labels, strict=True)]

    def open(self, node: fx.Node, sizes: list[Any]) -> list[Any]:
        """Writes -1 for the batch where that says the same: a view that works for any batch without asking for it."""
        unknown = [i for i, n in enumerate(sizes) if isinstance(n, fx.Node) or n == -1]
        if operator_name(node) == "expand":
            source = node.args[0]
            assert isinstance(source, fx.Node)
            shift = len(sizes) - len(self.state.shape(source))
            symbolic = (False,) * shift + self.state.symbolic(source)
            return [-1 if isinstance(n, fx.Node) and symbolic[i] else n for i, n in enumerate(sizes)]
        return [-1 if i in unknown else n for i, n in enumerate(sizes)] if len(unknown) == 1 else sizes

    def stretch(self, args: Mapping[str, Any]) -> dict[str, Any]:
        source = args["self"]
        label = self.state.of(source)[int(args["dim"] or 0)]
        if label is None or isinstance(args["start"], fx.Node) or isinstance(args["end"], fx.Node):
            return {}
        start, end, _ = slice(args["start"], args["end"]).indices(len(label))
        before = self.selection.size(label[:start])
        return {"start": before, "end": before + self.selection.size(label[start:end])}

    def groups(self, args: Mapping[str, Any]) -> int:
        groups, full = int(args["groups"]), self.state.shape(args["input"])[1]
        return groups * self.kept(self.state.of(args["input"])[1], full) // full if groups > 1 else 1
