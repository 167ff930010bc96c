"""SearchSpace: canonical rows, exact size, uniform sampling, operators that stay canonical."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from search_spaces import Condition, Gene, SearchSpace, populations
from search_spaces import space as space_module
from search_spaces.populations import not_in, row_keys, unique_rows
from tests.search_spaces.spaces import all_genotypes, chain_space, reference_active, reference_canonical, spaces

FEW = settings(max_examples=40, deadline=None)


def mobile_space() -> SearchSpace:
    """The genes of Once-for-All's MobileNetV3, depth first."""
    genes = [Gene(f"s{s}.depth", (2, 3, 4)) for s in range(5)]
    for part, choices in (("kernel", (3, 5, 7)), ("expand", (3, 4, 6))):
        for s in range(5):
            for b in range(4):
                when = () if b < 2 else (Condition(f"s{s}.depth", tuple(range(b + 1, 5))),)
                genes.append(Gene(f"s{s}.b{b}.{part}", choices, active_when=when))
    return SearchSpace(genes)


# ---- canonical rows -------------------------------------------------------------------------------


@given(spaces())
@FEW
def test_canonical_active_and_size_equal_brute_force(space: SearchSpace) -> None:
    rows = all_genotypes(space)
    expected = np.array([reference_canonical(space, row) for row in rows], dtype=np.uint8)
    canonical = space.canonical(rows)
    assert np.array_equal(canonical, expected)
    assert np.array_equal(space.canonical(canonical), canonical)
    assert np.array_equal(space.active(canonical), [reference_active(space, row) for row in canonical])
    distinct = sorted(set(map(tuple, expected)))
    assert space.size() == len(distinct)
    assert [tuple(row) for row in space.enumerate()] == distinct


def test_canonical_does_not_change_its_argument() -> None:
    space = chain_space()
    rows = np.array([[0, 1, 2, 3, 1]], dtype=np.uint8)
    before = rows.copy()
    assert space.canonical(rows).tolist() == [[0, 0, 0, 0, 1]]
    assert np.array_equal(rows, before)


def test_aliases_canonicalise_to_their_representative() -> None:
    space = chain_space()
    assert space.canonical(np.array([[2, 0, 0, 1, 0]])).tolist() == [[2, 0, 0, 0, 0]]
    assert space.architecture({"depth": 3, "kind": "plain", "width": 16, "act": False})["width"] == 8
    rng = np.random.default_rng(0)
    sample = space.sample(2000, rng)
    assert not (sample[:, 3] == 1).any()
    assert not (space.mutate(sample, rng, 1.0)[:, 3] == 1).any()


def test_a_silenced_parent_silences_its_children() -> None:
    """ratio needs kind=se, and kind's first choice must not wake it where kind is inactive."""
    space = SearchSpace(
        [
            Gene("depth", (1, 2)),
            Gene("kind", ("se", "plain"), active_when=(Condition("depth", (2,)),)),
            Gene("ratio", (4, 8), active_when=(Condition("kind", ("se",)),)),
        ]
    )
    assert space.size() == 4
    assert space.canonical(np.array([[0, 0, 1]])).tolist() == [[0, 0, 0]]
    assert list(space.architecture({"depth": 1})) == ["depth"]


# ---- sampling -------------------------------------------------------------------------------------


def chi_square_passes(space: SearchSpace, n: int = 20_000, seed: int = 0) -> bool:
    """n draws against the uniform distribution over all architectures, at a false alarm rate of 1e-4."""
    sample = space.sample(n, np.random.default_rng(seed))
    size = space.size()
    counts = np.array(list(Counter(row.tobytes() for row in sample).values()))
    known = {row.tobytes() for row in space.enumerate()}
    assert {row.tobytes() for row in sample} <= known
    expected = n / size
    statistic = ((counts - expected) ** 2).sum() / expected + (size - len(counts)) * expected
    return bool(statistic < chi2.ppf(1 - 1e-4, size - 1)) if size > 1 else True


def test_sample_is_uniform_over_distinct_architectures() -> None:
    # 3 depths x ... = 2 * (1 + (1 + 3) + 3 * (1 + 3)) = 34 architectures, 588 expected draws each.
    assert chain_space().size() == 34
    assert chi_square_passes(chain_space())


@given(spaces(max_genes=4))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_sample_is_uniform_on_random_spaces(space: SearchSpace) -> None:
    assert chi_square_passes(space)


def test_uniform_over_genes_would_fail_the_chi_square() -> None:
    """The test above can fail: canonical rows of uniform genotypes are not uniform over architectures."""
    space = chain_space()
    rows = np.random.default_rng(0).integers(0, space.n_choices, (20_000, space.n_genes))
    counts = Counter(row.tobytes() for row in space.canonical(rows.astype(np.uint8)))
    expected = 20_000 / 34
    assert sum((c - expected) ** 2 for c in counts.values()) / expected > chi2.ppf(1 - 1e-4, 33)


