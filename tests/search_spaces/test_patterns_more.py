"""Blocks, kernel groups and storage formats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from search_spaces.kernel_groups import KernelGroups, arrangement
from search_spaces.mlp import MLP
from search_spaces.sparsity import parse_pattern
from search_spaces.storage import storage_bytes
from search_spaces.supernet import SparsityGenes, Supernet


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3)])
def test_blocks_are_zero_together_and_the_strongest_stay(shape):
    weight = randn(*shape)
    mask = parse_pattern("block-4x2-0.5").mask(weight)
    tiles = itertools.product(range(0, 8, 4), range(0, 6, 2), *[range(s) for s in shape[2:]])
    strength = {}
    for o, i, *position in tiles:
        at = (slice(o, o + 4), slice(i, i + 2), *position)
        assert mask[at].all() or not mask[at].any()
        strength[o, i, *position] = (weight[at].abs().sum().item(), bool(mask[at].all()))
    kept = [s for s, stays in strength.values() if stays]
    assert len(kept) == len(strength) - len(strength) // 2
    assert min(kept) >= max(s for s, stays in strength.values() if not stays)


def test_blocks_that_do_not_cover_a_layer_leave_it_dense():
    pattern = parse_pattern("block-4x2-0.5")
    assert pattern.mask(randn(6, 6)) is None
    assert pattern.mask(randn(8, 5)) is None
    assert pattern.mask(randn(4, 2)) is None  # a single tile
    assert int(pattern.nonzeros(6, 6, 1)) == 36
    assert pattern.nonzeros(np.array([8, 6]), np.array([6, 6]), 1).tolist() == [24, 36]


@pytest.mark.parametrize("shape", [(12, 10), (8, 4, 3, 3)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernel_groups_share_supports_in_equal_groups(shape, groups):
    pattern = KernelGroups(groups, 0.6)
    mask = pattern.mask(randn(*shape))
    rows = mask.reshape(shape[0], -1)
    supports, counts = torch.unique(rows, dim=0, return_counts=True)
    assert len(supports) <= groups and (counts % (shape[0] // groups) == 0).all()
    assert (rows.sum(1) == rows.shape[1] - int(rows.shape[1] * 0.6 + 0.5)).all()
    assert int(mask.sum()) == int(pattern.nonzeros(shape[0], shape[1], shape[2] if len(shape) > 2 else 1))


def test_kernel_groups_find_groups_that_are_there():
    supports = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    owner = torch.tensor([2, 0, 1, 1, 0, 2, 0, 2, 1])
    weight = randn(9, 6).abs() * 0.1 + 5.0 * supports[owner]
    mask = KernelGroups(3, 4 / 6).mask(weight)
    assert torch.equal(mask, supports[owner])
    order = arrangement(mask)
    assert owner[order].tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    x = randn(4, 6)
    by_groups = torch.cat([x[:, mask[part[0]]] @ weight[part][:, mask[part[0]]].T for part in order.split(3)], dim=1)
    assert torch.allclose(by_groups[:, order.argsort()], x @ (weight * mask).T, atol=1e-5)


def test_one_group_is_input_pruning():
    weight = randn(5, 8)
    mask = KernelGroups(1, 0.5).mask(weight)
    best = weight.abs().sum(0).argsort(descending=True)[:4]
    assert mask[:, best].all() and int(mask.sum()) == 20


def test_storage_bytes_in_closed_form():
    # 8 x 16 weights, half of them kept = 64 values.
    assert {k: int(v) for k, v in storage_bytes(parse_pattern("unstructured-0.5"), 8, 16).items()} == {
        "dense": 512, "bitmap": 256 + 16, "csr": 64 * 6 + 36, "own": 272,
    }  # fmt: skip
    assert int(storage_bytes(parse_pattern("2:4"), 8, 16)["n:m"]) == 256 + 64 * 2 // 8
    assert int(storage_bytes(parse_pattern("block-4x4-0.5"), 8, 16)["block"]) == 256 + 1
    # Supports: 2 x 16 bits; members: 8 outputs x 1 bit.
    assert int(storage_bytes(parse_pattern("groups-2-0.5"), 8, 16)["own"]) == 256 + 4 + 1
    assert "n:m" not in storage_bytes(parse_pattern("2:4"), 8, 15)
    wide = storage_bytes(parse_pattern("unstructured-0.5"), 1, 2**16 + 2)
    assert int(wide["csr"]) == (2**15 + 1) * 8 + 8


def test_patterns_work_as_genes_with_elastic_width():
    family = MLP(input_shape=(16,), n_classes=4, hidden=((8, 16), (8, 16)))
    net = Supernet(family, sparsity=SparsityGenes(("dense", "block-4x4-0.5", "groups-2-0.75", "2:4")))
    x = randn(3, 16)
    rows = net.space.sample(20, np.random.default_rng(0))
    costs = net.costs(rows)
    for i, arch in enumerate(net.space.architectures(rows)):
        module = net.extract(arch)
        assert torch.equal(module(x), net.eval()(x, arch))
        weights = [p for n, p in module.named_parameters() if n in ("layer1.weight", "layer2.weight")]
        others = sum(p.numel() for p in module.parameters()) - sum(w.numel() for w in weights)
        assert int(costs.nonzeros[i]) == others + sum(int((w != 0).sum()) for w in weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block-1x1-0.5", "a block must have at least 2 weights, but got 1x1"),
        ("block-2x2-0.0", "block sparsity must be between 0 and 1, but got 0.0"),
        ("groups-0-0.5", "kernel groups must be at least 1, but got 0"),
        ("groups-4-1.0", "kernel-group sparsity must be between 0 and 1, but got 1.0"),
        ("blocks-2x2-0.5", "a sparsity pattern must be 'dense', 'unstructured-P', 'n:m', 'block-RxC-P' or"),
        ("4:2", "n:m sparsity must have 1 <= n < m, but got 4:2"),
    ],
)
def test_bad_patterns_are_one_clear_line(name, message):
    with pytest.raises(ValueError, match=message):
        parse_pattern(name)
