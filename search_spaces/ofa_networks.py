"""The families `ofa_mobilenet_v3` and `ofa_proxyless`: the published layouts, and smaller ones of the same shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from search_spaces.ofa_mobile import OfaLayout, OfaMobile, OfaStage

KERNELS = (3, 5, 7)
EXPANDS = (3, 4, 6)
DEPTHS = (2, 3, 4)

_V3_IMAGENET = OfaLayout(
    stem=16,
    first=16,
    stages=(
        OfaStage(24, DEPTHS, 2, "relu"),
        OfaStage(40, DEPTHS, 2, "relu", se=True),
        OfaStage(80, DEPTHS, 2, "hswish"),
        OfaStage(112, DEPTHS, 1, "hswish", se=True),
        OfaStage(160, DEPTHS, 2, "hswish", se=True),
    ),
    head=960,
    mix=1280,
    act="hswish",
    first_act="relu",
    first_shortcut=True,
    eps=1e-5,
)
_PROXYLESS_IMAGENET = OfaLayout(
    stem=32,
    first=16,
    stages=(
        OfaStage(24, DEPTHS, 2, "relu6"),
        OfaStage(40, DEPTHS, 2, "relu6"),
        OfaStage(80, DEPTHS, 2, "relu6"),
        OfaStage(96, DEPTHS, 1, "relu6"),
        OfaStage(192, DEPTHS, 2, "relu6"),
        OfaStage(320, (1,), 1, "relu6"),
    ),
    head=1280,
    mix=None,
    act="relu6",
    first_act="relu6",
    first_shortcut=False,
    eps=1e-3,
)


def _with_strides(layout: OfaLayout, strides: Sequence[int]) -> OfaLayout:
    pairs = zip(layout.stages, strides, strict=True)
    return replace(layout, stem_stride=1, stages=tuple(replace(stage, stride=stride) for stage, stride in pairs))


MOBILENET_V3_LAYOUTS: Mapping[str, tuple[OfaLayout, int]] = {
    "imagenet": (_V3_IMAGENET, 224),
    "small": (_with_strides(_V3_IMAGENET, (1, 2, 2, 1, 1)), 32),
    "tiny": (
        replace(
            _V3_IMAGENET,
            stem=8,
            first=8,
            stages=(
                OfaStage(16, (1, 2), 1, "relu"),
                OfaStage(24, (1, 2), 2, "relu", se=True),
                OfaStage(40, (1, 2), 2, "hswish", se=True),
            ),
            head=96,
            mix=128,
            stem_stride=1,
        ),
        16,
    ),
}
"""Preset -> layout and side of the input: as published, the same for 32 x 32 images, and three short stages."""

PROXYLESS_LAYOUTS: Mapping[str, tuple[OfaLayout, int]] = {
    "imagenet": (_PROXYLESS_IMAGENET, 224),
    "small": (_with_strides(_PROXYLESS_IMAGENET, (1, 2, 2, 1, 1, 1)), 32),
    "tiny": (
        replace(
            _PROXYLESS_IMAGENET,
            stem=8,
            first=8,
            stages=(
                OfaStage(16, (1, 2), 1, "relu6"),
                OfaStage(24, (1, 2), 2, "relu6"),
                OfaStage(40, (1,), 2, "relu6"),
            ),
            head=96,
            stem_stride=1,
        ),
        16,
    ),
}


def _preset(presets: Mapping[str, tuple[OfaLayout, int]], name: str) -> tuple[OfaLayout, int]:
    if name not in presets:
        raise ValueError(f"preset must be one of {list(presets)}, but got {name!r}.")
    return presets[name]


class OfaMobilenetV3(OfaMobile):
    """Once-for-All MobileNetV3 (`ofa_mbv3_d234_e346_k357_w1.0` and `_w1.2`); genes as in `OfaMobile`.

    | preset imagenet | value |
    |---|---|
    | widths at 1.0 | stem 16, first 16, stages 24 40 80 112 160, head 960, mix 1280 |
    | strides of the stages, of 4 blocks each | 2 2 2 1 2 |
    | genes | 5 depths of 2, 3, 4; 20 kernels of 3, 5, 7; 20 expansions of 3, 4, 6 |
    | distinct networks | 7371^5 = 2.2e19 |
    | smallest and largest at 1.0, 224 | 3,410,792 parameters, 121.3 M MACs; 7,664,760 and 566.3 M |

    Args:
        width_mult: 1.0 and 1.2 are published.
        n_classes: outputs.
        resolutions: sides of the input; several make a gene. By default the preset's.
        preset: `imagenet` (published), `small` (the same network on 32 x 32), `tiny` (three short stages, 16 x 16).

    Source: Cai et al. 2020, "Once-for-All: Train One Network and Specialize it for Efficient Deployment".
    """

    name = "ofa_mobilenet_v3"

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        n_classes: int = 1000,
        resolutions: Sequence[int] | None = None,
        preset: str = "imagenet",
    ) -> None:
        layout, side = _preset(MOBILENET_V3_LAYOUTS, preset)
        super().__init__(
            layout,
            width_mult=width_mult,
            n_classes=n_classes,
            resolutions=(side,) if resolutions is None else resolutions,
            kernels=KERNELS,
            expands=EXPANDS,
        )


class OfaProxyless(OfaMobile):
    """Once-for-All ProxylessNAS (`ofa_proxyless_d234_e346_k357_w1.3`); genes as in `OfaMobile`.

    | preset imagenet | value |
    |---|---|
    | widths at 1.0 | stem 32, first 16, stages 24 40 80 96 192 320, head 1280 |
    | strides of the stages | 2 2 2 1 2 1; four blocks each, one in the last |
    | genes | 5 depths of 2, 3, 4; 21 kernels of 3, 5, 7; 21 expansions of 3, 4, 6 |
    | distinct networks | 9 * 7371^5; 7371^5 with `elastic_last=False` |
    | smallest and largest at 1.3, 224, last block at 7 and 6 | 4,282,040 parameters, 293.0 M MACs; 7,942,056, 1.005 G |

    ReLU6 everywhere, no squeeze-excitation, BatchNorm eps 1e-3, no shortcut around the first block.

    Args:
        width_mult: 1.3 is published.
        n_classes, resolutions, preset: as for `OfaMobilenetV3`.
        elastic_last: False fixes the last block to kernel 7 and expansion 6, as DyNAS-T's encoding of 45 genes does.

    Source: Cai et al. 2020; Cai et al. 2019, "ProxylessNAS".
    """

    name = "ofa_proxyless"

    def __init__(
        self,
        *,
        width_mult: float = 1.3,
        n_classes: int = 1000,
        resolutions: Sequence[int] | None = None,
        preset: str = "imagenet",
        elastic_last: bool = True,
    ) -> None:
        layout, side = _preset(PROXYLESS_LAYOUTS, preset)
        super().__init__(
            layout,
            width_mult=width_mult,
            n_classes=n_classes,
            resolutions=(side,) if resolutions is None else resolutions,
            kernels=KERNELS,
            expands=EXPANDS,
            elastic_last=elastic_last,
        )
