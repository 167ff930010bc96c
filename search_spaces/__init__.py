"""Search spaces: genes, genotypes, networks, shared weights, sparsity and exact layer costs."""

from search_spaces.architecture import Architecture
from search_spaces.genes import Condition, Gene
from search_spaces.space import Population, SearchSpace

__all__ = ["Architecture", "Condition", "Gene", "Population", "SearchSpace"]
