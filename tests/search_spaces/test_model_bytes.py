"""Bytes at a precision: fp32 is what costs say, halves are counted on tensors, int8 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.hat import HatTransformer
from search_spaces.mlp import MLP
from search_spaces.ofa_networks import OfaMobilenetV3
from search_spaces.supernet import SparsityGenes, Supernet
from tests.search_spaces.nets import supernet

SPARSE = SparsityGenes(choices=("dense", "unstructured-0.6", "2:4"))
NETS = {
    "mobilenet_v3": lambda sparsity: supernet(OfaMobilenetV3(preset="tiny", n_classes=3), sparsity=sparsity),
    "hat": lambda sparsity: supernet(HatTransformer(preset="tiny", vocab_size=23), sparsity=sparsity),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("sparsity", [None, SPARSE])
def test_fp32_is_what_costs_say(name: str, sparsity: SparsityGenes | None) -> None:
    net = NETS[name](sparsity)
    rows = net.space.sample(40, np.random.default_rng(0))
    assert np.array_equal(net.model_bytes(rows, "fp32"), net.costs(rows).stored_bytes)
    assert (net.model_bytes(rows, "int8") < net.costs(rows).stored_bytes).all()


@pytest.mark.parametrize("name", NETS)
def test_halves_equal_the_tensors_of_a_halved_module(name: str) -> None:
    net = NETS[name](None)
    rows = net.space.sample(4, np.random.default_rng(0))
    for size, arch in zip(net.model_bytes(rows, "fp16"), net.space.architectures(rows), strict=True):
        module = net.extract(arch).half()
        assert size == sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    assert np.array_equal(net.model_bytes(rows, "bf16"), net.model_bytes(rows, "fp16"))


def test_int8_by_hand() -> None:
    """16 -> 8 -> 3: weights 128 + 24 bytes, scales and biases 4 bytes for each of 8 + 3 outputs."""
    family = MLP(input_shape=(16,), n_classes=3, hidden=[(8,)])
    net = Supernet(family, meta=True)
    rows = net.space.enumerate()
    assert net.model_bytes(rows, "int8").tolist() == [128 + 24 + 2 * 4 * (8 + 3)]
    sparse = Supernet(family, sparsity=SparsityGenes(choices=("2:4",)), meta=True)
    # 2:4 keeps 64 of the first layer's 128 values and needs 2 bits of index for each; the classifier stays dense.
    assert sparse.model_bytes(rows[:, [0, 0]], "int8").tolist() == [64 + 16 + 24 + 2 * 4 * (8 + 3)]


def test_unknown_precision() -> None:
    net = Supernet(MLP(input_shape=(4,), n_classes=2, hidden=[(2,)]), meta=True)
    with pytest.raises(ValueError, match=r"precision must be one of \['fp32', .*\], but got 'int4'"):
        net.model_bytes(net.space.enumerate(), "int4")  # type: ignore[arg-type]