def test_depth_marginals_of_mobilenet_v3_are_exact() -> None:
    """81 + 729 + 6561 completions per stage: depth 2, 3, 4 have probabilities 1/91, 9/91, 81/91."""
    space = mobile_space()
    assert space.size() == 7371**5
    weights = [component.weights for component in space._components]
    assert weights == [(1, 3**2, 3**4)] * 5  # completions beyond the first two blocks, which always exist
    n = 200_000
    depth = space.sample(n, np.random.default_rng(0))[:, :5]
    for choice, p in enumerate((1 / 91, 9 / 91, 81 / 91)):
        share = (depth == choice).mean(axis=0)
        assert np.abs(share - p).max() < 5 * np.sqrt(p * (1 - p) / n)  # 5 sigma, 15 comparisons


def test_sample_is_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from tests.search_spaces.spaces import chain_space; s = chain_space();"
        "print(s.fingerprint, s.sample(5, np.random.default_rng(3)).tolist(), s.largest().key)"
    )
    answers = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    space = chain_space()
    sample = space.sample(5, np.random.default_rng(3)).tolist()
    assert answers == {f"{space.fingerprint} {sample} {space.largest().key}\n"}


# ---- mutation and crossover -----------------------------------------------------------------------


@given(spaces(), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 100))
@FEW
def test_mutate_changes_every_row_and_stays_canonical(space: SearchSpace, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = space.sample(64, rng)
    before = parents.copy()
    children = space.mutate(parents, rng, rate)
    assert np.array_equal(parents, before)
    assert np.array_equal(space.canonical(children), children)
    if space.size() > 1:
        movable = np.array([len(g.representatives()) > 1 for g in space.genes])
        stuck = ~(space.active(parents) & movable).any(axis=1)
        assert ((children != parents).any(axis=1) | stuck).all()


@given(spaces(), st.integers(0, 100))
@FEW
def test_crossover_stays_canonical_and_mixes_parents_only(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(64, rng), space.sample(64, rng)
    child = space.crossover(a, b, rng)
    assert np.array_equal(space.canonical(child), child)
    assert ((child == a) | (child == b) | ~space.active(child)).all()
    assert np.array_equal(space.crossover(a, a, rng), a)


def test_mutation_with_rate_zero_changes_one_gene_of_an_unconditional_space() -> None:
    space = SearchSpace([Gene(f"g{i}", (1, 2, 3)) for i in range(6)])
    rng = np.random.default_rng(0)
    parents = space.sample(500, rng)
    assert ((space.mutate(parents, rng, 0.0) != parents).sum(axis=1) == 1).all()


def test_mutation_can_reach_every_other_choice() -> None:
    space = SearchSpace([Gene("g", (1, 2, 3, 4), aliases={2: 1})])
    children = space.mutate(np.zeros((500, 1), np.uint8), np.random.default_rng(0), 1.0)
    assert set(children.ravel().tolist()) == {2, 3}


def test_genes_that_wake_up_are_random() -> None:
    space = SearchSpace([Gene("depth", (1, 2)), Gene("kernel", (3, 5, 7), active_when=(Condition("depth", (2,)),))])
    children = space.mutate(np.zeros((900, 2), np.uint8), np.random.default_rng(0), 0.0)
    counts = np.bincount(children[:, 1], minlength=3)
    assert (children[:, 0] == 1).all()
    assert np.abs(counts - 300).max() < 5 * np.sqrt(900 * 2 / 9)


# ---- single architectures -------------------------------------------------------------------------


def test_architecture_round_trip_and_equality() -> None:
    space = chain_space()
    rows = space.enumerate()
    archs = space.architectures(rows)
    assert len(set(archs)) == len({a.key for a in archs}) == len(rows)
    for row, arch in zip(rows, archs, strict=True):
        assert np.array_equal(space.row(arch), row)
        assert space.architecture(row) == arch == space.architecture(arch.to_dict())
        assert pickle.loads(pickle.dumps(arch)).key == arch.key
    assert archs[0] != dict(archs[0])
    assert archs[0].key in repr(archs[0])


def test_architecture_drops_inactive_genes_of_a_mapping_but_checks_them() -> None:
    space = chain_space()
    arch = space.architecture({"depth": 1, "kind": "se", "ratio": 16, "width": 32, "act": True})
    assert arch.to_dict() == {"depth": 1, "act": True}
    with pytest.raises(ValueError, match=r"gene 'ratio' must be one of \[4, 8, 16\], but got 5"):
        space.architecture({"depth": 1, "ratio": 5, "act": True})


def test_smallest_and_largest() -> None:
    space = chain_space()
    assert space.smallest().to_dict() == {"depth": 1, "act": False}
    assert space.largest().to_dict() == {"depth": 3, "kind": "plain", "width": 32, "act": False}
    assert mobile_space().largest()["s4.b3.kernel"] == 7


def test_integer_of_a_text_gene() -> None:
    arch = chain_space().largest()
    assert arch.integer("width") == 32
    with pytest.raises(TypeError, match="gene 'kind' must be numeric, but got 'plain'"):
        arch.integer("kind")


def test_columns_are_values() -> None:
    columns = chain_space().columns(np.array([[2, 1, 2, 3, 1]]))
    assert {name: c.tolist() for name, c in columns.items()} == {
        "depth": [3],
        "kind": ["se"],
        "ratio": [16],
        "width": [32],
        "act": [True],
    }


def test_spaces_compare_pickle_and_have_fingerprints() -> None:
    space = chain_space()
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert hash(again) == hash(space)
    assert again.fingerprint == space.fingerprint
    assert mobile_space().fingerprint != space.fingerprint
    assert "5 genes, 34 architectures" in repr(space)


# ---- row sets -------------------------------------------------------------------------------------


def test_unique_rows_keep_first_appearance_and_not_in_finds_the_rest() -> None:
    rows = np.array([[2, 1], [0, 0], [2, 1], [1, 2], [0, 0]], np.uint8)
    assert unique_rows(rows).tolist() == [[2, 1], [0, 0], [1, 2]]
    assert not_in(rows, np.array([[0, 0]], np.uint8)).tolist() == [True, False, True, True, False]
    assert not_in(rows, np.zeros((0, 2), np.uint8)).all()
    assert row_keys(rows)[0] == row_keys(rows)[2]


@pytest.mark.parametrize("projection", [None, np.ones(6), np.zeros(6)])
def test_not_in_compares_rows_and_not_only_their_projection(
    monkeypatch: pytest.MonkeyPatch, projection: np.ndarray | None
) -> None:
    if projection is not None:  # everything collides
        monkeypatch.setattr(populations, "_projection", lambda n_genes: projection)
    rng = np.random.default_rng(4)
    seen, rows = (rng.integers(0, 3, (n, 6), dtype=np.uint8) for n in (300, 200))
    known = {tuple(row) for row in seen.tolist()}
    assert not_in(rows, seen).tolist() == [tuple(row) not in known for row in rows.tolist()]
    assert not_in(rows[:1], seen).tolist() == [tuple(rows[0].tolist()) not in known]


# ---- messages -------------------------------------------------------------------------------------


def two(**gene) -> SearchSpace:
    return SearchSpace([Gene("a", (1, 2, 3), aliases={2: 1}), Gene("b", (1, 2), **gene)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSpace([]), "a search space must have at least one gene, but got none"),
        (lambda: SearchSpace([Gene("a", (1,)), Gene("a", (2,))]), "gene names must be distinct, but 'a' occurs twice"),
        (
            lambda: SearchSpace([Gene("a", (1,), active_when=(Condition("b", (1,)),)), Gene("b", (1,))]),
            "gene 'a' must be conditioned on earlier genes, but got 'b'",
        ),
        (lambda: two(active_when=(Condition("a", (9,)),)), r"gene 'a' must be one of \[1, 2, 3\], but got 9"),
        (
            lambda: two(active_when=(Condition("a", (2,)),)),
            r"gene 'b': a condition on 'a' must hold alike for 2 and its representative 1, but got \[2\]",
        ),
        (
            lambda: two().canonical(np.zeros((1, 3), int)),
            r"a population must have shape \(n, 2\), but got \(1, 3\)",
        ),
        (lambda: two().canonical(np.zeros(2, np.uint8)), r"must have shape \(n, 2\), but got \(2,\)"),
        (lambda: two().canonical(np.array([[0, 7]])), "choice indices of gene 'b' must be below 2, but got 7"),
        (lambda: two().canonical(np.array([[0.0, 1.0]])), "a population must hold integers, but got float64"),
        (lambda: two().canonical(np.array([[-1, 0]])), "choice indices must not be negative or huge"),
        (lambda: two().canonical(np.array([[300, 0]])), "choice indices must be at most 255, but got 300"),
        (lambda: two().sample(-1, np.random.default_rng(0)), "n must be at least 0, but got -1"),
        (
            lambda: two().mutate(np.zeros((1, 2), np.uint8), np.random.default_rng(0), 1.5),
            r"rate must be in \[0, 1\], but got 1.5",
        ),
        (
            lambda: two().crossover(np.zeros((1, 2), np.uint8), np.zeros((2, 2), np.uint8), np.random.default_rng(0)),
            r"both parents must have one shape, but got \(1, 2\) and \(2, 2\)",
        ),
        (lambda: two().enumerate(limit=3), "a space to be enumerated must have at most 3 architectures, but got 4"),
        (lambda: two().architecture({"a": 1, "bb": 2}), r"genes must be of this space, but got 'bb' \(nearest: 'b'\)"),
        (lambda: two().architecture({"a": 1, "zzz": 2}), "genes must be of this space, but got 'zzz'"),
        (lambda: two().architecture({"a": 1}), "an architecture must give every active gene, but 'b' is missing"),
        (lambda: two().architecture({"a": 1, "b": 3}), r"gene 'b' must be one of \[1, 2\], but got 3"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_too_many_joint_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "MAX_CONDITION_TABLE", 5)
    space = SearchSpace(
        [
            Gene("a", (1, 2, 3)),
            Gene("b", (1, 2)),
            Gene("c", (1, 2), active_when=(Condition("a", (1,)), Condition("b", (1,)))),
        ]
    )
    with pytest.raises(ValueError, match=r"must have at most 5 joint values, but \['a', 'b'\]... have 6"):
        space.size()
