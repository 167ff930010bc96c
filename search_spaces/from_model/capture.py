"""Capture: a module as a graph of ATen operators (torch.export), with the names of its tensors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

DOCS = "docs/own_model.md"


class CaptureError(ValueError):
    """The module cannot be captured; one readable line."""


@dataclass(frozen=True)
class Captured:
    """A module as a graph.

    Args:
        module: a copy of the user's, in eval mode.
        graph: ATen operators; parameters and buffers are placeholders.
        tensors: placeholder of a parameter or buffer -> its name.
        values: name -> tensor.
        inputs: names of the other placeholders, in order.
        shapes: node -> shape of its value for the example (None: no tensor); a list for several values.
        paths: node -> path of the module whose forward it is from.
        example: inputs, each with a leading batch dimension of at least 2.
    """

    module: nn.Module
    graph: fx.Graph
    tensors: Mapping[str, str]
    values: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    shapes: Mapping[fx.Node, Any]
    paths: Mapping[fx.Node, str]
    example: tuple[Tensor, ...]


class _Shapes(fx.Interpreter):
    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.found[n] = pytree.tree_map(lambda v: tuple(v.shape) if isinstance(v, Tensor) else None, value)
        if isinstance(value, tuple | list):
            self.found[n] = [tuple(v.shape) if isinstance(v, Tensor) else None for v in value]
        return value


@torch.no_grad()
def capture(
    module: nn.Module, example_inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor], *, output: str | None = None
) -> Captured:
    """Returns the graph of a module in eval mode; the module is not changed.

    Args:
        module: any that torch.export takes.
        example_inputs: one tensor, positional ones, or keyword ones; dimension 0 of each is the batch.
        output: key or attribute of the one output to keep, of a module that returns several; None keeps what it
            returns (a dictionary-like object becomes a dict).

    Raises:
        CaptureError: torch cannot export it, or its batch dimension does not stay open.
    """
    module = copy.deepcopy(module).eval()
    args, kwargs = _arguments(example_inputs)
    dynamic: Any = {name: {0: torch.export.Dim.AUTO} for name in kwargs}
    if not kwargs:
        dynamic = tuple({0: torch.export.Dim.AUTO} for _ in args)
    traced = copy.deepcopy(module)  # export leaves traces in recurrent layers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(traced, args, kwargs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # torch raises many kinds, some of them internal
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        raise CaptureError(
            f"the model must be exportable by torch.export, but {type(module).__name__} is not: "
            f"{reason} ({DOCS} says what helps)."
        ) from error
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values |= {name: tensor for name, tensor in module.named_parameters(remove_duplicate=False) if name not in values}
    for place, name in signature.inputs_to_lifted_tensor_constants.items():
        tensors[place] = f"constants.{name.replace('.', '_')}"
        constant = program.constants[name]
        assert isinstance(constant, Tensor)
        values[tensors[place]] = constant.detach().clone()
    graph = program.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    inputs = tuple(node.name for node in places if node.name not in tensors)
    one_name: dict[int, str] = {}  # a tied tensor goes by the name under which the graph reads it
    for node in sorted((n for n in places if n.name in tensors), key=lambda n: not n.users):
        tensors[node.name] = one_name.setdefault(id(values[tensors[node.name]]), tensors[node.name])
    for node in places:
        if node.name in inputs and not isinstance(node.meta["val"].shape[0], torch.SymInt):
            raise CaptureError(
                f"the batch (dimension 0 of input {node.name!r}) must stay open, but the model's code fixes it to "
                f"{node.meta['val'].shape[0]} ({DOCS} says what helps)."
            )
    _choose_output(graph, program.call_spec.out_spec, output)
    given = iter(pytree.tree_leaves((args, kwargs)))
    feed = [values[tensors[n.name]] if n.name in tensors else next(given) for n in places]
    shapes = _Shapes(fx.GraphModule(nn.Module(), graph))
    shapes.run(*feed)
    _check_other_batch(graph, feed, [n.name in inputs for n in places])
    return Captured(
        module=module,
        graph=graph,
        tensors=tensors,
        values=values,
        inputs=inputs,
        shapes=shapes.found,
        paths={node: _path(node) for node in graph.nodes},
        example=tuple(pytree.tree_leaves((args, kwargs))),
    )


def _check_other_batch(graph: fx.Graph, feed: list[Tensor], is_input: list[bool]) -> None:
    """Runs the graph with one example more: a literal size in a view passes torch.export and fails only then."""
    more = [torch.cat([x, x[:1]]) if own else x for x, own in zip(feed, is_input, strict=True)]
    try:
        fx.Interpreter(fx.GraphModule(nn.Module(), graph)).run(*more)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n")[0].split())[:200]
        raise CaptureError(
            f"the batch must stay open, but with another size the model fails: {reason} ({DOCS} says what helps)."
        ) from error


def _arguments(
    example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Returns positional and keyword inputs with a batch of at least 2: torch.export takes a 1 for a constant."""
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = {}
    if isinstance(example, Tensor):
        args = (example,)
    elif isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example)
    every: list[Any] = [*args, *kwargs.values()]
    if not every or any(not isinstance(x, Tensor) or x.dim() == 0 for x in every):
        raise CaptureError("example_inputs must be tensors with a leading batch dimension, at least one.")
    if len({len(x) for x in every}) > 1:
        raise CaptureError(f"example_inputs must have one batch size, but got {[len(x) for x in every]}.")
    if len(every[0]) == 1:
        args, kwargs = tuple(torch.cat([x, x]) for x in args), {k: torch.cat([x, x]) for k, x in kwargs.items()}
    return args, kwargs


def _choose_output(graph: fx.Graph, spec: Any, output: str | None) -> None:
    """Gives the graph's output its structure (dicts for mappings and HF outputs), or the one that is asked for."""
    node = next(n for n in graph.nodes if n.op == "output")
    structure = _plain(pytree.tree_unflatten(list(node.args[0]), spec))
    if output is not None:
        known = (
            structure
            if isinstance(structure, dict)
            else dict(enumerate(structure))
            if isinstance(structure, tuple | list)
            else {}
        )
        found = [value for key, value in known.items() if str(key) == output]
        if not found:
            raise CaptureError(f"output must be one of {[str(k) for k in known]}, but got {output!r}.")
        structure = found[0]
    node.args = (structure,)


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, tuple | list):
        return tuple(_plain(entry) for entry in value)
    return value


def _path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).split("@")[0] if stack else ""
