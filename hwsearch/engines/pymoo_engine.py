"""pymoo's algorithms as search engines: peers behind the same contract (extra `pymoo`)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, fresh_samples, usable
from hwsearch.engines.nsga3 import reference_directions
from hwsearch.engines.selection import survivors
from hwsearch.errors import missing_extra
from hwsearch.results import History
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

ALGORITHMS = {
    "agemoea": "pymoo.algorithms.moo.age:AGEMOEA",
    "moead": "pymoo.algorithms.moo.moead:ParallelMOEAD",
    "ctaea": "pymoo.algorithms.moo.ctaea:CTAEA",
    "unsga3": "pymoo.algorithms.moo.unsga3:UNSGA3",
    "nsga2": "pymoo.algorithms.moo.nsga2:NSGA2",
}
WITH_DIRECTIONS = frozenset({"moead", "ctaea", "unsga3"})
MAX_GENERATIONS = 50
"""How many generations are played again in a call; what is older enters as its survivors."""


class PymooAlgorithm(SearchEngine):
    """A genetic algorithm of pymoo with integer operators, for any number of objectives and limits; or CMA-ES.

    Every call plays the history again, in generations of `population` trials in proposal order, whatever the algorithm
    itself would have proposed; then it is asked. With one objective all of them are pymoo's GA, but CMA-ES (on choice
    indices as numbers, one objective only) stays itself.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        variant: `agemoea`, `moead`, `ctaea`, `unsga3`, `nsga2` or `cmaes`.
        population: trials of a generation; the first are random.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        variant: str,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 20,
    ) -> None:
        if variant == "cmaes":
            self.max_objectives = 1
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        known = [*ALGORITHMS, "cmaes"]
        if variant not in known:
            raise ValueError(f"engine pymoo:<algorithm> must be one of {known}, but got {variant!r}.")
        if population < 4:
            raise ValueError(f"engine.population must be at least 4, but got {population}.")
        self.variant, self.population = variant, population
        _imported("pymoo.core.problem")

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random ones at first, then what the algorithm asks for."""
        rng = self.rng(history)
        done = usable(history)
        size = self._size
        n_random = count if len(done) < size else min(count, max(0, size - len(history)))
        chosen = fresh_samples(self.space, history.genotypes, n_random, rng)
        if n_random < count:
            seen = np.concatenate([history.genotypes, chosen])
            ask = self._cmaes if self.variant == "cmaes" else self._genetic
            chosen = np.concatenate([chosen, ask(done, seen, count - n_random, rng)])
        seen = np.concatenate([history.genotypes, chosen])
        return np.concatenate([chosen, fresh_samples(self.space, seen, count - len(chosen), rng)])

    @property
    def _size(self) -> int:
        """How many trials a generation has: algorithms with reference directions have one per direction."""
        if self.variant in WITH_DIRECTIONS and self.n_objectives > 1:
            return max(4, len(reference_directions(self.n_objectives, self.population)))
        return self.population

    def _generations(self, done: History) -> list[History]:
        """Returns the trials in whole generations, the best of what is too old as the first of them."""
        size = self._size
        extra = len(done) - MAX_GENERATIONS * size
        chunks: list[History] = []
        if extra > 0:
            old = done.only(np.arange(extra))
            if extra >= size:
                chunks.append(old.only(survivors(old.losses, old.violations, size)[0]))
            done = done.only(np.arange(extra, len(done)))
        starts = range(0, len(done) - size + 1, size)
        return [*chunks, *(done.only(np.arange(a, a + size)) for a in starts)]

    def _genetic(self, done: History, seen: Population, count: int, rng: np.random.Generator) -> Population:
        population = _imported("pymoo.core.population").Population
        space, m, n_limits = self.space, self.n_objectives, done.violations.shape[1]
        # MOEA/D and the GA's peers differ in limits; where there are none in pymoo, passing them counts as bad losses.
        penalised = n_limits > 0 and self.variant == "moead"
        problem = _imported("pymoo.core.problem").Problem(
            n_var=space.n_genes,
            n_obj=m,
            n_ieq_constr=0 if penalised else n_limits,
            xl=np.zeros(space.n_genes),
            xu=np.maximum(space.n_choices - 1.0, 1e-9),
        )
        algorithm = self._algorithm(rng)
        algorithm.setup(problem, seed=int(rng.integers(2**31)), termination=("n_gen", 10**9), verbose=False)
        generations = self._generations(done)
        total = pareto.total_violation(done.violations)
        largest = 1.0 + total[np.isfinite(total)].max(initial=0.0)
        worst, scale = done.losses.max(axis=0), np.maximum(np.ptp(done.losses, axis=0), 1e-9)
        for part in generations:
            algorithm.infill()
            losses = part.losses
            if penalised:
                own = np.minimum(pareto.total_violation(part.violations), largest)
                losses = np.where(own[:, None] > 0, worst + scale * own[:, None], losses)
            told = population.new(X=part.genotypes.astype(float))
            told.set("F", losses)
            if n_limits and not penalised:
                told.set("G", np.nan_to_num(part.violations, nan=1e9))
            for one in told:
                one.evaluated.update({"F", "G", "H"})
            algorithm.advance(infills=told)
        new = seen[:0]
        for _ in range(20):
            asked = algorithm.infill().get("X")
            rows = space.canonical(np.clip(np.rint(asked), 0, space.n_choices - 1).astype(np.uint8))
            new = unique_rows(np.concatenate([new, rows]))
            new = new[not_in(new, seen)]
            if len(new) >= count:
                break
        return new[:count]

    def _algorithm(self, rng: np.random.Generator) -> Any:
        operators = _operators(self.space, rng)
        settings: dict[str, Any] = {"crossover": operators[0], "mutation": operators[1], "sampling": operators[2]}
        if self.n_objectives == 1:
            return _imported("pymoo.algorithms.soo.nonconvex.ga").GA(pop_size=self.population, **settings)
        module, _, name = ALGORITHMS[self.variant].partition(":")
        make = getattr(_imported(module), name)
        if self.variant not in WITH_DIRECTIONS:
            return make(pop_size=self.population, **settings)
        directions = reference_directions(self.n_objectives, self.population)
        if len(directions) < 4:
            directions = reference_directions(self.n_objectives, 4 * self.n_objectives)
        return make(ref_dirs=directions, **settings)

    def _cmaes(self, done: History, seen: Population, count: int, rng: np.random.Generator) -> Population:
        """Returns proposals of CMA-ES (Hansen 2016) on choice indices scaled to [0, 1]."""
        cma = _imported("cma")
        high = np.maximum(self.space.n_choices - 1.0, 1.0)
        seed = int(rng.integers(1, 2**31))
        options = {"seed": seed, "popsize": self.population, "bounds": [-0.1, 1.1], "verbose": -9, "verb_log": 0}
        # cma sets NumPy's global generator; nobody else may notice.
        state = np.random.get_state()  # noqa: NPY002
        try:
            strategy = cma.CMAEvolutionStrategy(np.full(self.space.n_genes, 0.5), 0.3, options)
            for part in self._generations(done):
                rows = list(part.genotypes / high)
                strategy.ask()
                ranks = pareto.constrained_ranks(part.losses, part.violations).astype(float)
                strategy.tell(rows, ranks.tolist())
            new = seen[:0]
            for _ in range(20):
                asked = np.rint(np.clip(np.array(strategy.ask()), 0.0, 1.0) * high).astype(np.uint8)
                rows_new = self.space.canonical(np.minimum(asked, self.space.n_choices - 1).astype(np.uint8))
                new = unique_rows(np.concatenate([new, rows_new]))
                new = new[not_in(new, seen)]
                if len(new) >= count:
                    break
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return new[:count]


def _operators(space: SearchSpace, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Returns crossover, mutation and sampling of a space for pymoo, whose own mutation leaves small integers alone."""
    crossover_base = _imported("pymoo.core.crossover").Crossover
    mutation_base = _imported("pymoo.core.mutation").Mutation
    sampling_base = _imported("pymoo.core.sampling").Sampling

    class Cross(crossover_base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(2, 2, prob=0.9)

        def _do(self, _problem: Any, parents: Any, *_: Any, **__: Any) -> Any:  # the signature is pymoo's
            a, b = (np.rint(x).astype(np.uint8) for x in parents)
            return np.stack([space.crossover(a, b, rng), space.crossover(b, a, rng)]).astype(float)

    class Mutate(mutation_base):  # type: ignore[misc, valid-type]
        def _do(self, _problem: Any, rows: Any, *_: Any, **__: Any) -> Any:
            return space.mutate(np.rint(rows).astype(np.uint8), rng, 1.0 / space.n_genes).astype(float)

    class Sample(sampling_base):  # type: ignore[misc, valid-type]
        def _do(self, _problem: Any, n: int, *_: Any, **__: Any) -> Any:
            return space.sample(n, rng).astype(float)

    return Cross(), Mutate(), Sample()


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(module.partition(".")[0], "pymoo", "engine pymoo:<algorithm>") from error
    except Exception as error:  # pymoo raises the bare class where numba is missing
        if "numba" not in str(error):
            raise
        raise missing_extra("numba", "pymoo", f"engine pymoo:{module.rpartition('.')[2]}") from error
