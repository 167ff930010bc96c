from __future__ import annotations

from hwsearch.engines.pareto_search import ParetoSearch
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract


class TestParetoSearch(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> ParetoSearch:
        return ParetoSearch(space, n_objectives=n_objectives, seed=seed)
