"""The `mlp` family: a fully connected network with an elastic number of nodes per hidden layer (node space)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.layers import LayerSpec, Size
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns, Family


class MLP(Family):
    """Flatten, then hidden layers of linear and ReLU, then a linear classifier.

    | genes, in order | choices |
    |---|---|
    | layer1.nodes, layer2.nodes, ... | the given node counts of each hidden layer |

    Args:
        input_shape: of one example; flattened.
        n_classes: outputs.
        hidden: node choices per hidden layer.

    Source: the sparse configurations of "Random Search as a Baseline for Sparse NAS" (arXiv 2403.08265).
    """

    name = "mlp"

    def __init__(self, *, input_shape: Sequence[int], n_classes: int, hidden: Sequence[Sequence[int]]) -> None:
        if not hidden or any(not nodes or min(nodes) < 1 for nodes in hidden):
            raise ValueError(f"hidden must list at least one positive node count per layer, but got {list(hidden)}.")
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, but got {n_classes}.")
        self.input_shape = tuple(input_shape)
        self.n_classes = n_classes
        self.hidden = tuple(tuple(nodes) for nodes in hidden)
        self.space = SearchSpace([Gene(f"layer{i + 1}.nodes", nodes) for i, nodes in enumerate(self.hidden)])

    def build(self, arch: Architecture) -> nn.Module:
        """Returns flatten, (linear, ReLU) per hidden layer, linear."""
        module = nn.Sequential()
        module.add_module("flatten", nn.Flatten())
        inputs = prod(self.input_shape)
        for i in range(len(self.hidden)):
            nodes = arch.integer(f"layer{i + 1}.nodes")
            module.add_module(f"layer{i + 1}", nn.Linear(inputs, nodes))
            module.add_module(f"relu{i + 1}", nn.ReLU())
            inputs = nodes
        module.add_module("classifier", nn.Linear(inputs, self.n_classes))
        return module

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns one linear layer per hidden layer and the classifier (never sparse)."""
        layers = []
        inputs: Size = prod(self.input_shape)
        for i in range(len(self.hidden)):
            nodes = columns[f"layer{i + 1}.nodes"]
            layers.append(LayerSpec(f"layer{i + 1}", "linear", f"layer{i + 1}", inputs, nodes, bias=True))
            inputs = nodes
        layers.append(LayerSpec("classifier", "linear", "head", inputs, self.n_classes, bias=True, prunable=False))
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the nodes of each hidden layer, scored by the weights that read them."""
        names = [f"layer{i + 1}" for i in range(len(self.hidden))] + ["classifier"]
        return [
            ChannelGroup(((f"{a}.weight", 0), (f"{a}.bias", 0), (f"{b}.weight", 1)), score=(f"{b}.weight", 1))
            for a, b in pairwise(names)
        ]
