"""Published checkpoints: every variant loads, everything else is one clear error and changes nothing."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from search_spaces.ofa_networks import OfaMobilenetV3, OfaProxyless
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.published import (
    CheckpointError,
    compare,
    from_published,
    load_published,
    load_weights,
    published_names,
    read_checkpoint,
    reduced,
    save_published,
    save_weights,
    to_published,
)
from search_spaces.supernet import Supernet
from tests.search_spaces.nets import equal_states, state, supernet

FAMILIES = {
    "mobilenet_v3": lambda: OfaMobilenetV3(preset="tiny", n_classes=3),
    "proxyless": lambda: OfaProxyless(preset="tiny", n_classes=3),
    "resnet50": lambda: OfaResNet50(preset="tiny", n_classes=3),
}


def fresh(family: str = "mobilenet_v3") -> Supernet:
    return Supernet(FAMILIES[family](), seed=5)


def halved(key: str) -> str:
    """The static variant: every doubled level once."""
    for level in ("conv", "bn", "linear"):
        key = key.replace(f".{level}.{level}.", f".{level}.")
    return key


VARIANTS = {
    "as published": lambda tensors: {"state_dict": tensors},
    "bare": lambda tensors: tensors,
    "model": lambda tensors: {"model": tensors, "epoch": 3, "best_acc": 0.5},
    "nested": lambda tensors: {"model": {"state_dict": tensors}},
    "data parallel": lambda tensors: {"state_dict": {f"module.{k}": t for k, t in tensors.items()}},
    "old block name": lambda tensors: {
        "state_dict": {
            k.replace(".conv.", ".mobile_inverted_conv.", 1) if k.startswith("blocks") else k: t
            for k, t in tensors.items()
        }
    },
    "single names": lambda tensors: {halved(k): t for k, t in tensors.items()},
    "no batch counters": lambda tensors: {k: t for k, t in tensors.items() if "num_batches" not in k},
    "fairseq": lambda tensors: {"args": argparse.Namespace(arch="x"), "model": tensors},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_variant_loads(family: str, variant: str, tmp_path: Path) -> None:
    if variant == "old block name" and family == "resnet50":
        pytest.skip("its blocks never had that name")
    net = supernet(FAMILIES[family]())
    torch.save(VARIANTS[variant](to_published(net)), tmp_path / "w.pth")
    other = fresh(family)
    checkpoint = load_published(other, tmp_path / "w.pth")
    assert checkpoint.format == "torch"
    for name, tensor in net.tensors().items():
        assert torch.equal(other.tensors()[name], tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_names_convert_both_ways_and_stay_distinct(family: str) -> None:
    net = Supernet(FAMILIES[family](), meta=True)
    names = published_names(net)
    assert set(names) == set(net.tensors())
    assert len({reduced(key) for key in names.values()}) == len(names)


@pytest.mark.parametrize(
    ("family", "ours", "published"),
    [
        (OfaMobilenetV3(), "stage2.block1.se.reduce.weight", "blocks.5.conv.depth_conv.se.fc.reduce.weight"),
        (OfaMobilenetV3(), "stage5.block4.depthwise.conv.matrix_5to3", "blocks.20.conv.depth_conv.conv.5to3_matrix"),
        (OfaMobilenetV3(), "head.bn.running_var", "final_expand_layer.bn.running_var"),
        (OfaMobilenetV3(), "mix.conv.weight", "feature_mix_layer.conv.weight"),
        (OfaMobilenetV3(), "first.project.bn.bias", "blocks.0.conv.point_linear.bn.bias"),
        (OfaProxyless(), "stage6.block1.expand.bn.weight", "blocks.21.conv.inverted_bottleneck.bn.bn.weight"),
        (OfaProxyless(), "head.bn.weight", "feature_mix_layer.bn.weight"),
        (OfaProxyless(), "classifier.bias", "classifier.linear.bias"),
        (OfaResNet50(), "stem.residual.body.conv.weight", "input_stem.1.conv.conv.conv.weight"),
        (OfaResNet50(), "stem.residual.body.bn.weight", "input_stem.1.conv.bn.bn.weight"),
        (OfaResNet50(), "stem.conv2.conv.weight", "input_stem.2.conv.conv.weight"),
        (OfaResNet50(), "stage4.block1.shortcut.project.conv.weight", "blocks.14.downsample.conv.conv.weight"),
        (OfaResNet50(), "stage3.block6.conv3.bn.bias", "blocks.13.conv3.bn.bn.bias"),
        (OfaResNet50(), "classifier.weight", "classifier.linear.linear.weight"),
    ],
)
def test_published_keys(family, ours: str, published: str) -> None:
    assert published_names(Supernet(family, meta=True))[ours] == published


def test_safetensors_both_ways(tmp_path: Path) -> None:
    net = supernet(FAMILIES["proxyless"]())
    save_published(net, tmp_path / "p.safetensors")
    save_weights(net, tmp_path / "w.safetensors")
    published, ours = fresh("proxyless"), fresh("proxyless")
    assert load_published(published, tmp_path / "p.safetensors").format == "safetensors"
    load_weights(ours, tmp_path / "w.safetensors")
    assert equal_states(state(net), state(published))
    assert equal_states(state(net), state(ours))


def test_half_precision_and_meta_supernets(tmp_path: Path) -> None:
    net = supernet(FAMILIES["mobilenet_v3"]())
    half = {k: t.half() if t.is_floating_point() else t for k, t in to_published(net).items()}
    torch.save({k: t for k, t in half.items() if "num_batches" not in k}, tmp_path / "w.pth")
    meta = Supernet(FAMILIES["mobilenet_v3"](), meta=True)
    load_published(meta, tmp_path / "w.pth")
    for name, tensor in meta.tensors().items():
        assert not tensor.is_meta
        assert tensor.dtype == net.tensors()[name].dtype


def test_digest(tmp_path: Path) -> None:
    save_published(fresh(), tmp_path / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert read_checkpoint(tmp_path / "w.safetensors", sha256=digest.upper()).sha256 == digest
    with pytest.raises(CheckpointError, match=f"must have the SHA-256 {'0' * 64}, but has {digest}"):
        read_checkpoint(tmp_path / "w.safetensors", sha256="0" * 64)


# ---- what does not fit ----------------------------------------------------------------------------


def test_one_error_names_every_problem_and_nothing_is_loaded() -> None:
    net, tensors = fresh(), to_published(supernet(FAMILIES["mobilenet_v3"]()))
    before = state(net)
    names = list(published_names(net).values())
    gone = [n for n in names if n.startswith("blocks.1.") and "num_batches" not in n]
    for name in gone:
        del tensors[name]
    tensors["classifier.linear.bias"] = torch.zeros(7)
    tensors["who.is.this"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        from_published(net, tensors)
    lines = str(error.value).splitlines()
    assert lines[0] == (
        f"the checkpoint must fit ofa_mobilenet_v3, but has {len(gone)} missing, 1 unexpected, 1 mis-shaped tensors; "
        "nothing was loaded."
    )
    assert lines[1 : 1 + len(gone)] == [f"  missing {name}" for name in gone]
    assert lines[1 + len(gone) :] == [
        "  unexpected who.is.this",
        "  mis-shaped classifier.linear.bias: must be (3,), but got (7,)",
    ]
    assert equal_states(before, state(net))


def test_wrong_width_multiplier_class_count_and_network() -> None:
    tensors = to_published(supernet(FAMILIES["mobilenet_v3"]()))
    wide = Supernet(OfaMobilenetV3(preset="tiny", n_classes=3, width_mult=2.0), meta=True)
    with pytest.raises(CheckpointError, match=r"^the checkpoint must fit .* mis-shaped tensors \(another width\?\); "):
        from_published(wide, tensors)
    classes = Supernet(OfaMobilenetV3(preset="tiny", n_classes=4), meta=True)
    with pytest.raises(
        CheckpointError, match=r"has 2 mis-shaped tensors \(another number of classes or vocabulary\?\)"
    ):
        from_published(classes, tensors)
    with pytest.raises(CheckpointError, match=r"must fit ofa_resnet50, but has \d+ missing, .* \(another network\?\)"):
        from_published(fresh("resnet50"), tensors)


def test_two_keys_for_one_tensor_must_agree() -> None:
    net, tensors = fresh(), to_published(fresh())
    key = "blocks.1.conv.point_linear.conv.conv.weight"
    tensors[halved(key)] = tensors[key].clone()
    assert not compare(net, tensors)[0]
    tensors[halved(key)] += 1
    with pytest.raises(CheckpointError, match=f"unexpected {halved(key)}, which differs from {key}"):
        from_published(net, tensors)


class Exploit:
    def __reduce__(self):
        return os.system, ("touch /tmp/hwsearch_must_not_exist",)


def bad_files(folder: Path) -> dict[str, Path]:
    tensors = to_published(fresh())
    paths = {
        name: folder / f"{name}.pth" for name in ("cut", "cut_old", "code", "text", "number", "empty", "no_tensor")
    }
    torch.save(tensors, paths["cut"])
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:5000])
    torch.save(tensors, paths["cut_old"], _use_new_zipfile_serialization=False)
    paths["cut_old"].write_bytes(paths["cut_old"].read_bytes()[:5000])
    torch.save({"state_dict": tensors, "extra": Exploit()}, paths["code"])
    paths["text"].write_text("hello, this is a web page that says 404")
    torch.save(3, paths["number"])
    torch.save({"state_dict": {}}, paths["empty"])
    torch.save({"a": torch.zeros(1), "b": "text"}, paths["no_tensor"])
    paths["cut_safe"] = folder / "cut.safetensors"
    save_published(fresh(), paths["cut_safe"])
    paths["cut_safe"].write_bytes(paths["cut_safe"].read_bytes()[:5000])
    paths["gone"] = folder / "gone.pth"
    return paths


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("cut", "must be a complete torch checkpoint, but it is broken or cut off"),
        ("cut_old", "must be a complete torch checkpoint, but it is broken or cut off"),
        ("code", "must hold tensors only, but asks for .*system: pickled code is never executed"),
        ("text", "must be a complete torch checkpoint, but it is broken or cut off"),
        ("number", "must hold a dictionary of tensors, but holds a int"),
        ("empty", "must hold a dictionary of tensors, but holds an empty dict"),
        ("no_tensor", "must hold tensors only, but 'b' is a str"),
        ("cut_safe", "must be a complete safetensors file, but: "),
        ("gone", "weights must be a file, but .*gone.pth does not exist"),
    ],
)
def test_bad_files_are_one_clear_line(which: str, message: str, tmp_path: Path) -> None:
    net = fresh()
    before = state(net)
    with pytest.raises(CheckpointError, match=message) as error:
        load_published(net, bad_files(tmp_path)[which])
    assert "\n" not in str(error.value)
    assert not Path("/tmp/hwsearch_must_not_exist").exists()
    assert equal_states(before, state(net))


def test_our_own_files_must_fit_too(tmp_path: Path) -> None:
    save_weights(fresh("resnet50"), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="the weights must fit the super-network, but: missing"):
        load_weights(fresh(), tmp_path / "w.safetensors")


def test_to_published_gives_live_values() -> None:
    net = fresh()
    tensors: dict[str, Tensor] = to_published(net)
    with torch.no_grad():
        net.tensors()["classifier.bias"].add_(1)
    assert torch.equal(tensors["classifier.linear.bias"], net.tensors()["classifier.bias"])
