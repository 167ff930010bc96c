"""Layer costs: the LayerSpecs of a captured graph, for whole populations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from torch import fx, nn

from search_spaces.from_model.layer_rules import INPUT
from search_spaces.from_model.units import Axes, Label, Units
from search_spaces.from_model.walk import Walk, arguments, operator_name
from search_spaces.genes import Condition
from search_spaces.layers import LayerSpec, Size
from search_spaces.low_rank import EXPAND, REDUCE, rank_of

SizeOf = Callable[[Label], Size]
NORMS: Mapping[str, str] = {"batch_norm": "batchnorm", "layer_norm": "layernorm", "group_norm": "layernorm"}


@dataclass(frozen=True)
class Choices:
    """What the genes of a population say.

    Args:
        size: label -> how many positions stay, an int or (n,).
        kernel: layer -> side of its kernel (n,), where that is a gene.
        rank: layer -> share of the full rank (n,), where that is a gene.
        exists: node -> whether it is there, True or (n,).
        when: node -> the same as conditions of genes.
    """

    size: SizeOf
    kernel: Mapping[str, Size]
    rank: Mapping[str, Any]
    exists: Callable[[fx.Node], Any]
    when: Callable[[fx.Node], tuple[Condition, ...]]


def stage_of(path: str) -> str:
    """Returns the part of the model that a layer belongs to: its path up to the first number, or its first name."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return parts[0] or "model"


def layer_specs(state: Walk, units: Units, choices: Choices, live: Sequence[fx.Node]) -> list[LayerSpec]:
    """Returns the layers of a model for a population, in graph order: every tensor counted once.

    Args:
        state: labels.
        units: of them.
        choices: of the population.
        live: nodes of the whole model, in graph order.
    """
    return _Specs(state, units, choices).run(live)


