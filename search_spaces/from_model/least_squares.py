"""Least squares: the change of a layer's weights that comes closest to a wanted change of its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.003
"""Share of the Gram matrix's mean diagonal that pulls repaired weights towards the given ones."""
STEPS = 60
TOLERANCE = 1e-3


def solve(x: Tensor, lack: Tensor, *, weights: Tensor, bias: bool, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns D (outputs, inputs) and d (outputs,) that minimise sum_r w_r |x_r D^T + d - lack_r|^2 + ridge |D|^2.

    Args:
        x: inputs of the layer, (rows, inputs).
        lack: wanted minus present outputs, (rows, outputs).
        weights: of the rows, (rows,), not negative.
        bias: whether there is a d; without, it is 0.
        kept: which weights exist, (outputs, inputs), of a sparse layer; the others get no change. Every output then has
            a regression of its own; all are solved together by conjugate gradients on the kept entries.
    """
    used = weights > 0
    x, lack, w = x[used], lack[used], weights[used, None]
    total = w.sum().clamp(min=1e-12)
    centre_x, centre_y = x.new_zeros(x.shape[1]), lack.new_zeros(lack.shape[1])
    if bias:
        centre_x, centre_y = (w * x).sum(0) / total, (w * lack).sum(0) / total
    centred = x - centre_x
    weighted = (centred * w).T
    gram, right = (weighted @ centred).double(), (weighted @ (lack - centre_y)).double()  # (inputs, in), (in, outputs)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-9)
    delta = torch.linalg.solve(gram, right).T if kept is None else _masked(gram, right.T, kept.double())
    delta = delta.to(x.dtype)
    return delta, centre_y - delta @ centre_x


def _masked(gram: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """Returns D (outputs, inputs), zero where not kept, with (D gram - right) = 0 where kept: conjugate gradients."""
    scale = gram.diagonal()
    found = torch.zeros_like(right)
    residual = right * kept
    ahead = residual / scale
    direction, product = ahead, (residual * ahead).sum(1, keepdim=True)
    goal = product.sum() * TOLERANCE**2
    for _ in range(STEPS):
        if product.sum() <= goal:
            break
        image = (direction @ gram) * kept
        step = product / (direction * image).sum(1, keepdim=True).clamp(min=1e-30)
        found = found + step * direction
        residual = residual - step * image
        ahead = residual / scale
        before, product = product, (residual * ahead).sum(1, keepdim=True)
        direction = ahead + product / before.clamp(min=1e-30) * direction
    return found
