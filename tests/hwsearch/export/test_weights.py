"""The sparse encoding: exactly as large as the costs say, and bit-equal when read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import UserError
from hwsearch.export.weights import decode, encode, patterns_of, payload_bytes
from search_spaces.sparsity import parse_pattern
from search_spaces.supernet import Supernet
from tests.contracts.nets import conv_supernet, mlp_supernet


@pytest.mark.parametrize("make", [conv_supernet, mlp_supernet])
def test_payload_is_exactly_the_stored_bytes(make) -> None:
    supernet: Supernet = make()
    rng = np.random.default_rng(5)
    rows = supernet.space.sample(12, rng)
    costs = supernet.costs(rows)
    sparse_ones = 0
    for i, row in enumerate(rows):
        arch = supernet.space.architecture(row)
        state = supernet.extract(arch).state_dict()
        patterns = patterns_of(supernet.layer_costs(arch).layers)
        content = encode(state, patterns)
        assert payload_bytes(content) == costs.stored_bytes[i]
        assert_same(decode(content), state)
        sparse_ones += payload_bytes(content) < payload_bytes(encode(state))
    assert sparse_ones > 3


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert got[name].numpy().tobytes() == tensor.detach().numpy().tobytes(), name


@settings(max_examples=40, deadline=None)
@given(
    pattern=st.sampled_from(["unstructured-0.3", "unstructured-0.9", "1:3", "2:4", "1:8", "dense"]),
    outputs=st.integers(1, 7),
    inputs=st.sampled_from([1, 3, 4, 8, 12, 24]),
    kernel=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 99),
)
def test_round_trip(pattern: str, outputs: int, inputs: int, kernel: int | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs) if kernel is None else (outputs, inputs, kernel, kernel)
    weight = torch.randn(shape, generator=generator)
    weight[torch.rand(shape, generator=generator) < 0.2] = 0.0  # zeros among the kept values
    weight.reshape(-1)[0] = -0.0
    rule = parse_pattern(pattern)
    mask = rule.mask(weight)
    if mask is not None:
        weight = torch.where(mask, weight, torch.zeros(()))
    content = encode({"w.weight": weight, "w.bias": torch.ones(3)}, {"w.weight": pattern})
    assert payload_bytes(content) == int(rule.stored_bytes(outputs, inputs, kernel or 1)) + 12
    assert_same(decode(content), {"w.weight": weight, "w.bias": torch.ones(3)})
    assert content == encode({"w.bias": torch.ones(3), "w.weight": weight}, {"w.weight": pattern})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("unstructured-0.5", "at most 32 non-zero values in all, but got 64"), ("2:4", "at most 2 .* per 4 inputs")],
)
def test_weight_that_breaks_its_pattern(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=f"w under pattern {pattern} must have {message}"):
        encode({"w": torch.ones(8, 8)}, {"w": pattern})


def test_not_a_safetensors_file() -> None:
    for content in (b"", b"12345678", b"\x05" + bytes(7) + b"hello"):
        with pytest.raises(UserError, match="weights must be a safetensors file, but"):
            decode(content)


def test_parts_that_do_not_fit() -> None:
    content = encode({"w": torch.eye(16)}, {"w": "unstructured-0.9"})
    broken = content.replace(b"[16, 16]", b"[16, 99]").replace(b"[16,16]", b"[16,99]")
    assert broken != content
    with pytest.raises(UserError, match="sparse weight 'w' must be complete, but its parts do not fit"):
        decode(broken)
