"""Once-for-All families: outputs against an independent restatement, published sizes, structure of the spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search_spaces.architecture import Architecture
from search_spaces.ofa_networks import OfaMobilenetV3, OfaProxyless
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.populations import unique_rows
from search_spaces.published import to_published
from search_spaces.supernet import Supernet
from tests.search_spaces import static_ofa
from tests.search_spaces.nets import small_mobilenet, supernet

# Depths, kernels and expansions of measured subnets of ofa_mbv3_d234_e346_k357_w1.0 at 224, with the parameters and
# MACs that were published with them; blocks beyond a stage's depth are written as "-". Source: IntelLabs/DyNAS-T,
# notebooks/data (Apache-2.0).
PUBLISHED_ROWS: list[tuple[str, str, str, int, int]] = [
    ("32244", "737- 35-- 55-- 5373 5357", "336- 34-- 43-- 4446 4464", 5_637_336, 278_345_280),
    ("34444", "535- 7755 5755 5735 3573", "664- 6646 3464 4466 6444", 5_948_712, 384_265_344),
    ("42323", "7355 73-- 755- 75-- 553-", "4434 63-- 664- 64-- 666-", 5_388_776, 273_917_792),
    ("34343", "337- 5355 375- 7555 733-", "443- 6646 443- 6363 644-", 5_188_088, 308_186_976),
    ("32342", "555- 53-- 355- 5575 53--", "444- 36-- 333- 6363 44--", 4_436_312, 250_381_856),
    ("34444", "535- 3777 5575 5735 3575", "464- 6644 6466 3436 6644", 6_067_000, 367_847_584),
    ("43444", "3375 757- 7735 5553 5533", "4443 334- 6644 6434 6444", 5_503_848, 327_422_368),
    ("33244", "337- 757- 77-- 3555 5355", "344- 633- 64-- 3444 6444", 5_298_696, 280_084_896),
    ("34333", "355- 7575 373- 555- 733-", "446- 3344 663- 664- 644-", 5_079_240, 302_340_384),
    ("24323", "35-- 7575 353- 35-- 333-", "34-- 4643 664- 43-- 444-", 4_312_624, 220_368_576),
    ("33332", "535- 353- 357- 577- 33--", "434- 343- 643- 433- 44--", 3_961_568, 214_803_392),
    ("34342", "353- 7537 333- 5555 37--", "443- 3334 644- 6646 64--", 5_004_608, 293_465_696),
    ("43243", "3557 737- 55-- 3773 353-", "6643 633- 34-- 6644 666-", 5_905_336, 338_785_792),
    ("43344", "3535 573- 555- 5553 7773", "6466 664- 664- 4444 6666", 6_629_360, 377_082_656),
    ("44444", "7537 7337 3573 5573 5575", "6644 6663 4463 4644 6666", 6_883_824, 418_246_304),
    ("44444", "7537 7337 5573 5555 5735", "6646 6643 6463 4644 6666", 6_858_744, 430_449_376),
    ("34442", "353- 5753 7573 5375 77--", "363- 6343 3344 4643 44--", 4_543_496, 283_418_016),
    ("44444", "7557 7777 5753 5755 7773", "6646 6663 6664 6644 6666", 7_103_880, 476_320_032),
    ("34344", "757- 7737 577- 7555 7575", "466- 6666 664- 6633 6666", 6_893_272, 418_037_664),
    ("23334", "33-- 555- 553- 555- 5537", "33-- 333- 344- 643- 6633", 5_238_872, 218_601_152),
    ("23334", "33-- 555- 355- 557- 5575", "33-- 434- 644- 443- 6433", 4_819_072, 220_835_424),
    ("23334", "57-- 555- 733- 355- 5533", "33-- 433- 344- 443- 6444", 5_037_888, 223_491_648),
    ("43344", "7557 375- 553- 7775 5775", "3336 444- 664- 6444 6663", 6_208_168, 356_462_784),
    ("34343", "557- 3337 577- 3555 753-", "333- 6646 434- 4634 466-", 5_693_160, 307_006_272),
    ("22222", "33-- 33-- 53-- 35-- 53--", "33-- 33-- 33-- 33-- 33--", 3_423_464, 122_972_112),
    ("44444", "7777 7777 7757 5777 7577", "4666 4664 6464 6664 6666", 7_318_520, 506_480_288),
]


def mobile_config(arch: Architecture, n_stages: int, *, last: int = 4) -> tuple[list[int], list[int], list[int]]:
    """Returns ks, e, d as published: one entry per possible block, 7 and 6 where it does not exist."""
    ks, e, d = [], [], []
    for s in range(1, n_stages + 1):
        longest = last if s == n_stages else 4
        d.append(arch.integer(f"stage{s}.depth") if f"stage{s}.depth" in arch else longest)
        for b in range(1, longest + 1):
            exists = b <= d[-1]
            ks.append(arch.integer(f"stage{s}.block{b}.kernel") if exists else 7)
            e.append(arch.integer(f"stage{s}.block{b}.expand") if exists else 6)
    return ks, e, d


def resnet_config(arch: Architecture) -> tuple[list[int], list[float], list[int]]:
    d = [arch.integer("stem.depth")] + [arch.integer(f"stage{s}.depth") for s in range(1, 5)]
    e = [
        float(arch.get(f"stage{s}.block{b}.expand", 0.35))
        for s, n in ((1, 4), (2, 4), (3, 6), (4, 4))
        for b in range(1, n + 1)
    ]
    names = ["stem.mid", "stem.width", *(f"stage{s}.width" for s in range(1, 5))]
    return d, e, [(0.65, 0.8, 1.0).index(float(arch[n])) for n in names]


def some(net: Supernet, n: int) -> list[Architecture]:
    rows = net.space.sample(n, np.random.default_rng(0))
    return [net.space.smallest(), net.space.largest(), *net.space.architectures(rows)]


def assert_same(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """Equal to 1e-5 of the size of the outputs."""
    assert reference.abs().max() > 1e-3
    torch.testing.assert_close(ours / reference.abs().max(), reference / reference.abs().max(), rtol=0, atol=1e-5)


V3_WIDTHS = {1.0: (24, 40, 80, 112, 160), 1.2: (32, 48, 96, 136, 192)}


@pytest.mark.parametrize("width_mult", [1.0, 1.2])
@torch.no_grad()
def test_mobilenet_v3_equals_the_restatement(width_mult: float) -> None:
    net = supernet(OfaMobilenetV3(width_mult=width_mult, n_classes=11, resolutions=(64,)))
    state = to_published(net)
    (x,) = net.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0))
    for arch in some(net, 3):
        expected = static_ofa.mobilenet_v3(state, x, *mobile_config(arch, 5), widths=V3_WIDTHS[width_mult])
        assert_same(net.extract(arch)(x), expected)


@torch.no_grad()
def test_proxyless_equals_the_restatement() -> None:
    net = supernet(OfaProxyless(n_classes=11, resolutions=(64,)))
    state = to_published(net)
    (x,) = net.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0))
    for arch in some(net, 3):
        ks, e, d = mobile_config(arch, 6, last=1)
        expected = static_ofa.proxyless(state, x, ks, e, d, widths=(32, 56, 104, 128, 248, 416))
        assert_same(net.extract(arch)(x), expected)


@torch.no_grad()
def test_resnet50_equals_the_restatement() -> None:
    net = supernet(OfaResNet50(n_classes=11, resolutions=(65,)))  # odd sides: ceil mode and padding matter
    state = to_published(net)
    (x,) = net.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0))
    for arch in some(net, 3):
        assert_same(net.extract(arch)(x), static_ofa.resnet50(state, x, *resnet_config(arch)))


@torch.no_grad()
def test_the_kernel_transform_matters() -> None:
    """With identity matrices the transform is a plain crop; the tests above use random ones, so they can tell."""
    net = Supernet(OfaMobilenetV3(preset="tiny", n_classes=3))
    name = "stage1.block1.depthwise.conv"
    arch = net.space.architecture({**net.space.largest().to_dict(), "stage1.block1.kernel": 3})
    full = net.tensors()[f"{name}.weight"]
    assert torch.equal(net.weights(arch)[f"{name}.weight"], full[..., 2:5, 2:5])
    net.tensors()[f"{name}.matrix_7to5"].mul_(2)
    assert torch.equal(net.weights(arch)[f"{name}.weight"], 2 * full[..., 2:5, 2:5])
    assert torch.equal(net.weights(net.space.largest())[f"{name}.weight"], full)


def test_matrices_learn_only_from_kernels_that_use_them() -> None:
    net = Supernet(OfaMobilenetV3(preset="tiny", n_classes=3))
    largest = net.space.largest()
    arch = net.space.architecture({**largest.to_dict(), "stage1.block1.kernel": 5})
    net(net.family.example_inputs(batch=4), arch).square().sum().backward()
    tensors = net.tensors()
    assert tensors["stage1.block1.depthwise.conv.matrix_7to5"].grad is not None
    assert tensors["stage1.block1.depthwise.conv.matrix_5to3"].grad is None
    assert tensors["stage1.block2.depthwise.conv.matrix_7to5"].grad is None
    assert not any("matrix" in name for name, _ in net.extract(arch).named_parameters())


# ---- published sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "smallest", "largest", "size"),
    [
        # parameters and MACs at 224; the largest MobileNetV3 is published as 566.3 M: its formula gives 566.17 M
        (OfaMobilenetV3(), (3_410_792, 121_278_672), (7_664_760, 566_170_656), 7371**5),
        (OfaMobilenetV3(width_mult=1.2), (4_602_456, 193_078_200), (10_701_632, 843_101_040), 7371**5),
        (OfaProxyless(elastic_last=False), (4_282_040, 292_977_624), (7_942_056, 1_004_908_032), 7371**5),
        (OfaProxyless(), (3_718_832, 265_526_256), (7_942_056, 1_004_908_032), 9 * 7371**5),
        (OfaResNet50(), (6_539_280, 962_192_128), (48_105_992, 7_491_643_904), None),
    ],
)
def test_published_extremes(family, smallest: tuple[int, int], largest: tuple[int, int], size: int | None) -> None:
    net = Supernet(family, meta=True)
    for arch, (parameters, macs) in ((net.space.smallest(), smallest), (net.space.largest(), largest)):
        costs = net.layer_costs(arch).metrics()
        assert (costs["parameters"], costs["macs"]) == (parameters, macs)
    if size is not None:
        assert net.space.size() == size


def test_size_of_resnet50() -> None:
    """Stem 2 x 2 x 3; a stage of base depth n has 3^n + 3^(n+1) + 3^(n+2) expansions and 3 widths."""

    def stage(base: int) -> int:
        return 3 * sum(3 ** (base + extra) for extra in range(3))

    assert OfaResNet50().space.size() == 2 * 2 * 3 * stage(2) ** 3 * stage(4)


@pytest.mark.parametrize(("depths", "kernels", "expands", "parameters", "macs"), PUBLISHED_ROWS)
def test_mobilenet_v3_costs_equal_published_rows(
    depths: str, kernels: str, expands: str, parameters: int, macs: int
) -> None:
    net = Supernet(OfaMobilenetV3(), meta=True)
    choices = {f"stage{s}.depth": int(d) for s, d in enumerate(depths, start=1)}
    for part, text in (("kernel", kernels), ("expand", expands)):
        for i, value in enumerate(text.replace(" ", "")):
            if value != "-":
                choices[f"stage{i // 4 + 1}.block{i % 4 + 1}.{part}"] = int(value)
    costs = net.layer_costs(choices).metrics()
    assert (costs["parameters"], costs["macs"]) == (parameters, macs)


def test_there_are_enough_published_rows() -> None:
    assert len(set(PUBLISHED_ROWS)) >= 20


# ---- structure ------------------------------------------------------------------------------------


def test_gene_order_is_as_documented() -> None:
    names = [gene.name for gene in OfaMobilenetV3(resolutions=(128, 224)).space.genes]
    assert names[:7] == ["resolution", *(f"stage{s}.depth" for s in range(1, 6)), "stage1.block1.kernel"]
    assert names[26] == "stage1.block1.expand"
    assert len(names) == 46
    assert len(OfaProxyless().space.genes) == 47
    assert OfaProxyless(elastic_last=False).space.largest()["stage6.block1.kernel"] == 7
    names = [gene.name for gene in OfaResNet50().space.genes]
    assert (names[0], names[5], names[23], names[25]) == (
        "stem.depth",
        "stage1.block1.expand",
        "stem.mid",
        "stage1.width",
    )
    assert len(names) == 29


@pytest.mark.parametrize("family", [OfaMobilenetV3, OfaProxyless, OfaResNet50])
def test_tiny_presets_have_no_two_rows_for_one_network(family) -> None:
    net = Supernet(family(preset="tiny", n_classes=3), meta=True)
    rows = unique_rows(net.space.sample(100, np.random.default_rng(0)))
    layers = [
        tuple((x.name, int(np.squeeze(x.parameters())), x.kernel) for x in net.layer_costs(arch).layers)
        for arch in net.space.architectures(rows)
    ]
    assert len({str(x) for x in layers}) == len(rows)


def test_aliases_of_resnet50() -> None:
    space = OfaResNet50().space
    arch = space.largest().to_dict()
    same = space.architecture({**arch, "stem.depth": 1, "stem.mid": 0.8})
    assert same == space.architecture({**arch, "stem.depth": 0, "stem.mid": 0.65})


def test_images_are_resized_to_the_resolution() -> None:
    net = supernet(OfaMobilenetV3(preset="tiny", n_classes=3, resolutions=(8, 16)))
    arch = net.space.architecture({**net.space.largest().to_dict(), "resolution": 8})
    x = torch.randn(2, 3, 16, 16)
    small = net.family.prepare(x, arch)
    assert small.shape == (2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x, arch), net.extract(arch)(small))
    assert net.family.prepare(small, arch) is small


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OfaMobilenetV3(preset="huge"),
            r"preset must be one of \['imagenet', 'small', 'tiny'\], but got 'huge'",
        ),
        (lambda: OfaResNet50(preset="huge"), r"preset must be one of \['imagenet', 'small', 'tiny'\], but got 'huge'"),
        (
            lambda: small_mobilenet(resolutions=(5, 7)),
            r"the largest of resolutions must be input_shape's 9, but got \[5, 7\]",
        ),
        (lambda: OfaMobilenetV3(n_classes=0), "n_classes must be at least 1, but got 0"),
        (lambda: OfaResNet50(n_classes=0), "n_classes must be at least 1, but got 0"),
        (lambda: OfaMobilenetV3(width_mult=0), "width_mult must be positive, but got 0"),
        (lambda: OfaMobilenetV3(resolutions=()), r"resolutions must list at least one positive side, but got \[\]"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
