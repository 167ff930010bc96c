"""Rules of operators with weights: what they couple between inputs, weights and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import fx

from search_spaces.from_model.units import Axes, Label
from search_spaces.from_model.walk import Producer, Rule, Value, Walk

INPUT = "reads an input of the model"
NORMALISED = "is normalised together"


def _out(state: Walk, node: fx.Node, label: Label | None, bias: Any) -> Label | None:
    """Returns the label of an output axis, with the bias coupled to it, and remembers who makes it."""
    if isinstance(bias, fx.Node):
        state.coupling.couple(state.parameter(bias)[0], label, "its bias is computed")
    if label is not None:
        state.producers.append(Producer(state.where(node), label))
    return label


def linear(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Y = x w^T + b: inputs follow x, outputs are new."""
    x, w = state.of(args["input"]), state.parameter(args["weight"])
    state.coupling.couple(x[-1], w[1], INPUT)
    return (*x[:-1], _out(state, node, w[0], args["bias"]))


def addmm(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Y = b + x w."""
    x, w = state.of(args["mat1"]), state.parameter(args["mat2"])
    state.coupling.couple(x[-1], w[0], INPUT)
    return (x[0], _out(state, node, w[1], args["self"]))


def convolution(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """One group: as linear. Several: a group goes with all its inputs and outputs (depthwise: channel by channel)."""
    x, w = state.of(args["input"]), state.parameter(args["weight"])
    rest = state.fixed(node)[2:]
    for dim in range(2, len(w)):
        state.coupling.pin(w[dim], "is a kernel")
    groups = int(args["groups"])
    if groups == 1:
        state.coupling.couple(x[1], w[1], INPUT)
        return (x[0], _out(state, node, w[0], args["bias"]), *rest)
    state.coupling.pin(w[1], "is counted per group")
    if x[1] is None or w[0] is None:
        state.coupling.pin(w[0], INPUT)
        state.coupling.pin(x[1], "is read in groups")
    else:
        state.coupling.couple(state.coupling.blocks(x[1], groups), state.coupling.blocks(w[0], groups), INPUT)
    return (x[0], _out(state, node, w[0], args["bias"]), *rest)


def transposed(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """The weight of a transposed convolution is (inputs, outputs / groups, kernel)."""
    x, w = state.of(args["input"]), state.parameter(args["weight"])
    rest = state.fixed(node)[2:]
    for dim in range(2, len(w)):
        state.coupling.pin(w[dim], "is a kernel")
    groups = int(args["groups"])
    if groups == 1:
        state.coupling.couple(x[1], w[0], INPUT)
        return (x[0], _out(state, node, w[1], args["bias"]), *rest)
    state.coupling.pin(w[1], "is counted per group")
    state.coupling.couple(x[1], w[0], INPUT)
    if w[0] is None or x[1] is None:
        return (x[0], None, *rest)
    each = state.captured.values[str(state.tensor_name(args["weight"]))].shape[1]
    out = np.repeat(state.coupling.blocks(w[0], groups), each)
    return (x[0], _out(state, node, out, args["bias"]), *rest)


def batch_norm(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Channel by channel."""
    x = state.of(args["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(args.get(name), fx.Node):
            state.coupling.couple(x[1], state.parameter(args[name])[0], INPUT)
    return x


def group_norm(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """The channels of a group are normalised together: they go together."""
    x = state.of(args["input"])
    for name in ("weight", "bias"):
        if isinstance(args[name], fx.Node):
            state.coupling.couple(x[1], state.parameter(args[name])[0], INPUT)
    if x[1] is not None:
        state.coupling.blocks(x[1], int(args["num_groups"]))
    return x


def layer_norm(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Normalised axes keep their size: without some channels the mean is another one."""
    x = state.of(args["input"])
    n = len(args["normalized_shape"])
    state.pin(x[-n:], f"{NORMALISED} in {state.where(node)}")
    for name in ("weight", "bias"):
        if isinstance(args.get(name), fx.Node):
            state.pin(state.parameter(args[name]), NORMALISED)
    return (*x[:-n], *(None,) * n)


def embedding(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Entries stay, features are new."""
    w = state.parameter(args["weight"], keep=(0,))
    return (*state.of(args["indices"]), _out(state, node, w[1], None))


def prelu(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """One slope for all channels, or one per channel."""
    x, w = state.of(args["self"]), state.parameter(args["weight"])
    if w[0] is not None and len(x) > 1:
        state.coupling.couple(x[1], w[0], INPUT)
    return x


def recurrent(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """LSTM and GRU: one hidden unit is the same number in all gates, layers and directions."""
    x, params = state.of(args["input"]), list(args["params"])
    layers, both, biases = int(args["num_layers"]), bool(args["bidirectional"]), bool(args["has_biases"])
    directions, each = 2 if both else 1, 4 if biases else 2
    hidden = state.captured.values[str(state.tensor_name(params[1]))].shape[1]
    unit = state.coupling.fresh(hidden)
    state.producers.append(Producer(state.where(node), unit))
    states = args["hx"] if isinstance(args["hx"], tuple | list) else [args["hx"]]
    simple = len(params) == layers * directions * each and all(_is_zeros(h) for h in states)
    if not simple:
        state.coupling.pin(unit, "is a recurrent layer with a projection or a given first state")
    for i, param in enumerate(params):
        axes = state.parameter(param)
        if not simple:
            state.pin(axes, "is a recurrent layer with a projection or a given first state")
            continue
        gates = state.captured.values[str(state.tensor_name(param))].shape[0] // hidden
        state.coupling.couple(axes[0], np.tile(unit, gates), INPUT)
        layer, kind = i // (directions * each), i % each
        if kind == 0:
            state.coupling.couple(axes[1], x[-1] if layer == 0 else np.tile(unit, directions), INPUT)
        elif kind == 1:
            state.coupling.couple(axes[1], unit, INPUT)
    if not simple:
        return state.fixed(node)
    return [(*x[:-1], np.tile(unit, directions)), *[(None, x[0 if args["batch_first"] else 1], unit) for _ in states]]


def _is_zeros(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and "zeros" in str(argument.target)


def attention(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """softmax(q k^T) v: heads go together (grouped queries: with their shared head), the width of values is free."""
    q, k, v = (state.of(args[name]) for name in ("query", "key", "value"))
    where = state.where(node)
    heads: list[Label | None] = []
    for dim, mine in enumerate(q[:-2]):
        label = mine
        for other, operand in ((k, args["key"]), (v, args["value"])):
            theirs, size, all_ = other[dim], state.shape(operand)[dim], state.shape(args["query"])[dim]
            if theirs is not None and size != all_:
                theirs = np.repeat(theirs, all_ // size)
            label = state.coupling.couple(label, theirs, f"is attended with fixed heads in {where}")
        heads.append(label)
    mask = args.get("attn_mask")
    if isinstance(mask, fx.Node):
        for dim, label in enumerate(reversed(state.of(mask))):
            if dim < 2:
                state.coupling.pin(label, "is a length of the attention")
            elif label is not None:
                state.coupling.couple(label, heads[len(heads) + 1 - dim], f"is masked in {where}")
    for axes in (q, k):
        state.coupling.pin(axes[-1], f"is the width of a head in {where}")
    for axes in (q, k, v):
        state.coupling.pin(axes[-2], f"is a length of the attention in {where}")
    out: Axes = (*heads, None, v[-1])
    return out


LAYER_RULES: Mapping[str, Rule] = {
    "linear": linear,
    "addmm": addmm,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "embedding": embedding,
    "prelu": prelu,
    **dict.fromkeys(("lstm", "gru"), recurrent),
    "scaled_dot_product_attention": attention,
}
