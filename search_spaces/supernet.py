"""Supernet: full weights, one builder of plain modules and one slicing rule."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene, Value
from search_spaces.layers import Costs, IntArray, LayerSpec, total_costs
from search_spaces.model_bytes import Precision, model_bytes
from search_spaces.pattern import masked
from search_spaces.precision import GENE, bytes_at, precision_gene
from search_spaces.slicing import Transform, slice_tensor
from search_spaces.space import Population, SearchSpace
from search_spaces.sparsity import Pattern, parse_pattern
from search_spaces.structure import copy_structure

SKELETON_CACHE = 256
COST_CHUNK = 4096  # rows whose arrays stay in a core's cache
Columns = Mapping[str, NDArray[Any]]
Masks = Mapping[str, Tensor]
"""Tensor name -> boolean mask of the sliced shape, True = kept."""


@dataclass(frozen=True)
class ChannelGroup:
    """Dimensions of several tensors that index the same channels, to be permuted together.

    Args:
        members: (tensor name, dimension) pairs.
        score: the pair whose L1 norm over the other dimensions is a channel's importance.
        block: channels that must stay together (the size of an attention head).
    """

    members: tuple[tuple[str, int], ...]
    score: tuple[str, int]
    block: int = 1


class Family(ABC):
    """A parametrised kind of network: its genes, a builder of plain modules and their layers.

    A family knows nothing of weights or sparsity. Everything a built module needs is a parameter or a
    persistent buffer with the same name in the full module.
    """

    name: str
    space: SearchSpace
    input_shape: tuple[int, ...]
    """Of one example, without batch."""
    transforms: Mapping[str, Transform] = {}
    """Tensor name -> exception from the slicing rule."""
    has_weights: bool = False
    """Whether `build_full` gives trained weights."""
    published_copies: Mapping[str, str] = {}
    """Key of a published checkpoint that repeats another key's tensor -> that key."""
    published_ignored: tuple[str, ...] = ()
    """Regular expressions of keys of published checkpoints that hold nothing to load."""
    published_variants: Mapping[str, str] = {}
    """Regular expression -> replacement, for keys that published checkpoints spell in several ways."""

    @abstractmethod
    def build(self, arch: Architecture) -> nn.Module:
        """Returns the plain module of an architecture, on the default device, freshly initialised."""

    @abstractmethod
    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns all layers that any architecture can have, for the gene values (n,) of a population."""

    def build_full(self) -> nn.Module:
        """Returns the module that owns the full weights; by default the largest architecture."""
        return self.build(self.space.largest())

    def source(self, name: str, arch: Architecture) -> str:
        """Returns the name of the full tensor from which a subnet's tensor `name` is cut."""
        return name

    def finish(self, module: nn.Module, arch: Architecture, batches: Sequence[Tensor]) -> None:
        """Improves an extracted subnet in place with calibration inputs; by default not at all."""
        return

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the coupled channels that may be permuted without changing the largest network."""
        return []

    def published_name(self, name: str) -> str | None:
        """Returns the key of a full tensor in the published checkpoints; None for what they do not hold.

        Full tensors with the same key are parts of one published tensor, in their order, along dimension 0.
        By default the name itself.
        """
        return name

    def prepare(self, inputs: Tensor, arch: Architecture) -> Tensor:
        """Returns a batch of the data as this architecture reads it: another resolution, where that is a gene."""
        return inputs

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns random inputs as the built module takes them, each with a leading batch dimension."""
        return (torch.randn(batch, *self.input_shape, generator=generator),)


