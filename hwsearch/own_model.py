"""A user's own model in a configuration: its family, the user's metric, and fidelity to the original."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Split
from hwsearch.data.named_callables import load_callable
from hwsearch.errors import UserError
from search_spaces.from_model import FromModel, SpaceOptions, space_from_model

Scorer = Callable[[nn.Module, str], Mapping[str, float]]
"""(plain module, `search` or `holdout`) -> metrics."""
Kind = Literal["logits", "embeddings", "similarities"]


def from_model(
    *,
    model: str,
    example: str | None = None,
    calibration: str | None = None,
    output: str | None = None,
    input_shape: Sequence[int] | None = None,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    depth: bool = True,
    kernels: bool = True,
    ranks: Sequence[float] = (),
    multiple: int = 1,
    fixed: Sequence[str] = (),
    importance: str = "group",
    repair: str = "none",
) -> FromModel:
    """Returns the family of a user's trained model.

    Args:
        model: `module:function` or `file.py:function` that returns the module, with its weights.
        example: the same for a function that returns example inputs: a tensor, a tuple, or a dict by argument name.
            Without it, random numbers of `input_shape`.
        calibration: the same for a function that returns a list of input batches (tensors or tuples); for the criteria
            and repairs that need data. Repair uses the train split where there is no such function.
        output: which one, of a model that returns several.
        input_shape: of one example; by default the data's.
        ratios: see `SpaceOptions`, as for all that follow.
        depth: residual branches may be left out.
        kernels: depthwise kernels may be cropped.
        ranks: of factorised layers.
        multiple: of kept channels.
        fixed: modules whose widths stay.
        importance: criterion.
        repair: of extracted subnets.
    """
    return _made(
        model,
        example,
        calibration,
        output,
        None if input_shape is None else tuple(input_shape),
        SpaceOptions(
            ratios=tuple(ratios),
            depth=depth,
            kernels=kernels,
            ranks=tuple(ranks),
            multiple=multiple,
            fixed=tuple(fixed),
            importance=importance,
            repair=repair,
        ),
    )


@lru_cache(maxsize=4)  # a run makes its plan several times, and capturing takes seconds
def _made(
    model: str,
    example: str | None,
    calibration: str | None,
    output: str | None,
    input_shape: tuple[int, ...] | None,
    options: SpaceOptions,
) -> FromModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a model without trained weights must at least be the same one in every process
        module = load_callable(model, "supernet.params.model")()
    if not isinstance(module, nn.Module):
        raise UserError(f"supernet.params.model must return a torch module, but got {type(module).__name__}.")
    if example is not None:
        inputs = load_callable(example, "supernet.params.example")()
    elif input_shape is not None:
        inputs = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    else:
        raise UserError("supernet.params.example must be given when there are no data, but there is none.")
    batches = [] if calibration is None else load_callable(calibration, "supernet.params.calibration")()
    family = space_from_model(
        module,
        inputs,
        options=options,
        output=output,
        calibration=[b if isinstance(b, tuple) else (b,) for b in batches],
    )
    if example is None:
        family.examples_are_random = True
    return family


def user_scorer(reference: str) -> Scorer:
    """Returns a scorer that calls the user's function with a module and, if it takes it, `split`.

    The function returns metric -> value, or metric -> (value, unit, direction).
    """
    function = load_callable(reference, "evaluation.function")
    takes_split = "split" in inspect.signature(function).parameters

    def score(module: nn.Module, split: str) -> dict[str, float]:
        with torch.no_grad():
            found = function(module, split=split) if takes_split else function(module)
        if not isinstance(found, Mapping):
            raise UserError(f"evaluation.function must return a dict of metrics, but got {type(found).__name__}.")
        return {str(name): float(v[0] if isinstance(v, tuple) else v) for name, v in found.items()}

    return score


def fidelity_scorer(original: nn.Module, splits: Mapping[str, Split], *, kind: Kind, batch: int) -> Scorer:
    """Returns a scorer of the agreement with the original model on inputs without labels; 1 is the same.

    | kind | `fidelity` |
    |---|---|
    | `logits` | exp(-mean KL(original, subnet)) of the softmax over the last axis |
    | `embeddings` | mean cosine of the outputs, flattened per example |
    | `similarities` | Spearman correlation of all pairwise cosines with the original's |
    """
    wanted: dict[str, Tensor] = {}

    def score(module: nn.Module, split: str) -> dict[str, float]:
        if split not in wanted:
            wanted[split] = outputs(original, splits[split], batch=batch)
        return {"fidelity": agreement(wanted[split], outputs(module, splits[split], batch=batch), kind=kind)}

    return score


@torch.no_grad()
def outputs(module: nn.Module, split: Split, *, batch: int) -> Tensor:
    """Returns the module's outputs on all examples of a split, in eval mode."""
    module.eval()
    return torch.cat([module(x).float() for x, _ in split.batches(batch)])


def agreement(wanted: Tensor, got: Tensor, *, kind: Kind) -> float:
    """Returns the fidelity of outputs `got` (n, ...) to `wanted` (n, ...), see `fidelity_scorer`."""
    if kind == "logits":
        log_p, log_q = wanted.log_softmax(-1).double(), got.log_softmax(-1).double()
        divergence = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        return math.exp(-max(divergence, 0.0))
    a = nn.functional.normalize(wanted.flatten(1).double(), dim=1)
    b = nn.functional.normalize(got.flatten(1).double(), dim=1)
    if kind == "embeddings":
        return float((a * b).sum(1).mean())
    from scipy.stats import spearmanr

    rows = np.triu_indices(len(a), 1)
    return float(spearmanr((a @ a.T).numpy()[rows], (b @ b.T).numpy()[rows]).statistic)
