"""The encodings of blocks and kernel groups: exactly as large as counted, bit-equal when read again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import UserError
from hwsearch.export.weights import decode, encode, payload_bytes
from search_spaces.sparsity import parse_pattern


@settings(max_examples=40, deadline=None)
@given(
    pattern=st.sampled_from(["block-2x2-0.5", "block-4x1-0.8", "groups-1-0.5", "groups-2-0.5", "groups-3-0.75"]),
    outputs=st.sampled_from([4, 6, 8, 12]),
    inputs=st.sampled_from([3, 4, 8]),
    kernel=st.sampled_from([None, 3]),
    seed=st.integers(0, 99),
)
def test_round_trip(pattern, outputs, inputs, kernel, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs) if kernel is None else (outputs, inputs, kernel, kernel)
    weight = torch.randn(shape, generator=generator)
    rule = parse_pattern(pattern)
    mask = rule.mask(weight)
    if mask is not None:
        weight = torch.where(mask, weight, 0.0)
    if pattern.startswith("block"):
        weight[torch.rand(shape, generator=generator) < 0.2] = 0.0  # zeros within kept tiles, empty tiles
    content = encode({"w": weight}, {"w": pattern})
    assert payload_bytes(content) == int(rule.stored_bytes(outputs, inputs, kernel or 1))
    assert decode(content)["w"].numpy().tobytes() == weight.contiguous().numpy().tobytes()


@pytest.mark.parametrize("pattern", ["block-2x2-0.75", "groups-2-0.75"])
def test_weights_that_break_their_pattern_are_refused(pattern):
    with pytest.raises(UserError, match=f"w under pattern {pattern} must have at most 16 values in its support"):
        encode({"w": torch.ones(8, 8)}, {"w": pattern})
