"""Supernet: one slicing rule for training, evaluation and export; weights that survive all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.mlp import MLP
from search_spaces.slicing import slice_tensor
from search_spaces.sparsity import NOfM
from search_spaces.supernet import SKELETON_CACHE, SparsityGenes, Supernet
from tests.search_spaces.nets import FAMILIES, equal_states, small_mlp, small_mobilenet, state, supernet

CASES = [(name, sparse) for name in FAMILIES for sparse in (False, True)]


def some_archs(net: Supernet, n: int = 6):
    rows = net.space.sample(n, np.random.default_rng(0))
    return [net.space.smallest(), net.space.largest(), *net.space.architectures(rows)]


def inputs(net: Supernet, batch: int = 3) -> tuple[torch.Tensor, ...]:
    return net.family.example_inputs(batch=batch, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "sparse"), CASES)
def test_extracted_subnet_equals_forward_bit_for_bit(family: str, sparse: bool) -> None:
    net = supernet(FAMILIES[family](), sparse=sparse)
    x = inputs(net)
    before = state(net)
    for arch in some_archs(net):
        subnet = net.extract(arch)
        assert type(subnet) is type(net.family.build(arch))
        assert not subnet.training
        with torch.no_grad():
            assert torch.equal(net(x, arch), subnet(*x))
    assert equal_states(state(net), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_subnet_is_the_full_network(family: str) -> None:
    net = supernet(FAMILIES[family]())
    x = inputs(net)
    with torch.no_grad():
        assert torch.equal(net.extract(net.space.largest())(*x), net.full(*x))


@pytest.mark.parametrize(("family", "sparse"), CASES)
def test_extract_is_a_copy_of_its_own(family: str, sparse: bool) -> None:
    net = supernet(FAMILIES[family](), sparse=sparse)
    before = state(net)
    subnet = net.extract(net.space.largest())
    assert all(p.requires_grad and p.is_leaf for p in subnet.parameters())
    assert {n for n, _ in subnet.named_modules()} == {n for n, _ in net.build(net.space.largest()).named_modules()}
    with torch.no_grad():
        for tensor in (*subnet.parameters(), *subnet.buffers()):
            tensor.zero_()
    assert equal_states(state(net), before)
    assert all(t.is_meta for t in net.build(net.space.largest()).parameters())


@pytest.mark.parametrize(("family", "sparse"), CASES)
def test_gradients_outside_slice_and_under_masks_are_exactly_zero(family: str, sparse: bool) -> None:
    net = supernet(FAMILIES[family](), sparse=sparse)
    for arch in some_archs(net, 3):
        net.zero_grad()
        net(inputs(net), arch).square().sum().backward()
        shapes = {name: t.shape for name, t in net.build(arch).named_parameters()}
        masks = net.masks(arch)
        inside = 0
        for name, parameter in net.full.named_parameters():
            kept = torch.zeros_like(parameter, dtype=torch.bool)
            if name in shapes:
                view = slice_tensor(kept, shapes[name])
                view.copy_(masks.get(name, torch.ones(shapes[name], dtype=torch.bool)))
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert (grad[~kept] == 0).all(), name
            inside += int((grad[kept] != 0).sum())
        assert inside > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_weights_are_views_that_training_can_write_through(family: str) -> None:
    net = supernet(FAMILIES[family]())
    full = net.tensors()
    for arch in some_archs(net, 2):
        for name, tensor in net.weights(arch).items():
            assert tensor.untyped_storage().data_ptr() == full[name].untyped_storage().data_ptr()


def test_forward_in_training_mode_moves_the_sliced_running_statistics_only() -> None:
    net = supernet(small_mobilenet()).train()
    arch = net.space.smallest()
    before = state(net)
    net(inputs(net, batch=8), arch)
    changed = {n for n, t in state(net).items() if not torch.equal(t, before[n])}
    assert changed
    assert all("running" in n or "num_batches" in n for n in changed)
    name = "full.stage1.block1.expand.bn.running_mean"
    wide = slice(net.build(arch).get_submodule("stage1.block1.expand.bn").num_features, None)
    assert name in changed
    assert torch.equal(net.state_dict()[name][wide], before[name][wide])


def test_a_batch_of_one_array_or_a_tuple() -> None:
    net = supernet(small_mlp())
    (x,) = inputs(net)
    arch = net.space.largest()
    assert torch.equal(net(x, arch), net((x,), arch))


def test_skeletons_are_cached_and_the_cache_is_bounded() -> None:
    net = supernet(MLP(input_shape=(2,), n_classes=2, hidden=[range(1, SKELETON_CACHE // 16 + 2), range(1, 17)]))
    arch = net.space.largest()
    assert net.build(arch) is net.build(arch)
    for other in net.space.architectures(net.space.enumerate()):
        net.build(other)
    assert len(net._skeletons) == SKELETON_CACHE


def test_the_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    nets = [Supernet(small_mlp(), seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert equal_states(state(nets[0]), state(nets[1]))
    assert not equal_states(state(nets[0]), state(nets[2]))


# ---- sparsity genes -------------------------------------------------------------------------------


def test_sparsity_genes_per_stage_layer_and_model() -> None:
    def genes(per) -> list[str]:
        net = Supernet(small_mobilenet(), sparsity=SparsityGenes(choices=("dense", "2:4"), per=per), meta=True)
        return [g.name for g in net.space.genes if g.name.endswith(".sparsity")]

    assert genes("model") == ["model.sparsity"]
    assert genes("stage") == ["stage1.sparsity", "stage2.sparsity", "head.sparsity"]
    assert genes("layer")[0] == "stage1.block1.expand.conv.sparsity"
    assert len(genes("layer")) == 2 * 5 + 1


def test_sparsity_gene_of_a_layer_is_inactive_with_the_layer() -> None:
    net = Supernet(small_mobilenet(), sparsity=SparsityGenes(choices=("dense", "2:4"), per="layer"), meta=True)
    gene = "stage2.block3.project.conv.sparsity"
    assert gene in net.space.largest()
    assert gene not in net.space.smallest()


def test_default_masks_are_applied_and_depend_on_the_sliced_weights_only() -> None:
    net = supernet(small_mlp(), sparse=True)
    arch = net.space.architecture({**net.space.smallest().to_dict(), "layer1.sparsity": "2:4"})
    weights, dense = net.weights(arch), net.dense_weights(arch)
    mask = NOfM(2, 4).mask(dense["layer1.weight"])
    assert mask is not None
    assert torch.equal(weights["layer1.weight"], dense["layer1.weight"] * mask)
    assert set(net.masks(arch)) == {"layer1.weight"}


def test_masks_of_ones_own_replace_the_default_ones() -> None:
    net = supernet(small_mlp(), sparse=True)
    arch = net.space.largest()
    own = {"layer2.weight": torch.zeros_like(net.weights(arch)["layer2.weight"], dtype=torch.bool)}
    subnet = net.extract(arch, own)
    assert (subnet.get_parameter("layer2.weight") == 0).all()
    with torch.no_grad():
        x = inputs(net)
        assert torch.equal(net(x, arch, own), subnet(*x))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"nope": torch.ones(1, dtype=torch.bool)}, r"mask 'nope' must match the sliced weight \(no such tensor\)"),
        ({"layer1.weight": torch.ones(2, 2, dtype=torch.bool)}, r"must match .*\(12, 16\)\), but got \(2, 2\)"),
    ],
)
def test_mask_messages(masks, message: str) -> None:
    net = supernet(small_mlp())
    with pytest.raises(ValueError, match=message):
        net.weights(net.space.largest(), masks)


def test_sparsity_choices_must_be_given() -> None:
    with pytest.raises(ValueError, match="sparsity choices must not be empty"):
        SparsityGenes(choices=())


# ---- slicing --------------------------------------------------------------------------------------


def test_slices_are_leading_channels_and_centred_kernels() -> None:
    full = torch.arange(4 * 3 * 7 * 7).view(4, 3, 7, 7)
    part = slice_tensor(full, torch.Size((2, 1, 3, 5)))
    assert torch.equal(part, full[:2, :1, 2:5, 1:6])
    assert slice_tensor(full, full.shape) is full


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 1)])
def test_slices_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"w of shape \(.*\) must fit into the full \(4, 3\)"):
        slice_tensor(torch.zeros(4, 3), torch.Size(shape), name="w")


# ---- weights in and out ---------------------------------------------------------------------------


def test_arrays_round_trip_and_share_memory_when_asked() -> None:
    net = supernet(small_mobilenet())
    arrays = net.to_arrays()
    copied, shared = (Supernet(small_mobilenet(), meta=True) for _ in range(2))
    copied.load_arrays(arrays)
    shared.load_arrays(arrays, copy=False)
    assert equal_states(state(net), state(copied))
    with torch.no_grad():
        net.tensors()["classifier.bias"].add_(1)
    assert torch.equal(shared.tensors()["classifier.bias"], net.tensors()["classifier.bias"])
    assert not torch.equal(copied.tensors()["classifier.bias"], net.tensors()["classifier.bias"])
    copied.train()(inputs(net), copied.space.largest()).sum().backward()
    assert all(p.grad is not None for p in copied.full.parameters())


def test_extract_works_from_read_only_memory() -> None:
    arrays = supernet(small_mlp()).to_arrays()
    for array in arrays.values():
        array.flags.writeable = False
    net = Supernet(small_mlp(), meta=True)
    net.load_arrays(arrays, copy=False)
    subnet = net.extract(net.space.smallest())
    with torch.no_grad():
        next(subnet.parameters()).add_(1)
    assert np.array_equal(net.to_arrays()["layer1.weight"], arrays["layer1.weight"])


def test_load_arrays_names_every_problem_and_changes_nothing() -> None:
    net = supernet(small_mlp())
    before = state(net)
    arrays = dict(net.to_arrays())
    arrays["extra"] = arrays.pop("layer1.bias")
    arrays["layer2.weight"] = arrays["layer2.weight"][:1]
    with pytest.raises(ValueError, match="the weights must fit the super-network, but: ") as error:
        net.load_arrays(arrays)
    text = str(error.value)
    assert "missing layer1.bias; unexpected extra; layer2.weight: must be (10, 12), but got (1, 12)." in text
    assert equal_states(state(net), before)
    with pytest.raises(ValueError, match=r"missing layer1.weight; .*; and 1 more\."):
        net.load_arrays({})


def test_meta_supernets_have_no_storage() -> None:
    net = Supernet(small_mlp(), meta=True)
    assert all(t.is_meta for t in net.tensors().values())
    assert isinstance(net.full, nn.Module)
