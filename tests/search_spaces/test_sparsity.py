"""Sparsity patterns: masks hold exactly what is counted, ties are decided, n:m is valid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.pattern import best_of_rows
from search_spaces.sparsity import DENSE, parse_pattern

PATTERNS = ("unstructured-0.5", "unstructured-0.9", "unstructured-0.97", "1:2", "2:4", "1:4", "4:8")
NAMES = ("dense", *PATTERNS)
shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 16)),
    st.tuples(st.integers(1, 6), st.integers(1, 8), st.just(3), st.just(3)),
)


def kernel_of(shape: tuple[int, ...]) -> int:
    return shape[2] if len(shape) > 2 else 1


@given(st.sampled_from(NAMES), shapes, st.integers(0, 99), st.booleans())
@settings(max_examples=150, deadline=None)
def test_mask_keeps_exactly_what_is_counted(name: str, shape: tuple[int, ...], seed: int, ties: bool) -> None:
    pattern = parse_pattern(name)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = weight.round() if ties else weight
    mask = pattern.mask(weight)
    counted = int(pattern.nonzeros(shape[0], shape[1], kernel_of(shape)))
    assert (mask is None) == (not bool(pattern.fits(shape[0], shape[1], kernel_of(shape))))
    if mask is None:
        assert counted == weight.numel()
    else:
        assert mask.shape == weight.shape
        assert mask.dtype == torch.bool
        assert int(mask.sum()) == counted
        assert torch.equal(mask, pattern.mask(weight))


@given(st.sampled_from(["unstructured-0.5", "unstructured-0.9"]), shapes, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_unstructured_keeps_the_largest(name: str, shape: tuple[int, ...], seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    mask = parse_pattern(name).mask(weight)
    if mask is not None and not bool(mask.all()):
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (4, 8)])
def test_n_of_m_holds_in_every_block_of_inputs(n: int, m: int) -> None:
    weight = torch.randn(6, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = parse_pattern(f"{n}:{m}").mask(weight)
    assert mask is not None
    blocks = mask.permute(0, 2, 3, 1).reshape(-1, m)
    assert (blocks.sum(1) == n).all()
    values = weight.abs().permute(0, 2, 3, 1).reshape(-1, m)
    kept_least = values.masked_fill(~blocks, torch.inf).min(1).values
    dropped_most = values.masked_fill(blocks, 0).max(1).values
    assert (kept_least >= dropped_most).all()


def test_of_equal_weights_the_first_stay() -> None:
    weight = torch.ones(2, 4)
    assert parse_pattern("unstructured-0.5").mask(weight).tolist() == [[True] * 4, [False] * 4]  # type: ignore[union-attr]
    assert parse_pattern("2:4").mask(weight).tolist() == [[True, True, False, False]] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("keep", [1, 3, 8])
def test_the_best_of_rows_are_those_of_a_stable_sort(keep: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for levels in (3, 1_000_000):  # many ties, and hardly any
        rows = torch.randint(0, levels, (50, 8), generator=generator).to(dtype)
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :keep]
        want = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        assert torch.equal(best_of_rows(rows, keep), want)


def test_scores_replace_magnitude_and_carry_no_gradient() -> None:
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    scores = torch.tensor([[0.0, 0.0, 1.0, 2.0]], requires_grad=True)
    mask = parse_pattern("2:4").mask(weight, scores)
    assert mask is not None
    assert mask.tolist() == [[False, False, True, True]]
    assert not mask.requires_grad


def test_layers_that_do_not_fit_stay_dense() -> None:
    assert parse_pattern("2:4").mask(torch.ones(4, 6)) is None
    assert parse_pattern("unstructured-0.5").mask(torch.ones(1, 1)) is None
    assert DENSE.mask(torch.ones(4, 4)) is None
    assert int(parse_pattern("2:4").nonzeros(4, 6, 1)) == 24


def test_counts_are_vectorised() -> None:
    outputs, inputs, kernel = np.array([4, 8, 3]), np.array([8, 6, 4]), np.array([1, 1, 3])
    for name in NAMES:
        pattern = parse_pattern(name)
        for method in (pattern.nonzeros, pattern.stored_bytes):
            one_by_one = [int(method(o, i, k)) for o, i, k in zip(outputs, inputs, kernel, strict=True)]
            assert method(outputs, inputs, kernel).tolist() == one_by_one


def test_stored_bytes_by_hand() -> None:
    """8 x 16 weights: dense 512 B; 90 % of 128 zero leaves 13 values and 128 bits; 2:4 leaves 64 with 2 bits each."""
    stored = {name: int(parse_pattern(name).stored_bytes(8, 16, 1)) for name in ("dense", "unstructured-0.9", "2:4")}
    assert stored == {"dense": 512, "unstructured-0.9": 13 * 4 + 16, "2:4": 64 * 4 + 16}
    assert int(parse_pattern("unstructured-0.01").stored_bytes(8, 16, 1)) == 512  # no smaller than dense


@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip(name: str) -> None:
    assert parse_pattern(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparse", "a sparsity pattern must be 'dense', .* but got 'sparse'"),
        ("unstructured-1.0", "unstructured sparsity must be between 0 and 1, but got 1.0"),
        ("unstructured-0", "unstructured sparsity must be between 0 and 1, but got 0.0"),
        ("4:4", "n:m sparsity must have 1 <= n < m, but got 4:4"),
        ("0:4", "n:m sparsity must have 1 <= n < m, but got 0:4"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_pattern(text)
