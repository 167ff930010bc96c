"""Small conditional spaces, a hypothesis strategy for more of them, and a slow, obvious reference."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace


def chain_space() -> SearchSpace:
    """A depth gene, a gene that is active from depth 2 on and itself a condition, and an alias."""
    return SearchSpace(
        [
            Gene("depth", (1, 2, 3)),
            Gene("kind", ("plain", "se"), active_when=(Condition("depth", (2, 3)),)),
            Gene("ratio", (4, 8, 16), active_when=(Condition("kind", ("se",)),)),
            Gene("width", (8, 16, 24, 32), active_when=(Condition("depth", (3,)),), aliases={16: 8}),
            Gene("act", (False, True)),
        ]
    )


@st.composite
def spaces(draw: st.DrawFn, max_genes: int = 6) -> SearchSpace:
    """Draws spaces with chains of conditions, several conditions per gene, aliases and single choices."""
    genes: list[Gene] = []
    for i in range(draw(st.integers(1, max_genes))):
        n_choices = draw(st.integers(1, 4))
        aliases = {}
        if n_choices > 2 and draw(st.booleans()):
            aliases[draw(st.integers(1, n_choices - 1))] = 0
        conditions = []
        for parent in draw(st.lists(st.sampled_from(genes), max_size=2, unique_by=lambda g: g.name)) if genes else []:
            wanted = set(draw(st.lists(st.sampled_from(parent.choices), min_size=1, unique=True)))
            for alias, target in parent.aliases.items():
                wanted |= {alias, target} if wanted & {alias, target} else set()
            conditions.append(Condition(parent.name, tuple(sorted(wanted))))
        genes.append(Gene(f"g{i}", tuple(range(n_choices)), active_when=tuple(conditions), aliases=aliases))
    return SearchSpace(genes)


def all_genotypes(space: SearchSpace) -> np.ndarray:
    """Every row of choice indices, canonical or not."""
    rows = itertools.product(*[range(len(gene.choices)) for gene in space.genes])
    return np.array(list(rows), dtype=np.uint8).reshape(-1, space.n_genes)


def reference_canonical(space: SearchSpace, row: np.ndarray) -> tuple[int, ...]:
    """One gene after the other, as the definition says."""
    values: dict[str, object] = {}
    out = []
    for gene, index in zip(space.genes, row, strict=True):
        active = all(c.gene in values and values[c.gene] in c.values for c in gene.active_when)
        choice = gene.choices[index]
        choice = gene.aliases.get(choice, choice)
        if active:
            values[gene.name] = choice
        out.append(gene.choices.index(choice) if active else 0)
    return tuple(out)


def reference_active(space: SearchSpace, row: np.ndarray) -> list[bool]:
    values: dict[str, object] = {}
    active = []
    for gene, index in zip(space.genes, row, strict=True):
        active.append(all(c.gene in values and values[c.gene] in c.values for c in gene.active_when))
        if active[-1]:
            values[gene.name] = gene.choices[index]
    return active
