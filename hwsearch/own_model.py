"""A user's own model in a configuration: its family, the user's metric, and fidelity to the original."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Split
from hwsearch.data.named_callables import load_callable
from hwsearch.errors import UserError
from hwsearch.export.onnx_exporter import cpu_session
from hwsearch.graphs.onnx_module import OnnxModule, argument_names, close, read_onnx
from search_spaces.from_model import FromModel, SpaceOptions, space_from_model

Scorer = Callable[[nn.Module, str], Mapping[str, float]]
"""(plain module, `search` or `holdout`) -> metrics."""
Kind = Literal["logits", "embeddings", "similarities"]
TOLERANCE = 1e-4
"""Largest difference between torch and ONNX Runtime on the same ONNX file, relative to the largest output."""


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
        model: `module:function` or `file.py:function` that returns the module, with its weights; or an ONNX file.
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
    onnx_file = model.endswith(".onnx")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a model without trained weights must at least be the same one in every process
        module = read_onnx(Path(model)) if onnx_file else load_callable(model, "supernet.params.model")()
    if not isinstance(module, nn.Module):
        raise UserError(f"supernet.params.model must return a torch module, but got {type(module).__name__}.")
    if example is not None:
        inputs = load_callable(example, "supernet.params.example")()
    elif input_shape is not None:
        inputs = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    else:
        raise UserError("supernet.params.example must be given when there are no data, but there is none.")
    if onnx_file:
        check_onnx(Path(model), module, inputs)
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


def check_onnx(path: Path, module: nn.Module, inputs: Any) -> None:
    """Compares a module that was read from an ONNX file with ONNX Runtime, on example inputs.

    Raises:
        UserError: the outputs differ, or the inputs are not those of the graph.
    """
    assert isinstance(module, OnnxModule)
    names = argument_names(module)
    given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, _several(inputs), strict=False))
    if set(given) != set(names):
        raise UserError(f"example inputs of {path} must be {list(names)}, but got {list(given)}.")
    session = cpu_session(str(path))
    feed = {theirs: given[mine].numpy() for mine, theirs in zip(names, module.input_names, strict=True)}
    try:
        wanted = session.run(list(module.output_names), feed)
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        raise UserError(f"{path} must run on its example inputs, but: {' '.join(str(error).split())[:300]}") from error
    with torch.no_grad():
        got = module(**given)
    for name, theirs in zip(module.output_names, wanted, strict=True):
        if not close(got[name] if isinstance(got, dict) else got, np.asarray(theirs), tolerance=TOLERANCE):
            raise UserError(f"output {name!r} of {path} as a torch module must be ONNX Runtime's, but it differs.")


def _several(inputs: Any) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


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
