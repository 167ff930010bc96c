"""What every search engine must do. A test class inherits it and says how the engine is made."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from hwsearch.engines.base import SearchEngine
from hwsearch.results import History, State
from search_spaces.genes import Condition, Gene
from search_spaces.populations import unique_rows
from search_spaces.space import Population, SearchSpace


def small_space() -> SearchSpace:
    """60 architectures, with conditions and an alias."""
    return SearchSpace(
        [
            Gene("depth", (1, 2)),
            Gene("a", (3, 5, 7)),
            Gene("b", (3, 5, 7), active_when=(Condition("depth", (2,)),)),
            Gene("op", ("conv", "sep", "same-as-conv", "pool"), aliases={"same-as-conv": "conv"}),
            Gene("fixed", ("only",)),
            Gene("c", (True, False)),
        ]
    )


def large_space() -> SearchSpace:
    """45 genes with stages whose depth silences blocks, as in elastic convolutional networks."""
    genes = []
    for stage in range(5):
        genes.append(Gene(f"s{stage}.depth", (2, 3, 4)))
        for block in range(4):
            when = () if block < 2 else (Condition(f"s{stage}.depth", tuple(range(block + 1, 5))),)
            genes.append(Gene(f"s{stage}.b{block}.kernel", (3, 5, 7), active_when=when))
            genes.append(Gene(f"s{stage}.b{block}.expand", (3, 4, 6), active_when=when))
    return SearchSpace(genes)


def toy_losses(space: SearchSpace, population: Population, n_objectives: int) -> NDArray[np.float64]:
    """(n, m): additive in the active genes; the first objective falls and the others rise with the choice index."""
    rng = np.random.default_rng(7)
    active = space.active(population)
    columns = []
    for j in range(n_objectives):
        weights = rng.random(space.n_genes) + 0.2
        total = ((population + 1.0) * weights * active).sum(axis=1)
        columns.append(50.0 / total if j == 0 else total)
    return np.stack(columns, axis=1)


def frozen(history: History) -> History:
    """The same history with arrays that raise when written to."""
    for array in (history.genotypes, history.losses, history.violations, history.state, history.stds):
        array.flags.writeable = False
    return history


def finished(space: SearchSpace, genotypes: Population, n_objectives: int = 2) -> History:
    return frozen(History.of(genotypes.copy(), toy_losses(space, genotypes, n_objectives)))


PROPOSES = """
import pickle, sys
while True:
    try:
        engine, history = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(engine.propose(history, 5), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


@cache
def other_process() -> subprocess.Popen[bytes]:
    """A process with another hash seed that proposes for all engines' tests.

    One for all, because most of the time of such a process goes into its imports. It ends with this one.
    """
    env = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", PROPOSES], stdin=pipe, stdout=pipe, env=env)


class EngineContract:
    """Inherit, and define `make`."""

    n_grown = 24
    """How many trials the test of interrupted runs goes on for: more than the engine starts with."""

    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> SearchEngine:
        raise NotImplementedError

    def large(self) -> SearchSpace:
        """The space of most tests; engines for small spaces bring one of at least 10,100 architectures."""
        return large_space()

    # -- helpers -------------------------------------------------------------------------------------

    def check(self, space: SearchSpace, history: History, proposed: Population, count: int) -> None:
        assert isinstance(proposed, np.ndarray)
        assert proposed.dtype == np.uint8
        assert proposed.ndim == 2
        assert proposed.shape[1] == space.n_genes
        assert len(proposed) <= count
        assert (space.canonical(proposed) == proposed).all()
        assert len(unique_rows(np.concatenate([history.genotypes, proposed]))) == len(history) + len(proposed)

    def grow(
        self, space: SearchSpace, n: int, *, n_objectives: int = 2, count: int = 1, fresh_engine: bool = False
    ) -> History:
        """History after `n` trials; the engine is made anew for every call if `fresh_engine`."""
        engine = self.make(space, n_objectives=n_objectives)
        history = History.empty(space.n_genes, n_objectives)
        while len(history) < n:
            if fresh_engine:
                engine = self.make(space, n_objectives=n_objectives)
            rows = engine.propose(frozen(history), min(count, n - len(history)))
            assert len(rows)
            history = finished(space, np.concatenate([history.genotypes, rows]), n_objectives)
        return history

    # -- the contract --------------------------------------------------------------------------------

    @pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
    def test_distinct_canonical_inside(self, n_objectives: int) -> None:
        space = self.large()
        engine = self.make(space, n_objectives=1)
        if engine.max_objectives is not None and n_objectives > engine.max_objectives:
            with pytest.raises(ValueError, match="supports at most"):
                self.make(space, n_objectives=n_objectives)
            return
        engine = self.make(space, n_objectives=n_objectives)
        history = frozen(History.empty(space.n_genes, n_objectives))
        for count in (1, 7, 24, 3):
            proposed = engine.propose(history, count)
            assert len(proposed) == count
            self.check(space, history, proposed, count)
            history = finished(space, np.concatenate([history.genotypes, proposed]), n_objectives)

    def test_zero_objectives_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="n_objectives must be at least 1, but got 0"):
            self.make(small_space(), n_objectives=0)

    def test_pure(self) -> None:
        space = self.large()
        rows = unique_rows(space.sample(40, np.random.default_rng(1)))
        history = finished(space, rows)
        engine = self.make(space)
        first = engine.propose(history, 6)
        engine.propose(finished(space, rows[:30]), 3)
        assert (engine.propose(history, 6) == first).all()
        assert (self.make(space).propose(history, 6) == first).all()

    def test_seed_matters(self) -> None:
        space = self.large()
        history = frozen(History.empty(space.n_genes, 2))
        a = self.make(space, seed=1).propose(history, 20)
        b = self.make(space, seed=2).propose(history, 20)
        assert a.shape != b.shape or (a != b).any()

    def test_same_answer_in_another_process(self) -> None:
        space = self.large()
        history = finished(space, unique_rows(space.sample(40, np.random.default_rng(2))))
        expected = self.make(space).propose(history, 5)
        other = other_process()
        assert other.stdin is not None and other.stdout is not None
        pickle.dump((self.make(space), history), other.stdin)
        other.stdin.flush()
        assert (pickle.load(other.stdout) == expected).all()

    def test_interrupted_equals_uninterrupted(self) -> None:
        space = self.large()
        once = self.grow(space, self.n_grown)
        again = self.grow(space, self.n_grown, fresh_engine=True)
        assert (once.genotypes == again.genotypes).all()

    @pytest.mark.parametrize("count", [1, 8])
    def test_exhausted_space_ends(self, count: int) -> None:
        space = small_space()
        engine = self.make(space)
        # One by one only the last few: model-based engines need their time for every call.
        known = 24 if count > 1 else 54
        history = finished(space, space.enumerate()[np.random.default_rng(1).permutation(space.size())[:known]])
        for _ in range(space.size() + 1):
            proposed = engine.propose(history, count)
            self.check(space, history, proposed, count)
            if len(proposed) < count:
                break
            history = finished(space, np.concatenate([history.genotypes, proposed]))
        history = finished(space, np.concatenate([history.genotypes, proposed]))
        assert len(history) == space.size()
        assert len(engine.propose(history, count)) == 0

    def test_more_wanted_than_there_is(self) -> None:
        space = small_space()
        history = frozen(History.empty(space.n_genes, 2))
        assert len(self.make(space).propose(history, 10 * space.size())) == space.size()

    def test_running_and_failed_are_not_proposed_again(self) -> None:
        space = small_space()
        rows = space.enumerate()
        state = np.full(len(rows), State.FINISHED, np.int8)
        state[::3] = State.RUNNING
        state[1::3] = State.FAILED
        losses = toy_losses(space, rows, 2)
        losses[state != State.FINISHED] = np.nan
        left = np.array([4, 9, 20])
        known = np.setdiff1d(np.arange(len(rows)), left)
        history = frozen(History.of(rows, losses, state=state).only(known))
        proposed = self.make(space).propose(history, 8)
        self.check(space, history, proposed, 8)
        assert {r.tobytes() for r in proposed} == {r.tobytes() for r in rows[left]}

    @pytest.mark.parametrize("state", [State.RUNNING, State.FAILED])
    def test_history_without_any_result(self, state: State) -> None:
        space = self.large()
        rows = unique_rows(space.sample(50, np.random.default_rng(3)))
        history = frozen(History.of(rows, np.full((50, 2), np.nan), state=np.full(50, state, np.int8)))
        proposed = self.make(space).propose(history, 4)
        assert len(proposed) == 4
        self.check(space, history, proposed, 4)

    def test_missing_labels(self) -> None:
        space = self.large()
        rows = unique_rows(space.sample(60, np.random.default_rng(4)))
        losses = toy_losses(space, rows, 2)
        losses[::4, 0] = np.nan
        losses[1::4, 1] = np.nan
        losses[2, 0] = np.inf
        history = frozen(History.of(rows, losses))
        proposed = self.make(space).propose(history, 4)
        assert len(proposed) == 4
        self.check(space, history, proposed, 4)

    def test_constant_losses(self) -> None:
        space = self.large()
        rows = unique_rows(space.sample(40, np.random.default_rng(5)))
        history = frozen(History.of(rows, np.ones((len(rows), 2))))
        proposed = self.make(space).propose(history, 4)
        assert len(proposed) == 4
        self.check(space, history, proposed, 4)

    @pytest.mark.parametrize("n_kept", [0, 1, 20])
    def test_limits(self, n_kept: int) -> None:
        space = self.large()
        rows = unique_rows(space.sample(40, np.random.default_rng(6)))
        excess = np.random.default_rng(0).random((len(rows), 2)) + 0.1
        excess[:n_kept] = 0.0
        excess[-1, 0] = np.nan
        history = frozen(History.of(rows, toy_losses(space, rows, 2), excess))
        proposed = self.make(space).propose(history, 4)
        assert len(proposed) == 4
        self.check(space, history, proposed, 4)

    def test_long_history(self) -> None:
        space = self.large()
        rows = unique_rows(space.sample(10_000, np.random.default_rng(8)))
        history = finished(space, rows)
        proposed = self.make(space).propose(history, 8)
        assert len(proposed) == 8
        self.check(space, history, proposed, 8)
