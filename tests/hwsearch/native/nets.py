"""Nets of the native tests: layers of own models; BatchNorm that has seen one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def settled(module: nn.Module, batch: tuple[Tensor, ...]) -> nn.Module:
    """BatchNorm with the statistics of one batch: values stay of order 1 and outputs differ by more than rounding."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    with torch.no_grad():
        module(*batch)
    return module.eval()


class Own(nn.Module):
    """Layers of users' models that no built-in family has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(12, 8, 3, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(20)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d(2)
        self.out = nn.Linear(20 * 2 * 2, 5)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.5, -1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.silu(self.first(x))
        z = self.grouped(y)
        y = torch.cat([self.dilated(z).relu_(), z], 1)
        y = self.average(self.pool(self.norm(1.0 - y * 0.5)))
        y = y - y.mean((2, 3), keepdim=True) * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return torch.tanh(self.out(y.flatten(1)) * self.scale) / 2.0 + 0.25