class _Specs:
    def __init__(self, state: Walk, units: Units, choices: Choices) -> None:
        self.state, self.units, self.choices = state, units, choices
        self.counted: set[str] = set()
        self.out: list[LayerSpec] = []

    def run(self, live: Sequence[fx.Node]) -> list[LayerSpec]:
        for node in live:
            if node.op == "call_function":
                before = len(self.out)
                self.node(node)
                exists, when = self.choices.exists(node), self.choices.when(node)
                for i in range(before, len(self.out)):
                    spec = self.out[i]
                    active = exists if spec.active is True else spec.active & exists
                    self.out[i] = replace(spec, active=active, when=when)
        return self.out

    # -- sizes ---------------------------------------------------------------------------------------

    def of(self, axes: Axes, shape: Sequence[int]) -> list[Size]:
        return [n if label is None else self.choices.size(label) for label, n in zip(axes, shape, strict=True)]

    def value(self, node: Any) -> list[Size]:
        """Returns the sizes of a tensor without its batch dimension."""
        symbolic = self.state.symbolic(node)
        sizes = self.of(self.state.of(node), self.state.shape(node))
        batch = self.state.captured.example[0].shape[0]
        return [n // batch if s and isinstance(n, int) else n for n, s in zip(sizes, symbolic, strict=True)]

    def tensor(self, name: str) -> list[Size]:
        shape = self.state.captured.values[name].shape
        return self.of(self.state.parameters.get(name, (None,) * len(shape)), shape)

    def first_use(self, name: str | None) -> bool:
        if name is None or name in self.counted:
            return False
        self.counted.add(name)
        return True

    def prunable(self, weight: str) -> bool:
        axes = self.state.parameters[weight]
        labels = [label for label in axes[:2] if label is not None]
        reasons = {self.units.reasons.get(int(self.units.of[label[0]])) for label in labels}
        return len(labels) == 2 and not reasons & {INPUT, "is an output of the model"}

    # -- operators -----------------------------------------------------------------------------------

    def node(self, node: fx.Node) -> None:
        name, args = operator_name(node), arguments(node)
        path = self.state.where(node)
        if name in {"linear", "addmm"} or (name.startswith("conv") and "groups" in args):
            self.weighted(node, name, args, path)
        elif name == "embedding":
            self.embedding(node, args, path)
        elif name in {"matmul", "bmm", "mm"}:
            self.product(node, args, path)
        elif name == "scaled_dot_product_attention":
            self.attention(node, args, path)
        elif name in {"lstm", "gru"}:
            self.recurrent(node, args, path)
        self.rest(node, name, path)

    def weighted(self, node: fx.Node, name: str, args: Mapping[str, Any], path: str) -> None:
        source = args.get("input", args.get("mat1"))
        weight = self.state.tensor_name(args.get("weight", args.get("mat2")))
        x, y = self.value(source), self.value(node)
        channel = -1 if name in {"linear", "addmm"} else 1
        read, written = prod(x) // _at(x, channel), prod(y) // _at(y, channel)
        if weight is None:
            return
        w = self.tensor(weight)
        first, biased = (
            self.first_use(weight),
            self.first_use(self.state.tensor_name(args.get("bias", args.get("self")))),
        )
        groups: Size = 1
        kernel: Size = 1
        held: Size = 0
        if channel == -1:
            inputs, outputs = (w[1], w[0]) if name == "linear" else (w[0], w[1])
            prunable = name == "linear" and self.prunable(weight)
        else:
            transposed = name.startswith("conv_transpose")
            count, full = int(args["groups"]), self.state.shape(source)[1]
            groups = 1 if count == 1 else _at(x, 1) * count // full
            inputs, outputs = _at(x, 1), _at(y, 1)
            sides = [int(k) for k in self.state.captured.values[weight].shape[2:]]
            square = len(sides) == 2 and sides[0] == sides[1]
            kernel = self.choices.kernel.get(path, sides[0]) if square else 1
            inputs = inputs if square else inputs * prod(sides)
            prunable = square and not transposed and count == 1 and self.prunable(weight)
            if transposed:
                held, written = outputs * (written - read), read
        spec = LayerSpec(
            path,
            "linear" if channel == -1 else "conv",
            stage_of(path),
            inputs,
            outputs,
            kernel=kernel,
            groups=groups,
            positions_in=read,
            positions=written,
            bias=biased,
            held=held,
            prunable=prunable,
        )
        if not first:  # a tied weight: its products count again, its values do not
            self.out.append(
                replace(
                    spec, name=f"{path}.again", kind="matmul", inputs=inputs * kernel * kernel, kernel=1, bias=False
                )
            )
            return
        ratio = self.choices.rank.get(path)
        if ratio is None:
            self.out.append(spec)
            return
        whole = np.asarray(ratio) >= 1.0
        rank = rank_of(ratio, outputs, inputs, kernel)
        self.out.append(replace(spec, active=whole))
        self.out.append(replace(spec, name=f"{path}.{REDUCE}", outputs=rank, bias=False, active=~whole))
        self.out.append(
            replace(spec, name=f"{path}.{EXPAND}", inputs=rank, kernel=1, positions_in=written, active=~whole)
        )

    def embedding(self, node: fx.Node, args: Mapping[str, Any], path: str) -> None:
        weight = self.state.tensor_name(args["weight"])
        if weight is None or not self.first_use(weight):
            return
        entries, features = self.tensor(weight)
        positions = prod(self.value(node)[:-1])
        self.out.append(
            LayerSpec(path, "embedding", stage_of(path), entries, features, positions_in=0, positions=positions)
        )

    def product(self, node: fx.Node, args: Mapping[str, Any], path: str) -> None:
        a, y = self.value(args["self"]), self.value(node)
        if len(a) < 2 or len(y) < 2:
            return
        rows = prod(y[:-1])
        self.out.append(
            LayerSpec(f"{path}.{node.name}", "matmul", stage_of(path), a[-1], y[-1], positions_in=rows, positions=rows)
        )

    def attention(self, node: fx.Node, args: Mapping[str, Any], path: str) -> None:
        q, k, v = (self.value(args[n]) for n in ("query", "key", "value"))
        rows = prod(q[:-1])
        for part, inputs, outputs in (("scores", q[-1], k[-2]), ("values", k[-2], v[-1])):
            self.out.append(
                LayerSpec(
                    f"{path}.{node.name}.{part}",
                    "matmul",
                    stage_of(path),
                    inputs,
                    outputs,
                    positions_in=rows,
                    positions=rows,
                )
            )

    def recurrent(self, node: fx.Node, args: Mapping[str, Any], path: str) -> None:
        steps = prod(self.value(args["input"])[:-1])
        for param in args["params"]:
            name = self.state.tensor_name(param)
            if name is None or not self.first_use(name):
                continue
            sizes, owner = self.tensor(name), f"{path}.{name.rpartition('.')[2]}"
            if len(sizes) == 2:
                self.out.append(
                    LayerSpec(
                        owner,
                        "linear",
                        stage_of(path),
                        sizes[1],
                        sizes[0],
                        positions_in=steps,
                        positions=steps,
                        prunable=False,
                    )
                )
            else:
                self.out.append(self.values(owner, stage_of(path), sizes[0]))

    def rest(self, node: fx.Node, name: str, path: str) -> None:
        """Counts norms as layers and every other tensor that a node reads by its values."""
        own = [
            (n, self.state.captured.tensors[n.name])
            for n in node.all_input_nodes
            if n.name in self.state.captured.tensors
        ]
        own = [(n, tensor) for n, tensor in own if tensor not in self.counted]
        if name in NORMS and (name != "batch_norm" or len(own) == 4) and (name == "batch_norm" or len(own) == 2):
            channels = self.tensor(own[0][1])[0]
            if len(self.state.captured.values[own[0][1]].shape) == 1:
                self.counted.update(tensor for _, tensor in own)
                positions = prod(self.value(node)) // channels
                kind: Any = NORMS[name]
                self.out.append(
                    LayerSpec(
                        path, kind, stage_of(path), channels, channels, positions_in=positions, positions=positions
                    )
                )
                return
        for _, tensor in own:
            self.counted.add(tensor)
            full = self.state.captured.values[tensor]
            size = prod(self.tensor(tensor))
            if isinstance(full, nn.Parameter):
                self.out.append(self.values(tensor, stage_of(path), size))
            else:
                words = max(1, full.element_size() // 4)
                self.out.append(LayerSpec(tensor, "table", stage_of(path), words, size, positions_in=0, positions=0))

    def values(self, name: str, stage: str, size: Size) -> LayerSpec:
        """Returns a parameter that belongs to no layer of a known kind: so many values, no products."""
        return LayerSpec(name, "elementwise", stage, 0, size, positions_in=0, positions=0, bias=True)


def _at(sizes: list[Size], dim: int) -> Size:
    return sizes[dim]
