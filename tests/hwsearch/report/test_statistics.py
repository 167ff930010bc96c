"""Statistics of groups of runs: closed forms, and that the intervals cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwsearch.report.statistics import Quartiles, a12, a12_interval, effect, holm, sentence, smallest_p


def test_a12_is_the_share_of_pairs_won() -> None:
    ours, other = np.array([2.0, 3.0]), np.array([1.0, 2.0])
    assert a12(ours, other) == pytest.approx((3 + 0.5) / 4)
    assert a12(other, ours) == pytest.approx(0.5 / 4)


def test_the_interval_of_a12_is_the_root_of_its_equation_and_never_empty() -> None:
    low, high = a12_interval(0.8, 12, 9)
    k = (12 + 9) / 2 - 1
    for t in (low, high):
        variance = t * (1 - t) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t)) / (12 * 9)
        assert abs(t - 0.8) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    low, high = a12_interval(1.0, 10, 10)
    assert high == 1.0 and 0.7 < low < 0.95  # ten runs that all win leave room for some that would not


def test_the_interval_of_a12_covers_the_truth_about_as_often_as_it_says() -> None:
    # Normal groups, one deviation apart: A12 = Phi(1 / sqrt 2) = 0.760. With 400 repetitions the share of covering
    # intervals has a standard error of 1.1 points; the bounds are three of them and 2 points of approximation wide.
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        low, high = a12_interval(a12(rng.normal(1.0, 1.0, 10), rng.normal(0.0, 1.0, 10)), 10, 10)
        hits += low <= 0.7602 <= high
    assert 0.90 <= hits / 400 <= 1.0


def test_an_effect_has_a_sign_and_both_intervals() -> None:
    rng = np.random.default_rng(1)
    ours, other = rng.normal(0.9, 0.01, 10), rng.normal(0.8, 0.01, 10)
    found = effect(ours, other)
    assert found.a12 == 1.0 and found.p_value == pytest.approx(smallest_p(10, 10)) == pytest.approx(2 / 184756)
    assert 0.08 < found.difference_low < found.difference < found.difference_high < 0.12
    text = sentence("pareto", "random", found, p_value=found.p_value, quantity="hypervolume")
    assert text.startswith("pareto has a larger hypervolume than random: it wins 100 % of the pairs of runs")
    assert "10 against 10 runs, 95 % intervals" in text
    back = effect(other, ours)
    assert back.difference == -found.difference
    assert "has a smaller" in sentence("a", "b", back, p_value=back.p_value, quantity="hypervolume")


def test_too_few_runs_are_said_to_be_too_few() -> None:
    one = effect(np.array([1.0]), np.array([0.0, 0.5]))
    assert math.isnan(one.p_value) and (one.a12_low, one.a12_high) == (0.0, 1.0)
    assert "one run says nothing about other seeds" in sentence("a", "b", one, p_value=one.p_value, quantity="x")
    few = effect(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    assert smallest_p(3, 3) == pytest.approx(0.1) == pytest.approx(few.p_value)
    assert "No difference in x is shown between a and b; so few runs cannot show any" in sentence(
        "a", "b", few, p_value=few.p_value, quantity="x"
    )


def test_several_tests_are_adjusted_and_quartiles_are_those_of_numpy() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.5, math.nan, 0.9])
    assert adjusted[0] == pytest.approx(1.0) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(1.0)
    assert Quartiles.of(np.arange(5.0)) == Quartiles(5, 1.0, 2.0, 3.0)
