"""The part of a configuration that makes its networks, for whoever meets them without the rest."""

from __future__ import annotations

import inspect
from typing import Any

from hwsearch.build import Plan

NETWORK_METRIC = "macs"
"""An objective of the made configuration: there must be one, and this needs neither data nor a device."""


def network_of(plan: Plan) -> dict[str, Any]:
    """Returns a configuration, as plain data, of the same search space and the same networks.

    It needs no data: what these decided is written down. Nor does it name weights: costs do not depend on them.
    """
    config = plan.config
    params = dict(config.supernet.params)
    taken = inspect.signature(type(plan.family)).parameters
    if plan.dataset is not None:
        decided = {"input_shape": list(plan.dataset.input_shape), "n_classes": plan.dataset.n_classes}
        params = {**{name: value for name, value in decided.items() if name in taken}, **params}
    raw: dict[str, Any] = {
        "name": config.name,
        "supernet": {"family": config.supernet.family, "params": params},
        "objectives": [NETWORK_METRIC],
    }
    if plan.sparsity is not None and config.sparsity is not None:
        raw["sparsity"] = {"per": config.sparsity.per, "choices": [pattern.name for pattern in plan.sparsity.patterns]}
    if plan.precisions:
        raw["precision"] = {"choices": list(plan.precisions)}
    return raw
