"""Zero-cost scores of an extracted net: what one batch, or none, says of its accuracy before it is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from predictors.base import FloatArray
from search_spaces.architecture import Architecture
from search_spaces.space import Population
from search_spaces.supernet import Supernet

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Restores modes, gradients and buffers of a module after the block; parameters the block may not change."""
    modes = [(part, part.training) for part in module.modules()]
    grads = [(p, p.grad, p.requires_grad) for p in module.parameters()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    try:
        for p in module.parameters():
            p.grad = None
            p.requires_grad_(True)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for p, grad, requires in grads:
            p.grad = grad
            p.requires_grad_(requires)
        with torch.no_grad():
            for name, b in module.named_buffers():
                b.copy_(buffers[name])


def gradient_norm(module: nn.Module, inputs: Tensor, *, targets: Tensor) -> float:
    """Returns the norm of the cross-entropy's gradient by all weights (Abdelfattah et al. 2021, section 3.1).

    Args:
        module: a plain net with logits (batch, classes).
        inputs: (batch, ...).
        targets: (batch,) class numbers.
    """
    with _as_it_was(module), torch.enable_grad():
        module.eval()
        F.cross_entropy(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        squares = [float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None]
    return float(np.sqrt(sum(squares)))


def synflow(module: nn.Module, inputs: Tensor) -> float:
    """Returns log(1 + sum |w dR/dw|), R the summed output for an input of ones with all weights made positive.

    Tanaka et al. 2020, eq. 2; it needs no data, `inputs` only gives the shape. The logarithm, because the sum is a
    product over layers.
    """
    with _as_it_was(module), torch.enable_grad():
        module.eval()
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        try:
            with torch.no_grad():
                for p in module.parameters():
                    p.abs_()
                for b in module.buffers():
                    if b.is_floating_point():
                        b.abs_()
            module(torch.ones_like(inputs[:1])).sum().backward()
            terms = [p.detach() * p.grad for p in module.parameters() if p.grad is not None]
            total = sum(float(term.abs().double().sum()) for term in terms)
        finally:
            with torch.no_grad():
                for name, p in module.named_parameters():
                    p.copy_(kept[name])
    return float(np.log1p(total))


def naswot(module: nn.Module, inputs: Tensor) -> float:
    """Returns log |det K|, K[i, j] the number of ReLU-like units that two inputs agree on (Mellor et al. 2021, eq. 2).

    Units are the inputs of activations: whatever is positive before a `ReLU`, `ReLU6`, `Hardswish`, `SiLU` or `GELU`
    module. A net without such modules is read at the outputs of its weighted layers.
    """
    batch = len(inputs)
    kernel = np.zeros((batch, batch))

    def count(signs: Tensor) -> None:
        on = (signs.detach().reshape(batch, -1) > 0).double()
        kernel[:] += (on @ on.T + (1 - on) @ (1 - on).T).cpu().numpy()

    bends = [m for m in module.modules() if isinstance(m, nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.SiLU | nn.GELU)]
    handles = [m.register_forward_pre_hook(lambda _, given: count(given[0])) for m in bends]
    if not bends:
        weighted = [m for m in module.modules() if isinstance(m, WEIGHTED)]
        handles = [m.register_forward_hook(lambda _, __, out: count(out)) for m in weighted]
    try:
        with _as_it_was(module), torch.no_grad():
            module.eval()
            module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return float(np.linalg.slogdet(kernel + 1e-3 * np.eye(batch))[1])


def jacob_cov(module: nn.Module, inputs: Tensor) -> float:
    """Returns -sum(log v + 1 / v) over eigenvalues v of the correlation of the inputs' Jacobians (batch, batch).

    Mellor et al. 2020 (first version), eq. 3, with their 1e-5 added to v.
    """
    with _as_it_was(module), torch.enable_grad():
        module.eval()
        x = inputs.detach().clone().requires_grad_(True)
        module(x).sum().backward()
        assert x.grad is not None
        jacobian = x.grad.reshape(len(x), -1).double().cpu().numpy()
    away = jacobian - jacobian.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(away, axis=1)
    away = away / np.where(norm > 0, norm, 1.0)[:, None]
    values = np.linalg.eigvalsh(away @ away.T) + 1e-5
    values = np.maximum(values, 1e-5)
    return float(-np.sum(np.log(values) + 1 / values))


SCORES: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": lambda module, inputs, targets: synflow(module, inputs),
    "jacob_cov": lambda module, inputs, targets: jacob_cov(module, inputs),
    "gradient_norm": lambda module, inputs, targets: gradient_norm(module, inputs, targets=targets),
    "naswot": lambda module, inputs, targets: naswot(module, inputs),
}


def scores(module: nn.Module, inputs: Tensor, *, targets: Tensor) -> dict[str, float]:
    """Returns every score of a plain net, which is left as it was.

    Args:
        module: with logits (batch, classes).
        inputs: (batch, ...), at least 2 examples.
        targets: (batch,).

    Raises:
        ValueError: fewer than two examples, or a number of targets that differs.
    """
    if len(inputs) < 2 or len(targets) != len(inputs):
        raise ValueError(f"inputs must be at least 2, one per target, but got {len(inputs)} and {len(targets)}.")
    return {name: score(module, inputs, targets) for name, score in SCORES.items()}


class NetScores:
    """The scores of a space's untrained networks as features of predictors (`predictors.base.ScoreFunction`).

    Weights come from a super-network's seeded start, inputs and targets are seeded noise: no data are needed, and
    whoever has the super-network's description gets the same numbers. They are computed in double precision, so that
    deep nets do not overflow, and remembered for each architecture.

    Args:
        supernet: whose networks are meant; its own weights are not used, so that it may be without storage.
        batch: inputs that a network is scored on.
        seed: of weights and inputs.
    """

    columns = tuple(SCORES)

    def __init__(self, supernet: Supernet, *, batch: int = 16, seed: int = 0) -> None:
        if batch < 2:
            raise ValueError(f"batch must be at least 2, but got {batch}.")
        self.supernet, self.batch, self.seed = supernet, batch, seed
        self._made: Supernet | None = None
        self._known: dict[bytes, list[float]] = {}

    @property
    def digest(self) -> str:
        """Of what the numbers depend on: the genes, the shapes of all weights and inputs, batch and seed."""
        shapes = {name: list(tensor.shape) for name, tensor in self.supernet.tensors().items()}
        inputs = [self.batch, *self.supernet.family.input_shape]
        text = json.dumps([self.supernet.space.fingerprint, shapes, inputs, self.seed, self.columns], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self, population: Population) -> FloatArray:
        """Returns the scores (n, 4) of a population (n, g).

        Raises:
            ValueError: networks that do not map one input to class logits.
        """
        space = self.supernet.space
        rows = space.canonical(population)
        out = np.empty((len(rows), len(self.columns)))
        for i, row in enumerate(rows):
            key = row.tobytes()
            if key not in self._known:
                self._known[key] = self._score(space.architecture(row))
            out[i] = self._known[key]
        return out

    def _score(self, arch: Architecture) -> list[float]:
        if self._made is None:
            net = self.supernet
            self._made = Supernet(net.family, sparsity=net.sparsity, precisions=net.precisions, seed=self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        inputs = self._made.family.example_inputs(batch=self.batch, generator=generator, arch=arch)
        if len(inputs) != 1 or not inputs[0].is_floating_point():
            raise ValueError("zero-cost scores must be of networks with one input of numbers, but these take others.")
        module = self._made.extract(arch).double()
        x = inputs[0].double()
        with torch.no_grad():
            logits = module(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError("zero-cost scores must be of networks that answer class logits, but these do not.")
        targets = torch.randint(logits.shape[1], (self.batch,), generator=generator)
        found = scores(module, x, targets=targets)
        return [found[name] for name in self.columns]
