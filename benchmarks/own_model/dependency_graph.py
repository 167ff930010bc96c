"""Does torch-pruning's DependencyGraph keep a network of each style running? Two outputs of one layer are removed.

pip install --no-deps torch-pruning; python -m benchmarks.own_model.dependency_graph
"""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning as tp
from torch import nn

from tests.search_spaces.from_model.styles import STYLES, Style, made

FUNCTIONS = {
    nn.Conv2d: tp.prune_conv_out_channels,
    nn.Linear: tp.prune_linear_out_channels,
    nn.Embedding: tp.prune_embedding_out_channels,
}


def count(style: Style) -> tuple[int, int, str]:
    """Returns how many layers can be shrunk, how many break the network, and the first error."""
    module, example = made(style), style.example()
    works, breaks, first = 0, 0, ""
    layers = [name for name, layer in module.named_modules() if type(layer) in FUNCTIONS][:-1]
    for name in layers:
        subject = copy.deepcopy(module)
        try:
            graph = tp.DependencyGraph().build_dependency(subject, example_inputs=example)
            layer = subject.get_submodule(name)
            group = graph.get_pruning_group(layer, FUNCTIONS[type(layer)], idxs=[0, 1])
            group.prune()
            with torch.no_grad():
                if isinstance(example, dict):
                    subject(**example)
                else:
                    subject(*(example if isinstance(example, tuple) else (example,)))
            works += 1
        except Exception as error:  # whatever the graph or the broken network raises
            breaks += 1
            first = first or f"{type(error).__name__}: {str(error)[:80]}"
    return works, breaks, first


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for style in STYLES:
        works, breaks, first = count(style)
        print(f"{style.name:15} works {works:2}  breaks {breaks:2}  {first}", flush=True)


if __name__ == "__main__":
    main()