@dataclass(frozen=True)
class SparsityGenes:
    """Sparsity as genes on any family: one gene per stage, per layer, or one for the model.

    Args:
        choices: pattern names, the first one first in the gene.
        per: what shares a gene.
    """

    choices: tuple[str, ...]
    per: Literal["stage", "layer", "model"] = "stage"
    patterns: tuple[Pattern, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("sparsity choices must not be empty.")
        object.__setattr__(self, "patterns", tuple(parse_pattern(c) for c in self.choices))

    def gene_of(self, layer: LayerSpec) -> str:
        """Returns the name of the gene that decides over a layer."""
        owner = {"stage": layer.stage, "layer": layer.name, "model": "model"}[self.per]
        return f"{owner}.sparsity"

    def genes(self, layers: Sequence[LayerSpec]) -> list[Gene]:
        """Returns the genes for all layers that may be sparse, in layer order."""
        found: dict[str, list[LayerSpec]] = {}
        for layer in layers:
            if layer.may_be_sparse:
                found.setdefault(self.gene_of(layer), []).append(layer)
        genes = []
        for name, members in found.items():
            conditions = {layer.when for layer in members}
            when = conditions.pop() if len(conditions) == 1 else ()
            genes.append(Gene(name, self.choices, active_when=when))
        return genes


@dataclass
class _Skeleton:
    module: nn.Module
    shapes: dict[str, torch.Size]
    slots: dict[str, str]
    patterns: dict[str, Pattern]


class Supernet(nn.Module):
    """Shared weights of all architectures of a family.

    A subnet is always an ordinary module: `build` makes its skeleton on the meta device, `weights` cuts its
    tensors out of the full ones, `forward` runs the skeleton on those views so that gradients flow, `extract`
    copies the same tensors into a module of their own.

    Args:
        family: what to build.
        sparsity: sparsity genes, appended to the family's.
        precisions: choices of the gene `precision`, appended last; none: no such gene, and everything is fp32.
        seed: of the initial weights.
        meta: leave the full weights without storage until `load_arrays`.
    """

    def __init__(
        self,
        family: Family,
        *,
        sparsity: SparsityGenes | None = None,
        precisions: Sequence[str] = (),
        seed: int = 0,
        meta: bool = False,
    ) -> None:
        super().__init__()
        self.family = family
        self.sparsity = sparsity
        self.precisions = tuple(precisions)
        self._owner: dict[str, str] = {}
        if sparsity is None:
            self.space = family.space
        else:
            row = family.space.row(family.space.largest())
            layers = family.layers(family.space.columns(row[None]))
            self.space = SearchSpace([*family.space.genes, *sparsity.genes(layers)])
            self._owner = {layer.name: sparsity.gene_of(layer) for layer in layers if layer.may_be_sparse}
        if self.precisions:
            self.space = SearchSpace([*self.space.genes, precision_gene(self.precisions)])
        if meta:
            with torch.device("meta"):
                self.full = family.build_full()
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.full = family.build_full()
        self._skeletons: OrderedDict[str, _Skeleton] = OrderedDict()

    # -- architectures -> modules --------------------------------------------------------------------

    def build(self, arch: Architecture) -> nn.Module:
        """Returns the cached skeleton of an architecture: a plain module on the meta device. Do not change it."""
        return self._skeleton(arch).module

    def _skeleton(self, arch: Architecture) -> _Skeleton:
        key = arch.key
        if key in self._skeletons:
            self._skeletons.move_to_end(key)
            return self._skeletons[key]
        with torch.device("meta"):
            module = self.family.build(arch)
        shapes = {name: tensor.shape for name, tensor in _tensors(module).items()}
        patterns = {}
        for layer, gene in self._owner.items():
            if f"{layer}.weight" in shapes and gene in arch:
                pattern = parse_pattern(str(arch[gene]))
                if pattern.name != "dense":
                    patterns[f"{layer}.weight"] = pattern
        skeleton = _Skeleton(module, shapes, _slots(module), patterns)
        self._skeletons[key] = skeleton
        if len(self._skeletons) > SKELETON_CACHE:
            self._skeletons.popitem(last=False)
        return skeleton

    def tensors(self) -> dict[str, Tensor]:
        """Returns the full parameters and buffers by name; live, not copies."""
        return _tensors(self.full)

    def dense_weights(self, arch: Architecture) -> dict[str, Tensor]:
        """Returns the subnet's tensors before any mask: views of the full ones wherever no transform applies."""
        full = self.tensors()
        out = {}
        for name, shape in self._skeleton(arch).shapes.items():
            transform = self.family.transforms.get(name)
            if transform is not None:
                out[name] = transform(full, name, shape, arch)
            else:
                out[name] = slice_tensor(full[self.family.source(name, arch)], shape, name=name)
        return out

    def masks(self, arch: Architecture) -> dict[str, Tensor]:
        """Returns the default masks of the architecture's sparsity genes: by magnitude of the sliced weights."""
        return self._masks(arch, self.dense_weights(arch))

    def _masks(self, arch: Architecture, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: p.mask(weights[name]) for name, p in self._skeleton(arch).patterns.items()}
        return {name: mask for name, mask in found.items() if mask is not None}

    def weights(self, arch: Architecture, masks: Masks | None = None) -> dict[str, Tensor]:
        """Returns the subnet's parameters and buffers by name, transforms and sparsity applied.

        Views of the full tensors where neither a transform nor a mask applies; gradients flow to the full ones
        and are exactly zero outside the slice and where masked.

        Args:
            arch: of this space.
            masks: used instead of the default ones (a training recipe or a chosen net owns its masks).
        """
        weights = self.dense_weights(arch)
        masks = self._masks(arch, weights) if masks is None else masks
        for name, mask in masks.items():
            if name not in weights or mask.shape != weights[name].shape:
                shape = tuple(weights[name].shape) if name in weights else "no such tensor"
                raise ValueError(f"mask {name!r} must match the sliced weight ({shape}), but got {tuple(mask.shape)}.")
            weights[name] = masked(weights[name], mask)
        return weights

    def forward(self, inputs: Tensor | tuple[Tensor, ...], arch: Architecture, masks: Masks | None = None) -> Tensor:
        """Returns the subnet's output through views of the full weights, in this module's train or eval mode.

        Args:
            inputs: what the built module takes: one tensor (batch, ...), or a tuple for several arguments. Images of
                another size than the architecture's resolution are resized (`Family.prepare`).
            arch: of this space.
            masks: as for `weights`.
        """
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        inputs = (self.family.prepare(inputs[0], arch), *inputs[1:])
        return self.call(inputs, arch, self.weights(arch, masks))

    def call(self, inputs: tuple[Tensor, ...], arch: Architecture, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns the output of the architecture's module with these tensors, in this module's train or eval mode.

        Args:
            inputs: exactly what the built module takes.
            arch: of this space.
            weights: all its tensors, as `weights` gives them.
        """
        skeleton = self._skeleton(arch)
        skeleton.module.train(self.training)
        # One entry per place: torch's own handling of ties leaves tensors behind in modules that are used twice.
        placed = {slot: weights[name] for slot, name in skeleton.slots.items()}
        out: Tensor = torch.func.functional_call(skeleton.module, placed, inputs, tie_weights=False)
        return out

    def extract(self, arch: Architecture, masks: Masks | None = None) -> nn.Module:
        """Returns the subnet as a plain module of its own, in eval mode: a detached copy, no trace of the search."""
        with torch.no_grad():
            weights = {name: tensor.detach().clone() for name, tensor in self.weights(arch, masks).items()}
        module = copy_structure(self.build(arch))
        _assign(module, weights)
        return module.eval()

    # -- costs ---------------------------------------------------------------------------------------

    def layers(self, population: Population) -> list[LayerSpec]:
        """Returns all layers with sizes (n,) and sparsity patterns for a population (n, g)."""
        columns = self.space.columns(population)
        layers = self.family.layers(columns)
        if self.sparsity is None:
            return layers
        patterns = self.sparsity.patterns
        out = []
        for layer in layers:
            gene = self._owner.get(layer.name)
            if gene is not None:
                layer = layer.with_patterns(patterns, population[:, self.space.index[gene]].astype(np.intp))
            out.append(layer)
        return out

    def costs(self, population: Population) -> Costs:
        """Returns exact costs, each (n,), of a population (n, g); without the layers."""
        population = np.ascontiguousarray(population)
        parts = [
            self._costs(population[start : start + COST_CHUNK])
            for start in range(0, max(len(population), 1), COST_CHUNK)
        ]
        macs, parameters, nonzeros, stored, peak = (
            np.concatenate([getattr(part, name) for part in parts]) for name in Costs.METRICS
        )
        return Costs(macs, parameters, nonzeros, stored, peak)

    def layer_costs(self, arch: Architecture | Mapping[str, Value]) -> Costs:
        """Returns the exact costs of one architecture; `.layers` holds its layers with sizes of shape (1,)."""
        return self._costs(self.space.row(arch)[None])

    def _costs(self, rows: Population) -> Costs:
        """Returns the costs of a population (n, g); stored bytes at each row's precision."""
        layers = self.layers(rows)
        costs = total_costs(layers, len(rows))
        if not self.precisions:
            return costs
        stored = costs.stored_bytes.copy()
        chosen = rows[:, self.space.index[GENE]]
        for i, precision in enumerate(self.precisions):
            if precision != "fp32" and (chosen == i).any():
                stored[chosen == i] = bytes_at(layers, len(rows), precision)[chosen == i]
        return replace(costs, stored_bytes=stored)

    def model_bytes(self, population: Population, precision: Precision) -> IntArray:
        """Returns the bytes of all tensors (n,) of a population (n, g) at a precision: fp32, fp16, bf16 or int8."""
        population = np.ascontiguousarray(population)
        return model_bytes(self.layers(population), len(population), precision)

    # -- weights in and out --------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the full tensors as NumPy arrays that share their memory (CPU)."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors().items()}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]], *, copy: bool = True) -> None:
        """Loads full tensors by name; nothing is changed unless all names and shapes are right.

        Args:
            arrays: every full tensor.
            copy: False shares read-only memory (object store); the supernet must then not be trained.

        Raises:
            ValueError: missing, unexpected or mis-shaped tensors; all are named.
        """
        want = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        have = {name: tuple(array.shape) for name, array in arrays.items()}
        problems = [f"missing {n}" for n in want if n not in have]
        problems += [f"unexpected {n}" for n in have if n not in want]
        problems += [f"{n}: must be {want[n]}, but got {have[n]}" for n in want if n in have and want[n] != have[n]]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise ValueError(f"the weights must fit the super-network, but: {shown}.")
        state = {}
        for name, array in arrays.items():
            array = np.array(array) if copy else np.asarray(array)
            state[name] = _from_numpy(array)
        _assign(self.full, state)


def _slots(module: nn.Module) -> dict[str, str]:
    """Returns the name of every place that holds a parameter or buffer -> the tensor's name in `_tensors`.

    A module that is used twice has its places once; a tensor in two modules has two places.
    """
    first: dict[int, str] = {}
    slots = {}
    for prefix, owner in module.named_modules():
        for name, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                slot = f"{prefix}.{name}" if prefix else name
                slots[slot] = first.setdefault(id(tensor), slot)
    return slots


def _assign(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Makes these tensors the parameters and buffers of `module`; what is used twice stays shared.

    Several times faster than `load_state_dict`.
    """
    slots = _slots(module)
    made: dict[str, Tensor] = {}
    for prefix, owner in module.named_modules():
        for table, is_parameter in ((owner._parameters, True), (owner._buffers, False)):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                original = slots[f"{prefix}.{name}" if prefix else name]
                if original not in made:
                    new = tensors[original]
                    made[original] = nn.Parameter(new, requires_grad=tensor.requires_grad) if is_parameter else new
                table[name] = made[original]


def _from_numpy(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only memory: extract copies before anyone writes
        return torch.from_numpy(array)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
