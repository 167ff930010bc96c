"""Nested dropout: a random suffix of coupled channels is dropped, so that channels (or ranks) become ordered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, RecipeError, Session
from search_spaces.supernet import ChannelGroup


def prefix_probabilities(count: int, decay: float, smallest: int = 1) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Returns P(keep the first b channels), b = smallest .. count: proportional to decay^b, (count - smallest + 1,).

    decay 1 is uniform, below 1 the geometric distribution of Rippel et al. 2014, section 3.1, cut at `count`.
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay must be in (0, 1], but got {decay}.")
    if not 1 <= smallest <= count:
        raise ValueError(f"smallest must be between 1 and {count} channels, but got {smallest}.")
    powers = decay ** np.arange(count - smallest + 1, dtype=np.float64)
    probabilities: np.ndarray[tuple[int], np.dtype[np.float64]] = powers / powers.sum()
    return probabilities


class NestedDropout(Recipe):
    """In every step, each channel group keeps a random prefix; weights and biases of the rest are zero for the step.

    All members of a group are cut, so a dropped channel contributes nothing to the forward pass and gets no
    gradient. With `search_spaces.low_rank.rank_group` the channels are ranks: ordered dropout over ranks (Maestro,
    without its group lasso). Sources: Rippel et al. 2014; compressing features for slimmable networks.

    Args:
        groups: coupled channels, as a family's `channel_groups()` returns them.
        decay: 1 draws prefixes uniformly; smaller prefers short ones.
        smallest: share of the channels that always stay.
        full: probability that a step keeps all channels, so that the whole network learns as well.
    """

    name = "nested_dropout"

    def __init__(
        self, *, groups: Sequence[ChannelGroup], decay: float = 1.0, smallest: float = 0.25, full: float = 0.25
    ) -> None:
        if not groups:
            raise RecipeError("nested dropout must have at least one channel group, but got none.")
        if not 0.0 < smallest <= 1.0:
            raise ValueError(f"smallest must be in (0, 1], but got {smallest}.")
        if not 0.0 <= full <= 1.0:
            raise ValueError(f"full must be in [0, 1], but got {full}.")
        self.groups, self.decay, self.smallest, self.full = tuple(groups), decay, smallest, full

    def start(self, session: Session) -> None:
        """Counts the channels of every group.

        Raises:
            RecipeError: a group names tensors that the network does not have.
        """
        super().start(session)
        tensors = {**dict(session.model.named_parameters()), **dict(session.model.named_buffers())}
        for group in self.groups:
            for name, _ in group.members:
                if name not in tensors:
                    raise RecipeError(f"channel groups must name tensors of the network, but {name!r} is none.")
        self._counts = [tensors[g.score[0]].shape[g.score[1]] // g.block for g in self.groups]

    def prefixes(self, step: int) -> list[int]:
        """Returns how many channels each group keeps in a step."""
        rng = np.random.default_rng([self.session.seed, step, 14])
        if rng.random() < self.full:
            return [count * group.block for count, group in zip(self._counts, self.groups, strict=True)]
        kept = []
        for count, group in zip(self._counts, self.groups, strict=True):
            smallest = max(1, int(np.ceil(self.smallest * count)))
            probabilities = prefix_probabilities(count, self.decay, smallest)
            kept.append(int(smallest + rng.choice(len(probabilities), p=probabilities)) * group.block)
        return kept

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns weights whose dropped channels are zero."""
        out = dict(weights)
        for group, kept in zip(self.groups, self.prefixes(step), strict=True):
            for name, dim in group.members:
                if name in out and kept < out[name].shape[dim]:
                    shape = [1] * out[name].dim()
                    shape[dim] = -1
                    inside = torch.arange(out[name].shape[dim], device=out[name].device).view(shape) < kept
                    out[name] = torch.where(inside, out[name], 0.0)
        return out
