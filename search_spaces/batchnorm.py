"""BatchNorm recalibration: running statistics of an extracted subnet from calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Sets the running mean and variance of every BatchNorm of `module`, in place; returns the number of examples.

    In each forward, every BatchNorm normalises by its batch mean and biased variance; the running statistics
    become the averages of these over the batches, weighted by batch size. A module without BatchNorm is not
    run. Training modes are restored. Source: Once-for-All (Cai et al. 2020), `set_running_statistics`.

    Args:
        module: a plain module; only BatchNorm buffers change.
        batches: inputs (batch, ...).

    Raises:
        ValueError: the module has BatchNorm but there are no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    modes = {m: m.training for m in module.modules()}
    momenta = [norm.momentum for norm in norms]
    sums: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    device = next(module.parameters()).device

    def collect(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        dims = [d for d in range(x.dim()) if d != 1]
        mean, var = x.mean(dims) * len(x), x.var(dims, correction=0) * len(x)
        if norm in sums:
            mean, var = mean + sums[norm][0], var + sums[norm][1]
        sums[norm] = (mean, var)

    handles = [norm.register_forward_pre_hook(collect) for norm in norms]
    n_examples = 0
    try:
        module.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 0.0
        for batch in batches:
            module(batch.to(device))
            n_examples += len(batch)
        if n_examples == 0:
            raise ValueError("BatchNorm recalibration must get at least one batch, but got none.")
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for m, training in modes.items():
            m.training = training
    for norm in norms:
        if norm not in sums:
            continue
        mean, var = sums[norm]
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean / n_examples)
        norm.running_var.copy_(var / n_examples)
    return n_examples
