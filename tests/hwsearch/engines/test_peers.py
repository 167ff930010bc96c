"""Optuna's samplers and pymoo's algorithms behind the contract."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.optuna_engine import SAMPLERS, OptunaSampler
from hwsearch.engines.pymoo_engine import ALGORITHMS, PymooAlgorithm
from hwsearch.engines.random_search import RandomSearch
from hwsearch.errors import UserError
from hwsearch.results import History
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, large_space, small_space

pymoo = pytest.importorskip("pymoo")


class TestTPE(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> SearchEngine:
        return OptunaSampler(space, n_objectives=n_objectives, seed=seed, variant="tpe")


class TestUNSGA3(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> SearchEngine:
        return PymooAlgorithm(space, n_objectives=n_objectives, seed=seed, variant="unsga3")


VARIANTS = [(OptunaSampler, name, m) for name in SAMPLERS if name != "gp" for m in (1, 3)]
VARIANTS += [(PymooAlgorithm, name, m) for name in ALGORITHMS for m in (1, 3)] + [(PymooAlgorithm, "cmaes", 1)]
SLOW = [pytest.param(OptunaSampler, "gp", m, marks=pytest.mark.slow) for m in (1, 3)]


@pytest.mark.parametrize(("engine", "variant", "m"), [*VARIANTS, *SLOW])
def test_every_variant_goes_on_from_a_history_with_limits(engine: type[SearchEngine], variant: str, m: int) -> None:
    if variant == "agemoea" and m > 1:
        pytest.importorskip("numba")
    space = small_space()
    rows = space.enumerate()[::2]
    history = finished(space, rows, m)
    history = History.of(rows, history.losses, history.losses[:, :1] - np.median(history.losses[:, 0]))
    made = partial(engine, space, n_objectives=m, variant=variant)  # type: ignore[call-arg]
    proposed = made(seed=1).propose(history, 4)
    EngineContract().check(space, history, proposed, 4)
    assert len(proposed) == 4
    assert (made(seed=1).propose(history, 4) == proposed).all()


@pytest.mark.parametrize(("engine", "variant"), [(OptunaSampler, "tpe"), (PymooAlgorithm, "unsga3")])
def test_better_than_random(engine: type[SearchEngine], variant: str) -> None:
    """Dominated volume after 80 trials of a smooth problem: the mean of 2 seeds beats that of 4 random ones."""
    space = large_space()
    reference = finished(space, space.sample(2000, np.random.default_rng(9))).losses.max(axis=0)

    def volume(made: SearchEngine) -> float:
        history = History.empty(space.n_genes, 2)
        while len(history) < 80:
            rows = made.propose(history, 20)
            history = finished(space, np.concatenate([history.genotypes, rows]))
        return pareto.hypervolume(history.losses, reference)

    ours = [volume(engine(space, n_objectives=2, seed=s, variant=variant)) for s in range(2)]  # type: ignore[call-arg]
    assert np.mean(ours) > np.mean([volume(RandomSearch(space, n_objectives=2, seed=s)) for s in range(4)])


def test_an_algorithm_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise Exception("Please install numba to use AGEMOEA: pip install numba")

    monkeypatch.setattr("hwsearch.engines.pymoo_engine.import_module", broken)
    with pytest.raises(UserError, match=r"needs numba, which is not installed: pip install 'hwsearch\[pymoo\]'"):
        PymooAlgorithm(small_space(), n_objectives=2, variant="agemoea")

    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr("hwsearch.engines.pymoo_engine.import_module", missing)
    with pytest.raises(UserError, match="engine pymoo:<algorithm> needs pymoo, which is not installed"):
        PymooAlgorithm(small_space(), n_objectives=2, variant="agemoea")


def test_settings() -> None:
    space = small_space()
    with pytest.raises(ValueError, match=r"engine optuna:<sampler> must be one of \['tpe', .*, but got 'tpee'"):
        OptunaSampler(space, n_objectives=2, variant="tpee")
    with pytest.raises(ValueError, match=r"engine.population must be at least 2, but got 1"):
        OptunaSampler(space, n_objectives=2, variant="tpe", population=1)
    with pytest.raises(ValueError, match=r"engine pymoo:<algorithm> must be one of \['agemoea', .*, but got 'nsga'"):
        PymooAlgorithm(space, n_objectives=2, variant="nsga")
    with pytest.raises(ValueError, match=r"engine PymooAlgorithm supports at most 1 objectives, but got 2"):
        PymooAlgorithm(space, n_objectives=2, variant="cmaes")
    with pytest.raises(ValueError, match=r"engine.population must be at least 4, but got 3"):
        PymooAlgorithm(space, n_objectives=2, variant="agemoea", population=3)
