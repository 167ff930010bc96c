"""Rules of operators without weights: elementwise, reductions, products, and what only moves axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from search_spaces.from_model.units import Axes, Label
from search_spaces.from_model.views import viewed
from search_spaces.from_model.walk import Rule, Value, Walk, operator_name


def elementwise(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Axes that meet lose the same positions; a size of 1 is repeated for all of them."""
    shape = state.captured.shapes[node]
    operands = [n for n in node.all_input_nodes if state.shape(n)]
    reason = f"meets a tensor of fixed size ({operator_name(node)} in {state.where(node)})"
    out: list[Label | None] = []
    for dim in range(len(shape)):
        label: Label | None = None
        first = True
        for operand in operands:
            at = dim - len(shape) + len(state.shape(operand))
            if at < 0 or (state.shape(operand)[at] == 1 and shape[dim] != 1):
                continue
            mine = state.of(operand)[at]
            label = mine if first else state.coupling.couple(label, mine, reason)
            first = False
        out.append(label)
    return tuple(out)


def reduction(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Reduced axes keep their size."""
    x = state.of(args["self"])
    dims = args.get("dim")
    dims = list(range(len(x))) if dims is None or dims == [] else dims if isinstance(dims, Sequence) else [dims]
    reduced = {d % len(x) for d in dims}
    for dim in reduced:
        state.coupling.pin(x[dim], f"is reduced by {operator_name(node)} in {state.where(node)}")
    kept: Axes = tuple(None if d in reduced else label for d, label in enumerate(x))
    result: Axes = kept if args.get("keepdim") else tuple(label for d, label in enumerate(kept) if d not in reduced)
    shape = state.captured.shapes[node]
    return [result for _ in shape] if isinstance(shape, list) else result


def along(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Softmax and the like: the axis keeps its size, the others pass."""
    x = state.of(args["self"])
    dim = int(args["dim"]) % len(x)
    state.coupling.pin(x[dim], f"is normalised by {operator_name(node)} in {state.where(node)}")
    return (*x[:dim], None, *x[dim + 1 :])


def spatial(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Pooling, resizing: the first dimensions pass, the last ones keep their size."""
    source = args.get("self", args.get("input"))
    x, shape = state.of(source), state.captured.shapes[node]
    passing = len(x) - int(operator_name(node).split("d")[-2][-1]) if "d" in operator_name(node) else 2
    state.pin(x[passing:], "is a side of an image")
    result = (*x[:passing], *(None,) * (len(x) - passing))
    return [result for _ in shape] if isinstance(shape, list) else result


def upsample(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Batch and channels pass."""
    x = state.of(args.get("input", args.get("self")))
    return (*x[:2], *(None,) * (len(x) - 2))


def pad(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Padded axes keep their size."""
    x = state.of(args["self"])
    amounts = args["pad"]
    out = list(x)
    for i in range(len(amounts) // 2):
        if amounts[2 * i] != 0 or amounts[2 * i + 1] != 0:
            state.coupling.pin(x[len(x) - 1 - i], f"is padded in {state.where(node)}")
            out[len(x) - 1 - i] = None
    return tuple(out)


def matmul(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """(..., n, k) @ (..., k, m): k goes together, leading dimensions as elementwise."""
    a, b = args["self"], args.get("other", args.get("mat2"))
    x, y = state.of(a), state.of(b)
    where = f"meets a tensor of fixed size (matmul in {state.where(node)})"
    if len(x) < 2 or len(y) < 2:
        state.pin((*x, *y), "is in a product with a vector")
        return state.fixed(node)
    state.coupling.couple(x[-1], y[-2], where)
    lead: list[Label | None] = []
    n = max(len(x), len(y)) - 2
    for dim in range(n):
        found: list[Label | None] = []
        for axes, shape in ((x, state.shape(a)), (y, state.shape(b))):
            at = dim - n + len(axes) - 2
            if at >= 0 and not (shape[at] == 1 and state.captured.shapes[node][dim] != 1):
                found.append(axes[at])
        lead.append(found[0] if len(found) == 1 else state.coupling.couple(found[0], found[1], where))
    return (*lead, x[-2], y[-1])


def einsum(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Axes with one letter go together."""
    left, _, right = str(args["equation"]).replace(" ", "").partition("->")
    terms, operands = left.split(","), list(args["tensors"])
    if "." in left or not right:
        for operand in operands:
            state.pin(state.of(operand), "is in an einsum without explicit letters")
        return state.fixed(node)
    letters: dict[str, Label | None] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, label in zip(term, state.of(operand), strict=True):
            reason = f"meets a tensor of fixed size (einsum in {state.where(node)})"
            letters[letter] = state.coupling.couple(letters[letter], label, reason) if letter in letters else label
    return tuple(letters[letter] for letter in right)


def cat(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """One axis after another; the others go together."""
    tensors = [t for t in args["tensors"] if state.shape(t) != (0,)]
    dim = int(args["dim"] or 0) % len(state.shape(tensors[0]))
    out: list[Label | None] = []
    for d in range(len(state.shape(tensors[0]))):
        labels = [state.of(t)[d] for t in tensors]
        if d != dim:
            label = labels[0]
            for other in labels[1:]:
                label = state.coupling.couple(
                    label, other, f"is beside a tensor of fixed size (cat in {state.where(node)})"
                )
            out.append(label)
        elif all(label is None for label in labels):
            out.append(None)
        else:
            parts = []
            for label, tensor in zip(labels, tensors, strict=True):
                if label is None:
                    label = state.coupling.fresh(state.shape(tensor)[d])
                    state.coupling.pin(label, "is a part of fixed size")
                parts.append(label)
            out.append(np.concatenate(parts))
    return tuple(out)


def split(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Parts of an axis."""
    x = state.of(args["self"])
    dim = int(args["dim"] or 0) % len(x)
    out, start = [], 0
    for shape in state.captured.shapes[node]:
        label = x[dim]
        part = None if label is None else label[start : start + shape[dim]]
        out.append((*x[:dim], part, *x[dim + 1 :]))
        start += shape[dim]
    return out


def taken(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """A stretch of an axis; with a step, the axis keeps its size."""
    x = state.of(args["self"])
    dim = int(args["dim"] or 0) % len(x)
    label = x[dim]
    if label is None:
        return x
    start, end, step = args["start"], args["end"], args.get("step", 1)
    if step != 1 or any(isinstance(v, fx.Node) for v in (start, end)):
        state.coupling.pin(label, f"is cut with a step in {state.where(node)}")
        return (*x[:dim], None, *x[dim + 1 :])
    return (*x[:dim], label[slice(start, end)], *x[dim + 1 :])


def unbind(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """The entries of an axis are told apart: it keeps its size."""
    x = state.of(args["self"])
    dim = int(args["dim"] or 0) % len(x)
    state.coupling.pin(x[dim], f"is taken apart in {state.where(node)}")
    rest = (*x[:dim], *x[dim + 1 :])
    shape = state.captured.shapes[node]
    return [rest for _ in shape] if isinstance(shape, list) else rest


def item(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """One of several values."""
    value = state.axes.get(node.args[0])  # type: ignore[arg-type]
    at: Any = node.args[1]
    return value[at] if isinstance(value, list) else state.fixed(node)


def permute(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Axes in another order."""
    x = state.of(args["self"])
    return tuple(x[int(d)] for d in args["dims"])


def transpose(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Two axes change places."""
    x = list(state.of(args["self"]))
    if len(x) < 2:
        return tuple(x)
    a, b = int(args.get("dim0", -1)), int(args.get("dim1", -2))
    x[a], x[b] = x[b], x[a]
    return tuple(x)


def reshape(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Axes are split and joined."""
    source = args.get("self", args.get("input"))
    return viewed(state, source, node)


def expand(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """A size of 1 becomes a fixed size; the others pass."""
    x, before, after = state.of(args["self"]), state.shape(args["self"]), state.captured.shapes[node]
    new = len(after) - len(before)
    return (*(None,) * new, *(x[d] if before[d] == after[d + new] else None for d in range(len(before))))


def repeat(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """The axis again and again."""
    x, times = state.of(args["self"]), list(args["repeats"])
    x = (*(None,) * (len(times) - len(x)), *x)
    if any(isinstance(n, fx.Node) and label is not None for label, n in zip(x, times, strict=True)):
        state.pin(x, "is repeated as often as the batch is large")
        return state.fixed(node)
    return tuple(None if label is None else np.tile(label, n) for label, n in zip(x, times, strict=True))


def repeat_interleave(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Every entry several times in a row."""
    x, n, dim = state.of(args["self"]), args.get("repeats"), args.get("dim")
    if not isinstance(n, int) or dim is None:
        state.pin(x, f"is repeated in {state.where(node)}")
        return state.fixed(node)
    dim = int(dim) % len(x)
    label = x[dim]
    return (*x[:dim], None if label is None else np.repeat(label, n), *x[dim + 1 :])


def pixel_shuffle(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """r^2 channels become one: they go together."""
    x = state.of(args["self"])
    squared = int(args["upscale_factor"]) ** 2
    label = x[1]
    out = None if label is None else state.coupling.blocks(label, len(label) // squared)
    return (x[0], out, None, None)


def nothing(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """Numbers and new tensors: nothing to remove."""
    return state.fixed(node)


def same(state: Walk, node: fx.Node, args: Mapping[str, Any]) -> Value:
    """A new tensor of another's shape."""
    return state.of(args["self"])


ELEMENTWISE = [
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "maximum",
    "minimum",
    "fmod",
    "remainder",
    "floor_divide",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_not",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_not",
    "bitwise_xor",
    "where",
    "masked_fill",
    "rsub",
    "lerp",
    "addcmul",
    "addcdiv",
    "relu",
    "relu6",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "sigmoid",
    "tanh",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "softplus",
    "softsign",
    "logsigmoid",
    "log_sigmoid",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "abs",
    "neg",
    "sign",
    "sin",
    "cos",
    "square",
    "erf",
    "floor",
    "ceil",
    "round",
    "clamp",
    "clamp_min",
    "clamp_max",
    "isinf",
    "isnan",
    "isfinite",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "clone",
    "contiguous",
    "alias",
    "detach",
    "detach_copy",
    "to",
    "_to_copy",
    "type_as",
    "float",
    "half",
    "lift_fresh_copy",
    "lift_fresh",
    "threshold",
]

SHAPE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "std", "var", "prod", "all", "any", "norm", "argmax", "argmin",
                     "max", "min", "logsumexp", "std_mean", "var_mean", "linalg_vector_norm"), reduction),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "cumsum", "glu"), along),
    **dict.fromkeys(
        [f"{k}{d}d" for k in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for d in (1, 2, 3)],
        spatial,
    ),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
         "_upsample_nearest_exact2d"),
        upsample,
    ),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), pad),
    **dict.fromkeys(("matmul", "bmm", "mm"), matmul),
    "einsum": einsum,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), split),
    "slice": taken,
    **dict.fromkeys(("unbind", "select"), unbind),
    "getitem": item,
    "permute": permute,
    **dict.fromkeys(("transpose", "t", "swapaxes", "mT"), transpose),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("expand",), expand),
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("sym_size", "zeros", "ones", "full", "arange", "empty", "scalar_tensor"), nothing),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like"), same),
}  # fmt: skip
