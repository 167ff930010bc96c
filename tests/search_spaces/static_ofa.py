"""Once-for-All's networks restated as plain functions of a published state dict: a second opinion on the families.

Nothing here uses search_spaces. Configurations are the published ones: `ks`, `e` per block and `d` per stage for the
mobile networks; `d` (5), `e` (18) and `w` (6) for ResNet50.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def round8(v: float) -> int:
    new = max(8, int(v + 4) // 8 * 8)
    return new + 8 if new < 0.9 * v else new


def hswish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6


ACTS = {"relu": F.relu, "relu6": F.relu6, "h_swish": hswish, None: lambda x: x}


def bn(state: State, key: str, x: Tensor, eps: float) -> Tensor:
    c = x.shape[1]
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (state[f"{key}.{n}"][:c].view(1, c, 1, 1) for n in names)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def pointwise(state: State, key: str, x: Tensor, out: int, *, act: str | None, eps: float) -> Tensor:
    """`key` names the layer whose conv and bn are doubled."""
    weight = state[f"{key}.conv.conv.weight"][:out, : x.shape[1]]
    return ACTS[act](bn(state, f"{key}.bn.bn", F.conv2d(x, weight), eps))


def depthwise_filter(state: State, key: str, channels: int, kernel: int) -> Tensor:
    """7 -> 5 -> 3: centre crop, flattened, times the transposed matrix."""
    f = state[f"{key}.conv.conv.weight"][:channels, 0]  # (channels, 7, 7)
    if kernel < 7:
        f = (f[:, 1:6, 1:6].reshape(channels, 25) @ state[f"{key}.conv.7to5_matrix"].T).view(channels, 5, 5)
    if kernel < 5:
        f = (f[:, 1:4, 1:4].reshape(channels, 9) @ state[f"{key}.conv.5to3_matrix"].T).view(channels, 3, 3)
    return f[:, None]


def squeeze_excite(state: State, key: str, x: Tensor) -> Tensor:
    c = x.shape[1]
    mid = round8(c // 4)
    y = x.mean(3, keepdim=True).mean(2, keepdim=True)
    y = F.conv2d(y, state[f"{key}.fc.reduce.weight"][:mid, :c], state[f"{key}.fc.reduce.bias"][:mid])
    y = F.conv2d(F.relu(y), state[f"{key}.fc.expand.weight"][:c, :mid], state[f"{key}.fc.expand.bias"][:c])
    return x * F.relu6(y + 3) / 6


def mb_block(
    state: State,
    n: int,
    x: Tensor,
    out: int,
    *,
    kernel: int,
    expand: float,
    stride: int,
    act: str,
    se: bool,
    eps: float,
) -> Tensor:
    key = f"blocks.{n}.conv"
    mid = round8(round(x.shape[1] * expand))
    y = pointwise(state, f"{key}.inverted_bottleneck", x, mid, act=act, eps=eps)
    weight = depthwise_filter(state, f"{key}.depth_conv", mid, kernel)
    y = F.conv2d(y, weight, stride=stride, padding=kernel // 2, groups=mid)
    y = ACTS[act](bn(state, f"{key}.depth_conv.bn.bn", y, eps))
    if se:
        y = squeeze_excite(state, f"{key}.depth_conv.se", y)
    y = pointwise(state, f"{key}.point_linear", y, out, act=None, eps=eps)
    return x + y if stride == 1 and x.shape[1] == out else y


def mobile_body(
    state: State,
    x: Tensor,
    ks: Sequence[int],
    e: Sequence[float],
    d: Sequence[int],
    *,
    widths: Sequence[int],
    strides: Sequence[int],
    depths: Sequence[int],
    acts: Sequence[str],
    se: Sequence[bool],
    stem_act: str,
    first_act: str,
    first_shortcut: bool,
    stem_stride: int,
    eps: float,
) -> Tensor:
    """Stem, block 0 and the stages; `depths` are the largest ones, so that the blocks of stage s start at their sum."""
    x = F.conv2d(x, state["first_conv.conv.weight"], stride=stem_stride, padding=1)
    x = ACTS[stem_act](bn(state, "first_conv.bn", x, eps))
    y = F.conv2d(x, state["blocks.0.conv.depth_conv.conv.weight"], padding=1, groups=x.shape[1])
    y = ACTS[first_act](bn(state, "blocks.0.conv.depth_conv.bn", y, eps))
    y = bn(state, "blocks.0.conv.point_linear.bn", F.conv2d(y, state["blocks.0.conv.point_linear.conv.weight"]), eps)
    x = x + y if first_shortcut else y
    start = 0
    for s, depth in enumerate(d):
        for i in range(start, start + depth):
            stride = strides[s] if i == start else 1
            x = mb_block(
                state,
                i + 1,
                x,
                widths[s],
                kernel=ks[i],
                expand=e[i],
                stride=stride,
                act=acts[s],
                se=se[s],
                eps=eps,
            )
        start += depths[s]
    return x


def mobilenet_v3(
    state: State,
    x: Tensor,
    ks: Sequence[int],
    e: Sequence[float],
    d: Sequence[int],
    *,
    widths: Sequence[int],
    strides: Sequence[int] = (2, 2, 2, 1, 2),
    stem_stride: int = 2,
) -> Tensor:
    x = mobile_body(
        state,
        x,
        ks,
        e,
        d,
        widths=widths,
        strides=strides,
        depths=(4,) * 5,
        acts=("relu", "relu", "h_swish", "h_swish", "h_swish"),
        se=(False, True, False, True, True),
        stem_act="h_swish",
        first_act="relu",
        first_shortcut=True,
        stem_stride=stem_stride,
        eps=1e-5,
    )
    x = hswish(bn(state, "final_expand_layer.bn", F.conv2d(x, state["final_expand_layer.conv.weight"]), 1e-5))
    x = x.mean(3, keepdim=True).mean(2, keepdim=True)
    x = hswish(F.conv2d(x, state["feature_mix_layer.conv.weight"]))
    return F.linear(x.flatten(1), state["classifier.linear.weight"], state["classifier.linear.bias"])


def proxyless(
    state: State,
    x: Tensor,
    ks: Sequence[int],
    e: Sequence[float],
    d: Sequence[int],
    *,
    widths: Sequence[int],
    strides: Sequence[int] = (2, 2, 2, 1, 2, 1),
    stem_stride: int = 2,
) -> Tensor:
    x = mobile_body(
        state,
        x,
        ks,
        e,
        d,
        widths=widths,
        strides=strides,
        depths=(4, 4, 4, 4, 4, 1),
        acts=("relu6",) * 6,
        se=(False,) * 6,
        stem_act="relu6",
        first_act="relu6",
        first_shortcut=False,
        stem_stride=stem_stride,
        eps=1e-3,
    )
    x = F.relu6(bn(state, "feature_mix_layer.bn", F.conv2d(x, state["feature_mix_layer.conv.weight"]), 1e-3))
    return F.linear(x.mean(3).mean(2), state["classifier.linear.weight"], state["classifier.linear.bias"])


def resnet50(
    state: State, x: Tensor, d: Sequence[int], e: Sequence[float], w: Sequence[int], *, small: bool = False
) -> Tensor:
    """`d[0] == 2` keeps the stem's residual block; `w` are indices into the width lists."""
    eps = 1e-5
    stem_mid, stem_out = (24, 24, 32)[w[0]], (40, 48, 64)[w[1]]
    stages = ((168, 208, 256), (336, 408, 512), (664, 816, 1024), (1328, 1640, 2048))

    def conv(key: str, x: Tensor, out: int, *, stride: int = 1, relu: bool = True) -> Tensor:
        weight = state[f"{key}.conv.conv.weight"][:out, : x.shape[1]]
        y = bn(state, f"{key}.bn.bn", F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2), eps)
        return F.relu(y) if relu else y

    x = conv("input_stem.0", x, stem_mid, stride=1 if small else 2)
    if d[0] == 2:
        weight = state["input_stem.1.conv.conv.conv.weight"][:stem_mid, :stem_mid]
        x = x + F.relu(bn(state, "input_stem.1.conv.bn.bn", F.conv2d(x, weight, padding=1), eps))
    x = conv("input_stem.2", x, stem_out)
    if not small:
        x = F.max_pool2d(x, 3, 2, 1)
    start = 0
    for s, (base, longest) in enumerate(((2, 4), (2, 4), (4, 6), (2, 4))):
        out = stages[s][w[2 + s]]
        for i in range(start, start + base + d[1 + s]):
            key, stride = f"blocks.{i}", 2 if i == start and s > 0 else 1
            mid = round8(round(out * e[i]))
            y = conv(f"{key}.conv1", x, mid)
            y = conv(f"{key}.conv2", y, mid, stride=stride)
            y = conv(f"{key}.conv3", y, out, relu=False)
            if i == start:
                x = conv(f"{key}.downsample", F.avg_pool2d(x, stride, stride, ceil_mode=True), out, relu=False)
            x = F.relu(x + y)
        start += longest
    x = x.mean(3).mean(2)
    weight = state["classifier.linear.linear.weight"][:, : x.shape[1]]
    return F.linear(x, weight, state["classifier.linear.linear.bias"])
