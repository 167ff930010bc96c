"""Robust aggregation: closed forms, and vectors of which some workers' are wrong."""

from __future__ import annotations

import math

import pytest
import torch

from hwsearch.training.aggregation import aggregate, flag, median, trimmed_mean

N, FAULTY, D = 9, 2, 400


def gradients(n=N, noise=1.0, seed=0):
    """One direction, and noise of the same length, as of gradients of small batches."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
    rows = truth + noise * torch.randn(n, D, generator=generator) / math.sqrt(D)
    return truth, rows


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_closed_forms():
    x = torch.tensor([[1.0, 10.0], [2.0, -5.0], [6.0, 0.0], [7.0, 1.0]])
    assert median(x).tolist() == [4.0, 0.5]
    assert median(x[:3]).tolist() == [2.0, 0.0]
    assert trimmed_mean(x, 1).tolist() == [4.0, 0.5]
    assert trimmed_mean(x, 0).tolist() == x.mean(0).tolist()
    assert aggregate(x, "mean").tolist() == x.mean(0).tolist()
    with pytest.raises(ValueError, match=r"k must be in 0 \.\. 1 for 4 gradients, but got 2"):
        trimmed_mean(x, 2)


@pytest.mark.parametrize("kind", ["mean", "median", "trimmed_mean", "flag"])
def test_workers_that_agree_are_left_as_they_are(kind):
    row = torch.randn(D, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(aggregate(row.expand(5, D), kind), row, atol=1e-5)
    zero = torch.zeros(3, D)
    assert torch.equal(aggregate(zero, kind), zero[0])


def test_the_flag_of_a_full_subspace_is_the_mean_of_directions():
    _, rows = gradients(n=4)
    unit = torch.nn.functional.normalize(rows, dim=1)
    expected = rows.norm(dim=1).median() * unit.mean(0)
    assert torch.allclose(flag(rows, dimension=4), expected, atol=1e-5)


def test_the_flag_leaves_directions_to_which_few_workers_point():
    e = torch.eye(6)
    rows = torch.stack([e[0], e[0], e[0], e[0] + 0.1 * e[1], e[5]])
    answer = flag(rows, dimension=1)
    assert answer[0] > 0.7
    assert abs(answer[5]) < 0.05


FAULTS = {
    "sign": lambda rows: -10.0 * rows,
    "scale": lambda rows: 1e4 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(7)),
    "zero": lambda rows: 0.0 * rows,
    "nan": lambda rows: rows * torch.nan,
    "inf": lambda rows: rows * torch.inf,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "flag"])
def test_planted_faulty_workers_do_not_decide(kind, fault):
    truth, rows = gradients()
    honest = rows[FAULTY:].mean(0)
    rows[:FAULTY] = FAULTS[fault](rows[:FAULTY])
    got = aggregate(rows, kind, n_faulty=FAULTY)
    # 7 honest workers whose noise is as long as the truth: their mean has a cosine of about 0.93 with it.
    assert cosine(got, truth) > 0.8
    assert cosine(got, honest) > 0.8
    assert got.norm() < 1.2 * rows[FAULTY:].norm(dim=1).max()
    if fault in ("sign", "scale"):
        assert cosine(aggregate(rows, "mean"), truth) < 0.3


def test_nobody_finite_is_not_a_number():
    for kind in ("mean", "median", "trimmed_mean", "flag"):
        assert aggregate(torch.full((3, 2), torch.inf), kind).isnan().all()
