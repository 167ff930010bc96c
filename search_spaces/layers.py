"""LayerSpec: what one layer is, for one architecture or for a whole population at once, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.genes import Condition
from search_spaces.sparsity import DENSE, Pattern

IntArray = NDArray[np.int64]
Size = Any
"""A whole number, or int64 with one per architecture (n,)."""
Kind = Literal["conv", "linear", "batchnorm", "layernorm", "embedding", "table", "matmul", "pool", "elementwise"]
WEIGHTED: frozenset[Kind] = frozenset({"conv", "linear", "embedding"})
MULTIPLYING: frozenset[Kind] = frozenset({"conv", "linear", "matmul"})


@dataclass(frozen=True)
class LayerSpec:
    """One layer; every size is an int or an array (n,) over a population.

    Args:
        name: path of the module in the plain module; its weight is `<name>.weight`.
        kind: operator kind. `matmul` multiplies two activations (attention): inputs is the summed
            length, outputs the number of columns, positions the number of rows. `table` is an fp32 buffer of
            `inputs` rows and `outputs` columns.
        stage: the part of the network that it belongs to (sparsity genes and features are grouped by it).
        inputs: input channels or features (embedding: number of entries).
        outputs: output channels or features.
        kernel: side of the square kernel.
        groups: convolution groups (depthwise: equal to inputs).
        positions_in: pixels or tokens per example read.
        positions: pixels or tokens per example written.
        bias: has a bias of `outputs` values.
        held: activation values per example that must stay alive beside input and output (a shortcut).
        prunable: weight masks may apply to it; by default conv and linear without groups.
        active: exists in this architecture.
        when: the conditions under which it exists, as genes state them.
        patterns: sparsity patterns that the space offers for it.
        pattern: index into `patterns`.
    """

    name: str
    kind: Kind
    stage: str
    inputs: Size
    outputs: Size
    kernel: Size = 1
    groups: Size = 1
    positions_in: Size = 1
    positions: Size = 1
    bias: bool = False
    held: Size = 0
    prunable: bool = True
    active: bool | NDArray[np.bool_] = True
    when: tuple[Condition, ...] = ()
    patterns: tuple[Pattern, ...] = (DENSE,)
    pattern: int | NDArray[np.intp] = 0

    @property
    def may_be_sparse(self) -> bool:
        """Whether weight masks may apply: prunable, conv or linear, not grouped."""
        return self.prunable and self.kind in {"conv", "linear"} and isinstance(self.groups, int) and self.groups == 1

    def with_patterns(self, patterns: tuple[Pattern, ...], pattern: int | NDArray[np.intp]) -> LayerSpec:
        """Returns the layer with sparsity choices attached."""
        return replace(self, patterns=patterns, pattern=pattern)

    # Sizes below are per example and int64; inactive layers cost nothing.

    def weights(self) -> Size:
        """Returns the number of weight values (without bias)."""
        if self.kind not in WEIGHTED:
            return 0
        return self._if_active(self.outputs * (self.inputs // self.groups) * self.kernel * self.kernel)

    def parameters(self) -> Size:
        """Returns the number of trainable values: weight and bias; scale and shift of a norm."""
        if self.kind in {"batchnorm", "layernorm"}:
            return self._if_active(2 * self.outputs)
        return self.weights() + (self._if_active(self.outputs) if self.bias else 0)

    def buffer_bytes(self) -> Size:
        """Returns the bytes of state that is not trained: running mean and variance (fp32), counter (int64), tables."""
        if self.kind == "table":
            return self._if_active(4 * self.inputs * self.outputs)
        return self._if_active(8 * self.outputs + 8) if self.kind == "batchnorm" else 0

    def macs(self) -> Size:
        """Returns multiply-accumulates of convolutions, linear layers and matrix products; nothing else counts."""
        if self.kind not in MULTIPLYING:
            return 0
        per_position = self.outputs * (self.inputs // self.groups) * self.kernel * self.kernel
        return self._if_active(per_position * self.positions)

    def nonzeros(self) -> Size:
        """Returns the exact number of weight values that the layer's pattern keeps."""
        return self.by_pattern(lambda p: p.nonzeros(self.outputs, self.inputs // self.groups, self.kernel))

    def weight_bytes(self) -> Size:
        """Returns the bytes of the weight in its smallest encoding under the layer's pattern, fp32 values."""
        return self.by_pattern(lambda p: p.stored_bytes(self.outputs, self.inputs // self.groups, self.kernel))

    def activation_bytes(self, bytes_per_value: int = 4) -> Size:
        """Returns the bytes alive while the layer runs on one example: input, output and what is held."""
        read = self.inputs * self.positions_in
        return self._if_active(bytes_per_value * (read + self.outputs * self.positions + self.held))

    def _add_to(self, totals: IntArray, peak: IntArray) -> None:
        """Adds macs, parameters, nonzeros and stored bytes (4, n) and takes the larger peak (n,), as if active."""
        macs, parameters, nonzeros, stored = totals
        read = self.inputs * self.positions_in
        np.maximum(peak, 4 * (read + self.outputs * self.positions + self.held), out=peak)
        if self.kind in {"batchnorm", "layernorm"}:
            values = 2 * self.outputs
            buffers = 8 * self.outputs + 8 if self.kind == "batchnorm" else 0
            parameters += values
            nonzeros += values
            stored += 4 * values + buffers
            return
        if self.kind == "table":
            stored += 4 * self.inputs * self.outputs
            return
        products = self.outputs * (self.inputs // self.groups) * self.kernel * self.kernel
        if self.kind in MULTIPLYING:
            macs += products * self.positions
        bias = self.outputs if self.bias else 0
        if self.kind in WEIGHTED:
            parameters += products + bias
            dense = self.patterns == (DENSE,) or not self.may_be_sparse
            layer = replace(self, active=True)
            nonzeros += (products if dense else layer.nonzeros()) + bias
            stored += (4 * products if dense else layer.weight_bytes()) + 4 * bias
        elif self.bias:
            parameters += bias
            nonzeros += bias
            stored += 4 * bias

    def by_pattern(self, cost: Callable[[Pattern], Size]) -> Size:
        """Returns a cost of the weight under each architecture's own pattern; 0 without weight or where inactive."""
        if self.kind not in WEIGHTED:
            return 0
        costs = [cost(p if self.may_be_sparse else DENSE) for p in self.patterns]
        if len(costs) == 1:
            return self._if_active(costs[0])
        if isinstance(self.pattern, int | np.integer):
            return self._if_active(costs[int(self.pattern)])
        return self._if_active(np.choose(self.pattern, costs))

    def _if_active(self, size: Size) -> Size:
        if isinstance(self.active, bool | np.bool_):
            return size if self.active else 0
        return size * self.active


@dataclass(frozen=True)
class Costs:
    """Exact costs of n architectures, each an int64 array (n,), per example.

    macs: multiply-accumulates of conv, linear and attention products.
    parameters: trainable values. nonzeros: those that the sparsity patterns keep (biases and norms count).
    stored_bytes: all weights, biases, norms and buffers, fp32, each weight in its smallest encoding.
    activation_bytes: largest sum of live activations over the layers, run one after another.
    layers: what they were summed from; empty for populations.
    """

    macs: IntArray
    parameters: IntArray
    nonzeros: IntArray
    stored_bytes: IntArray
    activation_bytes: IntArray
    layers: tuple[LayerSpec, ...] = field(repr=False, default=())

    METRICS = ("macs", "parameters", "nonzeros", "stored_bytes", "activation_bytes")

    def metrics(self, i: int = 0) -> dict[str, int]:
        """Returns the costs of architecture `i` by name."""
        return {name: int(getattr(self, name)[i]) for name in self.METRICS}


def total_costs(layers: Sequence[LayerSpec], n: int) -> Costs:
    """Returns the costs of `n` architectures whose layers these are: the sums of their own costs.

    Layers that exist together (the same `active` array) are summed first and switched off together, which is what
    makes this fast; no number depends on it.
    """
    totals = np.zeros((4, n), dtype=np.int64)  # macs, parameters, nonzeros, stored bytes
    peak = np.zeros(n, dtype=np.int64)
    groups: dict[int, list[LayerSpec]] = {}
    for layer in layers:
        groups.setdefault(id(layer.active), []).append(layer)
    for members in groups.values():
        active = members[0].active
        if active is False:
            continue
        part = totals if active is True else np.zeros((4, n), dtype=np.int64)
        part_peak = peak if active is True else np.zeros(n, dtype=np.int64)
        for layer in members:
            layer._add_to(part, part_peak)
        if active is not True:
            totals += part * active
            np.maximum(peak, part_peak * active, out=peak)
    macs, parameters, nonzeros, stored = totals
    return Costs(macs, parameters, nonzeros, stored, peak, tuple(layers))
