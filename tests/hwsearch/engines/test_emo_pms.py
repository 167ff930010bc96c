from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.emo_pms import EmoPms
from hwsearch.engines.nsga2 import NSGA2
from hwsearch.results import History
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, small_space, toy_losses


class TestEmoPms(EngineContract):
    n_grown = 44

    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> EmoPms:
        return EmoPms(space, n_objectives=n_objectives, seed=seed)


def test_three_hundred_genes() -> None:
    """Dominated volume after 120 trials of an additive problem: the worst of 2 seeds beats NSGA-II's best of 4."""
    genes = [Gene(f"layer{i}.width", (1, 2, 3, 4)) for i in range(300)]
    space = SearchSpace(genes)
    reference = toy_losses(space, space.sample(500, np.random.default_rng(0)), 2).max(axis=0) * 1.5

    def volume(engine: SearchEngine) -> float:
        history = History.empty(300, 2)
        while len(history) < 120:
            rows = engine.propose(history, 20)
            history = finished(space, np.concatenate([history.genotypes, rows]))
        return pareto.hypervolume(history.losses, reference)

    ours = min(volume(EmoPms(space, n_objectives=2, seed=s)) for s in range(2))
    assert ours > max(volume(NSGA2(space, n_objectives=2, seed=s)) for s in range(4))


def test_parts_cover_the_genotype_and_keep_their_own_conditions() -> None:
    genes = [Gene("depth", (1, 2))]
    genes += [Gene(f"layer{i}", (1, 2), active_when=(Condition("depth", (2,)),)) for i in range(5)]
    engine = EmoPms(SearchSpace(genes), n_objectives=2, part=3)
    assert [part.n_genes for part in engine.parts] == [3, 3]
    assert [len(g.active_when) for part in engine.parts for g in part.genes] == [0, 1, 1, 0, 0, 0]


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"engine.part must be at least 2, but got 1"):
        EmoPms(small_space(), n_objectives=2, part=1)
    with pytest.raises(ValueError, match=r"engine.initial must be at least 4, but got 3"):
        EmoPms(small_space(), n_objectives=2, initial=3)
