"""Zero-cost scores of a plain net: what one batch, or none, says of its accuracy before it is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
BENDS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)
SCORES = ("synflow", "jacob_cov", "gradient_norm", "naswot")


def scores(module: nn.Module, inputs: Tensor, *, targets: Tensor, only: Collection[str] = SCORES) -> dict[str, float]:
    """Returns the scores that were asked for of a plain net, which is left as it was.

    All but synflow share one forward pass, in which BatchNorm normalises by the batch, as in the papers: the running
    statistics of a net that was not trained say nothing.

    Args:
        module: with logits (batch, classes).
        inputs: (batch, ...), at least 2 examples.
        targets: (batch,) class numbers.
        only: names out of `SCORES`.

    Raises:
        ValueError: fewer than two examples, a number of targets that differs, or an unknown name.
    """
    unknown = [name for name in only if name not in SCORES]
    if unknown:
        raise ValueError(f"scores must be out of {', '.join(SCORES)}, but got {unknown[0]!r}.")
    if len(inputs) < 2 or len(targets) != len(inputs):
        raise ValueError(f"inputs must be at least 2, one per target, but got {len(inputs)} and {len(targets)}.")
    found = _of_one_pass(module, inputs, targets, frozenset(only) - {"synflow"})
    if "synflow" in only:
        found["synflow"] = synflow(module, inputs)
    return {name: found[name] for name in SCORES if name in only}


def gradient_norm(module: nn.Module, inputs: Tensor, *, targets: Tensor) -> float:
    """Returns the norm of the cross-entropy's gradient by all weights (Abdelfattah et al. 2021, section 3.1).

    Args:
        module: a plain net with logits (batch, classes).
        inputs: (batch, ...).
        targets: (batch,) class numbers.
    """
    return _of_one_pass(module, inputs, targets, {"gradient_norm"})["gradient_norm"]


def naswot(module: nn.Module, inputs: Tensor) -> float:
    """Returns log |det K|, K[i, j] the number of ReLU-like units that two inputs agree on (Mellor et al. 2021, eq. 2).

    Units are the inputs of activations: whatever is positive before a `ReLU`, `ReLU6`, `Hardswish`, `SiLU` or `GELU`
    module. A net without such modules is read at the outputs of its weighted layers. 0.001 is added to the diagonal,
    so that two inputs of one code give a number, too.
    """
    return _of_one_pass(module, inputs, None, {"naswot"})["naswot"]


def jacob_cov(module: nn.Module, inputs: Tensor) -> float:
    """Returns -sum(log v + 1 / v) over eigenvalues v of the correlation of the inputs' Jacobians (batch, batch).

    A Jacobian is that of the summed logits. Mellor et al. 2020 (first version), eq. 3, with their 1e-5 added to v.
    """
    return _of_one_pass(module, inputs, None, {"jacob_cov"})["jacob_cov"]


def synflow(module: nn.Module, inputs: Tensor) -> float:
    """Returns log(1 + sum |w dR/dw|), R the summed output for one input of ones with all weights made positive.

    Tanaka et al. 2020, eq. 2; it needs no data, `inputs` only gives the shape. BatchNorm applies its running
    statistics. The logarithm, because the sum is a product over layers; deep nets whose product leaves the range of
    their own precision are computed in double precision.
    """
    total = _flow(module, inputs, inputs.dtype)
    return float(np.log1p(total if np.isfinite(total) else _flow(module, inputs, torch.float64)))


def _flow(module: nn.Module, inputs: Tensor, dtype: torch.dtype) -> float:
    """Returns sum |w dR/dw| computed in one precision; infinite or NaN where that has no such numbers."""
    positive = {name: p.detach().to(dtype).abs().requires_grad_() for name, p in module.named_parameters()}
    buffers = {name: b.to(dtype).abs() for name, b in module.named_buffers() if b.is_floating_point()}
    with _as_it_was(module), torch.enable_grad():
        module.eval()
        ones = torch.ones_like(inputs[:1], dtype=dtype)
        total = functional_call(module, {**positive, **buffers}, (ones,)).sum()
        slopes: tuple[Tensor | None, ...] = torch.autograd.grad(total, list(positive.values()), allow_unused=True)
    terms = [p.detach() * g for p, g in zip(positive.values(), slopes, strict=True) if g is not None]
    return sum(float(term.abs_().sum(dtype=torch.float64)) for term in terms)


def _of_one_pass(module: nn.Module, inputs: Tensor, targets: Tensor | None, names: Collection[str]) -> dict[str, float]:
    """Returns those scores that need the logits of a batch; only what they need is computed."""
    if not names:
        return {}
    found: dict[str, float] = {}
    slopes_of_weights = "gradient_norm" in names
    with _as_it_was(module), torch.enable_grad(), _codes(module, len(inputs), wanted="naswot" in names) as agreed:
        module.eval()
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.train()
        weights = list(module.parameters())
        for p in weights:
            p.requires_grad_(slopes_of_weights)
        x = inputs.detach().clone().requires_grad_("jacob_cov" in names)
        logits = module(x)
        if "naswot" in names:
            found["naswot"] = float(np.linalg.slogdet(agreed + 1e-3 * np.eye(len(x)))[1])
        if "jacob_cov" in names:
            (slope,) = torch.autograd.grad(logits.sum(), x, retain_graph=slopes_of_weights)
            found["jacob_cov"] = _spectrum(slope.reshape(len(x), -1).double().cpu().numpy())
        if slopes_of_weights:
            assert targets is not None
            loss = F.cross_entropy(logits, targets)
            slopes: tuple[Tensor | None, ...] = torch.autograd.grad(loss, weights, allow_unused=True)
            squares = [float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in slopes if g is not None]
            found["gradient_norm"] = float(np.sqrt(sum(squares)))
    return found


def _spectrum(jacobian: np.ndarray) -> float:
    """Returns -sum(log v + 1 / v) of the correlation's eigenvalues v of rows (batch, inputs)."""
    away = jacobian - jacobian.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(away, axis=1)
    away = away / np.where(norm > 0, norm, 1.0)[:, None]
    values = np.maximum(np.linalg.eigvalsh(away @ away.T), 0.0) + 1e-5
    return float(-np.sum(np.log(values) + 1 / values))


@contextmanager
def _codes(module: nn.Module, batch: int, *, wanted: bool) -> Iterator[np.ndarray]:
    """Yields a matrix (batch, batch) to which forward passes in the block add the number of units that agree."""
    agreed = np.zeros((batch, batch))

    def count(values: Tensor) -> None:
        sign = (values.detach().reshape(batch, -1) > 0).float().mul_(2).sub_(1)  # (batch, units), 1 or -1
        agreed.__iadd__((0.5 * (sign.shape[1] + sign @ sign.T)).double().cpu().numpy())

    bends = [m for m in module.modules() if isinstance(m, BENDS)] if wanted else []
    handles = [m.register_forward_pre_hook(lambda _, given: count(given[0])) for m in bends]
    if wanted and not bends:
        weighted = [m for m in module.modules() if isinstance(m, WEIGHTED)]
        handles = [m.register_forward_hook(lambda _, __, out: count(out)) for m in weighted]
    try:
        yield agreed
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Restores modes, buffers and which parameters are learned after the block, which may not change parameters."""
    modes = [(part, part.training) for part in module.modules()]
    learned = [(p, p.requires_grad) for p in module.parameters()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for p, requires in learned:
            p.requires_grad_(requires)
        with torch.no_grad():
            for name, b in module.named_buffers():
                b.copy_(buffers[name])
