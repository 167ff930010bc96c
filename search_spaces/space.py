"""SearchSpace: genes in a fixed order, and vectorised operations on populations of genotypes."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.genes import Condition, Gene, Value
from search_spaces.populations import Population as Population  # who asks for a space asks for these
from search_spaces.populations import unique_rows

MAX_CONDITION_TABLE = 1_000_000


@dataclass(frozen=True)
class _Group:
    """Genes that share their conditions: one mask serves all their columns."""

    parents: tuple[int, ...]
    tables: tuple[NDArray[np.bool_], ...]  # per parent: choice index -> condition holds
    columns: NDArray[np.intp]

    def active(self, population: Population) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.tables[0][population[:, self.parents[0]]]
        for parent, table in zip(self.parents[1:], self.tables[1:], strict=True):
            mask = mask & table[population[:, parent]]
        return mask


@dataclass(frozen=True)
class _Component:
    """A connected set of conditioning genes: every canonical assignment, with its number of completions."""

    columns: NDArray[np.intp]
    assignments: Population  # (a, len(columns))
    weights: tuple[int, ...]  # exact


class SearchSpace:
    """An ordered set of genes; knows nothing of torch.

    A genotype is a row of choice indices. It is *canonical* when every inactive gene holds its first choice
    and every alias its representative; equal networks then have equal rows. All methods that return
    populations return canonical ones.

    Args:
        genes: in order; a gene's conditions name earlier genes only.

    Raises:
        ValueError: duplicate names; a condition on an unknown or later gene, on an impossible value, or on an alias
            without its representative.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        self.genes = tuple(genes)
        if not self.genes:
            raise ValueError("a search space must have at least one gene, but got none.")
        self.index: dict[str, int] = {}
        for position, gene in enumerate(self.genes):
            if gene.name in self.index:
                raise ValueError(f"gene names must be distinct, but {gene.name!r} occurs twice.")
            for condition in gene.active_when:
                if condition.gene not in self.index:
                    raise ValueError(
                        f"gene {gene.name!r} must be conditioned on earlier genes, but got {condition.gene!r}."
                    )
                parent = self.genes[self.index[condition.gene]]
                wanted = {parent.index(value) for value in condition.values}
                for alias, target in parent.aliases.items():
                    if (parent.index(alias) in wanted) != (parent.index(target) in wanted):
                        raise ValueError(
                            f"gene {gene.name!r}: a condition on {parent.name!r} must hold alike for {alias!r} and its "
                            f"representative {target!r}, but got {list(condition.values)}."
                        )
            self.index[gene.name] = position
        self.n_genes = len(self.genes)
        self.n_choices: NDArray[np.intp] = np.array([len(g.choices) for g in self.genes])

    def __reduce__(self) -> tuple[object, ...]:
        return SearchSpace, (self.genes,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.genes == other.genes

    def __hash__(self) -> int:
        return hash(self.genes)

    def __repr__(self) -> str:
        return f"SearchSpace({self.n_genes} genes, {Decimal(self.size()):.3g} architectures)"

    # -- structure -----------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """A stable 16-digit hexadecimal digest of all genes, choices, conditions and aliases."""
        table = [
            [g.name, g.choices, [[c.gene, c.values] for c in g.active_when], sorted(g.aliases.items(), key=repr)]
            for g in self.genes
        ]
        return hashlib.sha256(json.dumps(table, separators=(",", ":")).encode()).hexdigest()[:16]

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        """Genes grouped by identical conditions, in an order in which parents come before children."""
        by_conditions: dict[tuple[tuple[Condition, ...], int], list[int]] = defaultdict(list)
        level: list[int] = []
        for position, gene in enumerate(self.genes):
            parents = [self.index[c.gene] for c in gene.active_when]
            level.append(1 + max((level[p] for p in parents), default=-1))
            if parents:
                by_conditions[gene.active_when, level[position]].append(position)
        groups = []
        for (conditions, _), columns in sorted(by_conditions.items(), key=lambda item: item[0][1]):
            tables = []
            for condition in conditions:
                gene = self.genes[self.index[condition.gene]]
                wanted = {gene.index(v) for v in condition.values}
                tables.append(np.array([i in wanted for i in range(len(gene.choices))]))
            names = tuple(self.index[c.gene] for c in conditions)
            # A parent that is itself inactive makes its children inactive: also require the parent's parents.
            extra_parents, extra_tables = self._ancestors(names)
            groups.append(_Group(names + extra_parents, tuple(tables) + extra_tables, np.array(columns, dtype=np.intp)))
        return tuple(groups)

    def _ancestors(self, parents: Sequence[int]) -> tuple[tuple[int, ...], tuple[NDArray[np.bool_], ...]]:
        found: list[int] = []
        tables: list[NDArray[np.bool_]] = []
        queue = list(parents)
        while queue:
            gene = self.genes[queue.pop()]
            for condition in gene.active_when:
                parent = self.index[condition.gene]
                wanted = {self.genes[parent].index(v) for v in condition.values}
                found.append(parent)
                tables.append(np.array([i in wanted for i in range(len(self.genes[parent].choices))]))
                queue.append(parent)
        return tuple(found), tuple(tables)

    @cached_property
    def _alias_tables(self) -> tuple[tuple[int, NDArray[np.uint8]], ...]:
        tables = []
        for position, gene in enumerate(self.genes):
            if gene.aliases:
                table = [gene.index(gene.aliases.get(choice, choice)) for choice in gene.choices]
                tables.append((position, np.array(table, dtype=np.uint8)))
        return tuple(tables)

    @cached_property
    def _representatives(self) -> tuple[NDArray[np.uint8], ...]:
        return tuple(np.array(g.representatives(), dtype=np.uint8) for g in self.genes)

    @cached_property
    def _components(self) -> tuple[_Component, ...]:
        """Every canonical assignment of the conditioning genes, per connected component, with exact counts."""
        conditioning = {self.index[c.gene] for g in self.genes for c in g.active_when}
        root = list(range(self.n_genes))

        def find(i: int) -> int:
            while root[i] != i:
                root[i] = root[root[i]]
                i = root[i]
            return i

        for position, gene in enumerate(self.genes):
            parents = [self.index[c.gene] for c in gene.active_when]
            if position in conditioning:
                parents.append(position)
            for other in parents[1:]:
                root[find(other)] = find(parents[0])
        members: dict[int, list[int]] = defaultdict(list)
        for position in sorted(conditioning):
            members[find(position)].append(position)
        leaves: dict[int, list[int]] = defaultdict(list)
        for position, gene in enumerate(self.genes):
            if gene.active_when and position not in conditioning:
                leaves[find(self.index[gene.active_when[0].gene])].append(position)

        components = []
        for key, columns in members.items():
            count = prod(len(self._representatives[c]) for c in columns)
            if count > MAX_CONDITION_TABLE:
                raise ValueError(
                    f"genes that condition one another must have at most {MAX_CONDITION_TABLE:,} joint values, "
                    f"but {[self.genes[c].name for c in columns[:4]]}... have {count:,}."
                )
            grids = np.meshgrid(*[self._representatives[c] for c in columns], indexing="ij")
            rows = np.zeros((count, self.n_genes), dtype=np.uint8)
            rows[:, columns] = np.stack([grid.ravel() for grid in grids], axis=1)
            rows = unique_rows(self.canonical(rows))
            active = self.active(rows)
            weights = [1] * len(rows)
            for leaf in leaves[key]:
                n_choices = len(self._representatives[leaf])
                for i in np.flatnonzero(active[:, leaf]):
                    weights[i] *= n_choices
            components.append(_Component(np.array(columns, dtype=np.intp), rows[:, columns], tuple(weights)))
        return tuple(components)

    @cached_property
    def _conditioning(self) -> frozenset[int]:
        return frozenset(int(c) for component in self._components for c in component.columns)

    def size(self) -> int:
        """Returns the exact number of distinct canonical architectures."""
        free = prod(
            len(self._representatives[i])
            for i, gene in enumerate(self.genes)
            if not gene.active_when and i not in self._conditioning
        )
        return free * prod(sum(component.weights) for component in self._components)

    # -- populations ---------------------------------------------------------------------------------

    def active(self, population: Population) -> NDArray[np.bool_]:
        """Returns which genes matter, shape (n, g), for a population that need not be canonical."""
        population = self._rows(population)
        mask = np.ones(population.shape, dtype=bool)
        for group in self._groups:
            mask[:, group.columns] = group.active(population)[:, None]
        return mask

    def canonical(self, population: Population) -> Population:
        """Returns the canonical rows of the same networks, shape (n, g).

        Raises:
            ValueError: a choice index outside its gene, or not g columns.
        """
        population = self._rows(population).copy()
        if population.size and (population.max(axis=0) >= self.n_choices).any():
            column = int(np.flatnonzero(population.max(axis=0) >= self.n_choices)[0])
            raise ValueError(
                f"choice indices of gene {self.genes[column].name!r} must be below {self.n_choices[column]}, "
                f"but got {population[:, column].max()}."
            )
        for column, table in self._alias_tables:
            population[:, column] = table[population[:, column]]
        self._silence(population)
        return population

    def _silence(self, population: Population) -> None:
        """Sets inactive genes to their first choice, in place."""
        for group in self._groups:
            mask = group.active(population).view(np.uint8)
            for column in group.columns:
                population[:, column] *= mask

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        """Returns `n` architectures drawn uniformly from the distinct ones, with replacement, shape (n, g).

        Uniform over architectures, not genotypes: an assignment of the conditioning genes is drawn with
        probability proportional to its exact number of completions, the other genes uniformly.
        """
        population = self._fill(n, rng)
        for component in self._components:
            total = sum(component.weights)
            edges = np.cumsum([w / total for w in component.weights])
            edges[-1] = 1.0
            drawn = np.searchsorted(edges, rng.random(n), side="right")
            population[:, component.columns] = component.assignments[drawn]
        self._silence(population)
        return population

    def _fill(self, n: int, rng: np.random.Generator) -> Population:
        """Returns uniform representatives for every gene, ignoring conditions."""
        if n < 0:
            raise ValueError(f"n must be at least 0, but got {n}.")
        n_representatives = np.array([len(r) for r in self._representatives])
        if (n_representatives == n_representatives[0]).all():
            population = rng.integers(0, int(n_representatives[0]), (n, self.n_genes), dtype=np.uint8)
        else:
            population = np.empty((n, self.n_genes), dtype=np.uint8)
            for count in np.unique(n_representatives):
                columns = np.flatnonzero(n_representatives == count)
                population[:, columns] = rng.integers(0, int(count), (n, len(columns)), dtype=np.uint8)
        for column, _ in self._alias_tables:
            population[:, column] = self._representatives[column][population[:, column]]
        return population

    def mutate(self, population: Population, rng: np.random.Generator, rate: float) -> Population:
        """Returns a mutated copy, shape (n, g): each gene is reset with probability `rate` to another choice.

        Every mutable row changes in at least one active gene with more than one choice. Genes that wake up because
        of a mutation take random choices.
        """
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate must be in [0, 1], but got {rate}.")
        parents = self._rows(population)
        child = parents.copy()
        if not len(child):
            return child
        active = self.active(parents)
        usable = active & self._mutable
        hits = _bernoulli(child.size, rate, rng)
        rows, columns = np.divmod(hits, self.n_genes)
        # One forced gene, among those that are active and have a second choice, for every row without a usable hit.
        still = np.ones(len(child), dtype=bool)
        still[rows[usable[rows, columns]]] = False
        still = np.flatnonzero(still)
        ticket = rng.integers(0, 1 << 16, (len(still), self.n_genes), dtype=np.uint16) | np.uint16(1)
        ticket *= usable[still]
        forced = ticket.argmax(axis=1)
        can = ticket[np.arange(len(still)), forced] > 0
        rows = np.concatenate([rows, still[can]])
        columns = np.concatenate([columns, forced[can]])
        keep = self._mutable[columns]
        rows, columns = rows[keep], columns[keep]
        if self._groups:
            # Only where a conditioning gene changes can others wake up: there, inactive genes become random first.
            waking = np.zeros(len(child), dtype=bool)
            waking[rows[np.isin(columns, list(self._conditioning))]] = True
            waking = np.flatnonzero(waking)
            random = self._fill(len(waking), rng)
            child[waking] = random ^ ((random ^ child[waking]) & (0 - active[waking].view(np.uint8)))
        n_representatives = self._n_representatives[columns]
        step = 1 + (rng.random(len(columns)) * (n_representatives - 1)).astype(np.intp)
        place = (self._places[columns, child[rows, columns]] + step) % n_representatives
        child[rows, columns] = self._representative_table[columns, place]
        self._silence(child)
        return child

    @cached_property
    def _n_representatives(self) -> NDArray[np.intp]:
        return np.array([len(r) for r in self._representatives])

    @cached_property
    def _mutable(self) -> NDArray[np.bool_]:
        return np.asarray(self._n_representatives > 1)

    @cached_property
    def _representative_table(self) -> NDArray[np.uint8]:
        """(g, largest number of choices): the representatives of every gene, padded with the first."""
        table = np.zeros((self.n_genes, int(self.n_choices.max())), dtype=np.uint8)
        for column, choices in enumerate(self._representatives):
            table[column, : len(choices)] = choices
        return table

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        """(g, largest number of choices): of every representative, its place among them."""
        table = np.zeros((self.n_genes, int(self.n_choices.max())), dtype=np.intp)
        for column, choices in enumerate(self._representatives):
            table[column, choices] = np.arange(len(choices))
        return table

    def crossover(self, a: Population, b: Population, rng: np.random.Generator) -> Population:
        """Returns one child per pair of rows, shape (n, g): each gene from either parent with equal chance.

        A gene that matters in only one parent comes from that parent.
        """
        a, b = self._rows(a), self._rows(b)
        if a.shape != b.shape:
            raise ValueError(f"both parents must have one shape, but got {a.shape} and {b.shape}.")
        # Bit operations instead of np.where: on random masks of bytes they are ten times faster.
        take_a = rng.integers(0, 2, a.shape, dtype=np.uint8)
        if self._groups:
            active_a, active_b = self.active(a).view(np.uint8), self.active(b).view(np.uint8)
            take_a = (take_a & ~(active_a ^ active_b)) | (active_a & ~active_b)
        child = b ^ ((a ^ b) & (0 - take_a))
        self._silence(child)
        return child

    def enumerate(self, limit: int = 1_000_000) -> Population:
        """Returns every architecture once, in lexicographic order of rows, shape (size, g).

        Raises:
            ValueError: the space has more than `limit` architectures.
        """
        size = self.size()
        if size > limit:
            raise ValueError(f"a space to be enumerated must have at most {limit:,} architectures, but got {size:,}.")
        rows = np.zeros((1, self.n_genes), dtype=np.uint8)
        for component in self._components:
            rows = np.repeat(rows, len(component.assignments), axis=0)
            rows[:, component.columns] = np.tile(component.assignments, (len(rows) // len(component.assignments), 1))
        for column in range(self.n_genes):
            if column in self._conditioning:
                continue
            choices = self._representatives[column]
            active = self.active(rows)[:, column]
            repeats = np.where(active, len(choices), 1)
            position = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            rows = np.repeat(rows, repeats, axis=0)
            rows[:, column] = np.where(np.repeat(active, repeats), choices[position], 0)
        return rows[np.lexsort(rows.T[::-1])]

    # -- single architectures ------------------------------------------------------------------------

    def smallest(self) -> Architecture:
        """Returns the architecture whose genes all hold their smallest choice (numbers) or first choice."""
        return self._extreme(min)

    def largest(self) -> Architecture:
        """Returns the architecture whose numeric genes hold their largest choice; other genes their first."""
        return self._extreme(max)

    def _extreme(self, pick: Callable[[tuple[Value, ...]], Value]) -> Architecture:
        row = np.zeros((1, self.n_genes), dtype=np.uint8)
        for position, gene in enumerate(self.genes):
            if not isinstance(gene.choices[0], str | bool):
                row[0, position] = gene.index(pick(gene.choices))
        return self.architecture(row[0])

    def architecture(self, source: NDArray[np.uint8] | Mapping[str, Value]) -> Architecture:
        """Returns the canonical architecture of a genotype row (g,) or of a mapping of genes to values.

        A mapping must hold every active gene; it may hold inactive ones, which are checked and dropped.

        Raises:
            ValueError: unknown gene, missing active gene, value that is no choice, or a bad row.
        """
        row = self.row(source)
        active = self.active(row[None])[0]
        return Architecture(
            {gene.name: gene.choices[row[i]] for i, gene in enumerate(self.genes) if active[i]},
        )

    def architectures(self, population: Population) -> list[Architecture]:
        """Returns one architecture per row of a population (n, g)."""
        rows = self.canonical(population)
        active = self.active(rows)
        return [
            Architecture({g.name: g.choices[row[i]] for i, g in enumerate(self.genes) if mask[i]})
            for row, mask in zip(rows, active, strict=True)
        ]

    def row(self, source: NDArray[np.uint8] | Mapping[str, Value]) -> NDArray[np.uint8]:
        """Returns the canonical genotype row (g,) of an architecture, a mapping or a row. Raises as `architecture`."""
        if not isinstance(source, Mapping):
            given: NDArray[np.uint8] = self.canonical(np.asarray(source)[None])[0]
            return given
        unknown = [name for name in source if name not in self.index]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), self.index, n=1)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise ValueError(f"genes must be of this space, but got {unknown[0]!r}{hint}.")
        row = np.zeros(self.n_genes, dtype=np.uint8)
        for name, value in source.items():
            row[self.index[name]] = self.genes[self.index[name]].index(value)
        canonical: NDArray[np.uint8] = self.canonical(row[None])[0]
        active = self.active(canonical[None])[0]
        missing = [g.name for i, g in enumerate(self.genes) if active[i] and g.name not in source]
        if missing:
            raise ValueError(f"an architecture must give every active gene, but {missing[0]!r} is missing.")
        return canonical

    def columns(self, population: Population) -> dict[str, NDArray[Any]]:
        """Returns gene name -> values (n,) of a population; inactive genes show their first choice."""
        population = self._rows(population)
        return {g.name: np.array(g.choices)[population[:, i]] for i, g in enumerate(self.genes)}

    def _rows(self, population: Population) -> Population:
        population = np.asarray(population)
        if population.ndim != 2 or population.shape[1] != self.n_genes:
            raise ValueError(f"a population must have shape (n, {self.n_genes}), but got {population.shape}.")
        if population.dtype != np.uint8:
            if not np.issubdtype(population.dtype, np.integer):
                raise ValueError(f"a population must hold integers, but got {population.dtype}.")
            if population.size and (population.min() < 0 or population.max() > MAX_CONDITION_TABLE):
                raise ValueError("choice indices must not be negative or huge.")
            if population.size and population.max() > np.iinfo(np.uint8).max:
                raise ValueError(f"choice indices must be at most 255, but got {population.max()}.")
            population = population.astype(np.uint8)
        rows: Population = np.ascontiguousarray(population)
        return rows


def _bernoulli(size: int, rate: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns the positions, ascending, of the successes of `size` independent trials: gaps are geometric.

    Costs as much as there are successes, which are few.
    """
    if rate <= 0.0:
        return np.zeros(0, dtype=np.intp)
    if rate >= 1.0:
        return np.arange(size)
    positions = np.zeros(0, dtype=np.int64)
    end = -1
    while end < size:
        expected = (size - end) * rate
        gaps = rng.geometric(rate, int(expected + 4 * expected**0.5) + 16)
        more = end + np.cumsum(gaps)
        positions = np.concatenate([positions, more])
        end = int(more[-1])
    return positions[positions < size].astype(np.intp)
