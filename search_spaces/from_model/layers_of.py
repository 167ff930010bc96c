"""Layers: which nodes of a captured graph are torch.nn layers, and the same layer at other sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from search_spaces.from_model.capture import Captured
from search_spaces.from_model.walk import Walk, arguments, operator_name

if TYPE_CHECKING:
    from search_spaces.from_model.rebuild import Selection

LAYERS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv1d": (nn.Conv1d,),
    "conv2d": (nn.Conv2d,),
    "conv3d": (nn.Conv3d,),
    "conv_transpose1d": (nn.ConvTranspose1d,),
    "conv_transpose2d": (nn.ConvTranspose2d,),
    "batch_norm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "layer_norm": (nn.LayerNorm,),
    "rms_norm": (nn.RMSNorm,),
    "group_norm": (nn.GroupNorm,),
    "embedding": (nn.Embedding,),
    "prelu": (nn.PReLU,),
    "lstm": (nn.LSTM,),
    "gru": (nn.GRU,),
}
PLAIN: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.ReLU: ("relu",),
    nn.ReLU6: ("relu6", "hardtanh"),
    nn.GELU: ("gelu",),
    nn.SiLU: ("silu",),
    nn.Hardswish: ("hardswish",),
    nn.Hardsigmoid: ("hardsigmoid",),
    nn.Sigmoid: ("sigmoid",),
    nn.Tanh: ("tanh",),
    nn.LeakyReLU: ("leaky_relu",),
    nn.Dropout: ("dropout",),
    nn.MaxPool2d: ("max_pool2d",),
    nn.AvgPool2d: ("avg_pool2d",),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d",),
    nn.Flatten: ("flatten",),
}
"""Layers without weights that are kept as layers: operator that they stand for."""


@dataclass(frozen=True)
class Layer:
    """A layer and what its tensors are: attribute -> captured tensor."""

    module: nn.Module
    tensors: Mapping[str, str]


def layer_of(captured: Captured, node: fx.Node) -> nn.Module | None:
    """Returns the user's torch.nn layer whose whole forward is this node, if there is one."""
    kinds = LAYERS.get(operator_name(node)) if node.op == "call_function" else None
    path = captured.paths[node]
    if kinds is None or not path:
        return None
    try:
        module = captured.module.get_submodule(path)
    except AttributeError:
        return None
    if not isinstance(module, kinds) or getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    if isinstance(module, nn.LSTM | nn.GRU):
        zeros = arguments(node)["hx"]
        zeros = zeros if isinstance(zeros, tuple | list) else [zeros]
        simple = all("zeros" in str(h.target) for h in zeros) and getattr(module, "proj_size", 0) == 0
        return module if simple else None
    if isinstance(module, _BatchNorm) and not module.track_running_stats:
        return None
    own = {id(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))}
    read = [captured.values[captured.tensors[n.name]] for n in node.all_input_nodes if n.name in captured.tensors]
    whole = getattr(module, "weight", None) is None or any(t is module.weight for t in read)
    return module if whole and all(id(t) in own for t in read if not _is_input(captured, node, t)) else None


def _is_input(captured: Captured, node: fx.Node, tensor: Tensor) -> bool:
    first = node.args[1] if operator_name(node) == "embedding" else node.args[0]
    return (
        isinstance(first, fx.Node)
        and first.name in captured.tensors
        and (captured.values[captured.tensors[first.name]] is tensor)
    )


def _named(captured: Captured, module: nn.Module) -> dict[str, str]:
    """Returns attribute -> captured tensor of a layer's own tensors."""
    names = {id(tensor): name for name, tensor in reversed(list(captured.values.items()))}
    used = set(captured.tensors.values())
    for name in used:
        names[id(captured.values[name])] = name
    own = {**module._parameters, **module._buffers}
    return {leaf: names[id(tensor)] for leaf, tensor in own.items() if tensor is not None}


def make_layer(state: Walk, node: fx.Node, selection: Selection) -> Layer:
    """Returns a new layer with the settings of the user's, at the sizes of a selection."""
    captured = state.captured
    old = layer_of(captured, node)
    assert old is not None
    args = arguments(node)
    tensors = _named(captured, old)

    def size(tensor: str, dim: int) -> int:
        label = state.parameters[tensors[tensor]][dim] if tensors[tensor] in state.parameters else None
        full = captured.values[tensors[tensor]].shape[dim]
        return full if label is None else selection.size(label)

    module = _make(
        old, size, args=args, groups=_groups(state, args, selection), kernel=selection.kernels.get(captured.paths[node])
    )
    dtype = next((t.dtype for t in old.parameters()), None)
    if dtype is not None:
        module.to(dtype)
    for new, before in zip(module.parameters(), old.parameters(), strict=True):
        new.requires_grad_(before.requires_grad)
    return Layer(module, tensors)


def _groups(state: Walk, args: Mapping[str, Any], selection: Selection) -> int:
    count = int(args.get("groups") or args.get("num_groups") or 1)
    if count == 1:
        return 1
    label, full = state.of(args["input"])[1], state.shape(args["input"])[1]
    return count if label is None else count * selection.size(label) // full


def _make(old: nn.Module, size: Any, *, args: Mapping[str, Any], groups: int, kernel: int | None) -> nn.Module:
    bias = getattr(old, "bias", None) is not None
    kind: Any
    made: nn.Module
    if isinstance(old, nn.Linear):
        return nn.Linear(size("weight", 1), size("weight", 0), bias=bias)
    if isinstance(old, _ConvTransposeNd):
        kind = type(old)
        made = kind(
            size("weight", 0),
            size("weight", 1) * groups,
            old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            output_padding=old.output_padding,
            groups=groups,
            bias=bias,
            dilation=old.dilation,
        )
        return made
    if isinstance(old, _ConvNd):
        sides, padding = old.kernel_size, old.padding
        if kernel is not None:
            assert not isinstance(padding, str)
            padding = tuple(p - d * (k - kernel) // 2 for p, d, k in zip(padding, old.dilation, sides, strict=True))
            sides = (kernel,) * len(sides)
        kind = type(old)
        made = kind(
            size("weight", 1) * groups,
            size("weight", 0),
            sides,
            stride=old.stride,
            padding=padding,
            dilation=old.dilation,
            groups=groups,
            bias=bias,
        )
        return made
    if isinstance(old, _BatchNorm):
        return type(old)(size("running_mean", 0), eps=old.eps, momentum=old.momentum, affine=old.affine)
    if isinstance(old, nn.LayerNorm):
        return nn.LayerNorm(old.normalized_shape, eps=old.eps, elementwise_affine=old.elementwise_affine, bias=bias)
    if isinstance(old, nn.RMSNorm):
        return nn.RMSNorm(old.normalized_shape, eps=old.eps, elementwise_affine=old.elementwise_affine)
    if isinstance(old, nn.GroupNorm):
        channels = size("weight", 0) if old.affine else old.num_channels * groups // old.num_groups
        return nn.GroupNorm(groups, channels, eps=old.eps, affine=old.affine)
    if isinstance(old, nn.Embedding):
        return nn.Embedding(old.num_embeddings, size("weight", 1), padding_idx=old.padding_idx)
    if isinstance(old, nn.PReLU):
        return nn.PReLU(size("weight", 0))
    assert isinstance(old, nn.LSTM | nn.GRU)
    first = size("weight_ih_l0", 1)
    return type(old)(
        first,
        size("weight_hh_l0", 1),
        old.num_layers,
        bias=old.bias,
        batch_first=old.batch_first,
        dropout=old.dropout,
        bidirectional=old.bidirectional,
    )
