"""Genes: what they accept, and what they say when they do not."""

from __future__ import annotations

import pickle

import pytest

from search_spaces.genes import MAX_CHOICES, Condition, Gene


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gene("", (1,)), "a gene name must be non-empty and without outer spaces, but got ''"),
        (lambda: Gene(" a", (1,)), "without outer spaces, but got ' a'"),
        (lambda: Gene("a", ()), "gene 'a' must have 1 to 255 choices, but got 0"),
        (lambda: Gene("a", tuple(range(MAX_CHOICES + 1))), "must have 1 to 255 choices, but got 256"),
        (lambda: Gene("a", (1, 2, 1)), r"gene 'a' must have distinct choices, but got \[1, 2, 1\]"),
        (lambda: Gene("a", (1, "x")), "must have choices of one type .* but got"),
        (lambda: Gene("a", (1, None)), "must have choices of one type .* but got"),  # type: ignore[arg-type]
        (lambda: Gene("a", (1, 2), aliases={3: 1}), "an alias must map a choice to a choice without alias, but got 3"),
        (lambda: Gene("a", (1, 2, 3), aliases={3: 2, 2: 1}), "but got 3 -> 2"),
        (lambda: Gene("a", (1, 2), aliases={1: 2}), "the first choice 1 must not be an alias"),
        (lambda: Condition("a", ()), "a condition on gene 'a' must list at least one value, but got none"),
        (lambda: Gene("a", (1, 2)).index(3), r"gene 'a' must be one of \[1, 2\], but got 3"),
        (lambda: Gene("a", (1, 2)).index(True), r"gene 'a' must be one of \[1, 2\], but got True"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_may_mix_and_compare_by_value() -> None:
    gene = Gene("a", (1, 2.5, 3))
    assert gene.index(1.0) == 0
    assert gene.index(2.5) == 1


def test_representatives_leave_out_aliases() -> None:
    assert Gene("a", (1, 2, 3), aliases={2: 1}).representatives() == (0, 2)


def test_pickles_and_hashes() -> None:
    gene = Gene("a", (1, 2, 3), active_when=(Condition("b", (1,)),), aliases={2: 1})
    again = pickle.loads(pickle.dumps(gene))
    assert again == gene
    assert hash(again) == hash(gene)
