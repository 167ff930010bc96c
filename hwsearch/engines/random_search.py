"""Random search: uniform over the distinct architectures not tried yet; the baseline of every other engine."""

from __future__ import annotations

from hwsearch.engines.base import SearchEngine, fresh_samples
from hwsearch.results import History
from search_spaces.space import Population


class RandomSearch(SearchEngine):
    """Draws without replacement, for any number of objectives and limits; looks at no result."""

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g), uniform over those that are not in the history."""
        return fresh_samples(self.space, history.genotypes, count, self.rng(history))
