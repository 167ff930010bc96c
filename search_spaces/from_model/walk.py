"""Walk: every axis of every value of a captured graph with its label, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import SymInt, fx

from search_spaces.from_model.capture import Captured
from search_spaces.from_model.units import Axes, Coupling, Label

Value = Any
"""Axes of a tensor, a list of them for several values, None for anything else."""


@dataclass
class Producer:
    """An axis that a layer makes: where a width comes from.

    Args:
        name: path of the layer. label: of the axis.
    """

    name: str
    label: Label


@dataclass
class Walk:
    """What the rules read and write.

    Args:
        captured: the graph.
        coupling: of entries.
        axes: node -> value.
        parameters: full tensor -> axes.
        producers: in graph order.
        heads: entries that a view made the first of a block: their unit is a head and no channel.
    """

    captured: Captured
    coupling: Coupling = field(default_factory=Coupling)
    axes: dict[fx.Node, Value] = field(default_factory=dict)
    parameters: dict[str, Axes] = field(default_factory=dict)
    producers: list[Producer] = field(default_factory=list)
    heads: list[Label] = field(default_factory=list)

    def of(self, argument: Any) -> Axes:
        """Returns the axes of a tensor argument; of anything else, none."""
        value = self.axes.get(argument) if isinstance(argument, fx.Node) else None
        return value if isinstance(value, tuple) else ()

    def shape(self, argument: Any) -> tuple[int, ...]:
        """Returns the shape of a tensor argument for the example."""
        shape = self.captured.shapes.get(argument) if isinstance(argument, fx.Node) else None
        return shape if isinstance(shape, tuple) else ()

    def fixed(self, node: fx.Node) -> Value:
        """Returns axes without labels for the value of a node."""
        shape = self.captured.shapes[node]
        if isinstance(shape, list):
            return [None if s is None else (None,) * len(s) for s in shape]
        return (None,) * len(shape) if isinstance(shape, tuple) else None

    def pin(self, axes: Axes, reason: str) -> None:
        """Keeps all axes of a tensor as they are."""
        for label in axes:
            self.coupling.pin(label, reason)

    def tensor_name(self, argument: Any) -> str | None:
        """Returns the name of the parameter or buffer that an argument is, if it is one."""
        return self.captured.tensors.get(argument.name) if isinstance(argument, fx.Node) else None

    def parameter(self, argument: Any, *, keep: tuple[int, ...] = ()) -> Axes:
        """Returns the axes of a parameter, with labels of their own at first sight; computed tensors have theirs.

        Args:
            argument: node.
            keep: dimensions that never change.
        """
        name = self.tensor_name(argument)
        if name is None:
            axes = self.of(argument)
            for dim in keep:
                self.coupling.pin(axes[dim], "a tensor of the graph is used as a weight")
            return tuple(None if dim in keep else label for dim, label in enumerate(axes))
        if name not in self.parameters:
            shape = self.captured.values[name].shape
            self.parameters[name] = tuple(self.coupling.fresh(n) if n > 1 else None for n in shape)
        axes = self.parameters[name]
        for dim in keep:
            self.coupling.pin(axes[dim % len(axes)], "read at every position")
        return axes

    def symbolic(self, argument: Any) -> tuple[bool, ...]:
        """Returns which dimensions of a tensor depend on the batch."""
        value = argument.meta.get("val")
        return tuple(isinstance(n, SymInt) for n in value.shape)

    def where(self, node: fx.Node) -> str:
        """Returns the path of the module that a node is from, for messages."""
        return self.captured.paths[node] or type(self.captured.module).__name__


Rule = Callable[[Walk, fx.Node, Mapping[str, Any]], Value]


def operator_name(node: fx.Node) -> str:
    """Returns `relu` for `aten.relu_.default`; the function's name for what is no ATen operator."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target))
    name = str(schema.name).split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def arguments(node: fx.Node) -> dict[str, Any]:
    """Returns the arguments of an ATen operator by name, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(i): value for i, value in enumerate(node.args)} | dict(node.kwargs)
    named = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            named[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        else:
            named[argument.name] = argument.default_value if argument.has_default_value() else None
    return named


def walk(captured: Captured, rules: Mapping[str, Rule]) -> Walk:
    """Returns all labels of a captured graph.

    What an unknown operator reads stays fixed, and so do outputs of the model.

    Args:
        captured: the graph.
        rules: operator -> rule.
    """
    state = Walk(captured)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            state.axes[node] = state.fixed(node) if node.name not in captured.tensors else None
        elif node.op == "call_function":
            _place_tensors(state, node)
            if captured.shapes[node] is None:  # numbers, such as the size of the batch
                state.axes[node] = None
                continue
            name = operator_name(node)
            rule = rules.get(name)
            if rule is not None:
                state.axes[node] = rule(state, node, arguments(node))
                continue
            for argument in node.all_input_nodes:
                value = state.axes.get(argument)
                for axes in value if isinstance(value, list) else [value]:
                    if axes is not None:
                        state.pin(axes, f"{name} in {state.where(node)} has no rule")
            state.axes[node] = state.fixed(node)
        elif node.op == "output":
            for argument in node.all_input_nodes:
                value = state.axes.get(argument)
                for axes in value if isinstance(value, list) else [value]:
                    if axes is not None:
                        state.pin(axes, "is an output of the model")
    return state


def _place_tensors(state: Walk, node: fx.Node) -> None:
    """Gives parameters that an operator reads as ordinary tensors their labels."""
    for argument in node.all_input_nodes:
        if argument.op == "placeholder" and argument.name in state.captured.tensors:
            state.axes[argument] = state.parameter(argument)
