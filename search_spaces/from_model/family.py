"""The `from_model` family: the sub-networks of a user's own trained module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from search_spaces.architecture import Architecture
from search_spaces.from_model.activations import Originals, originals, sensitivities
from search_spaces.from_model.capture import Captured, capture
from search_spaces.from_model.groups import width_groups
from search_spaces.from_model.importance import CRITERIA, importance
from search_spaces.from_model.layer_costs import Choices, layer_specs
from search_spaces.from_model.layer_rules import LAYER_RULES
from search_spaces.from_model.layers_of import layer_of
from search_spaces.from_model.rebuild import Selection, live_nodes, rebuild
from search_spaces.from_model.repair import REPAIRS, repair
from search_spaces.from_model.residuals import Branch, branches
from search_spaces.from_model.shape_rules import SHAPE_RULES
from search_spaces.from_model.units import Label
from search_spaces.from_model.walk import Walk, arguments, operator_name, walk
from search_spaces.genes import Condition, Gene
from search_spaces.layers import LayerSpec, Size
from search_spaces.low_rank import factorise, rank_of
from search_spaces.slicing import Transform
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns, Family, _slots

CACHE = 64
SMALLEST_RANKED = 16
"""Layers with fewer inputs or outputs are not factorised."""


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may change.

    Args:
        ratios: of units (channels, heads) of every width that may stay; all is always a choice.
        depth: residual branches may be left out.
        kernels: kernels of depthwise convolutions may be cropped, down to 3.
        ranks: shares of the full rank at which linear layers and convolutions may be factorised; none by default.
        multiple: kept channels are a multiple of this where possible (what the device prefers: 8, 16, 32).
        fixed: paths of modules whose widths stay.
        importance: criterion that orders channels and heads, see `importance.importance`.
        repair: `none`, `bias` or `least_squares`: what is done to every extracted subnet, with calibration data.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    depth: bool = True
    kernels: bool = True
    ranks: tuple[float, ...] = ()
    multiple: int = 1
    fixed: tuple[str, ...] = ()
    importance: str = "group"
    repair: str = "none"

    def __post_init__(self) -> None:
        for name in ("ratios", "ranks"):
            if any(not 0.0 < r <= 1.0 for r in getattr(self, name)):
                raise ValueError(f"{name} must be in (0, 1], but got {list(getattr(self, name))}.")
        for name, known in (("importance", CRITERIA), ("repair", REPAIRS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {list(known)}, but got {getattr(self, name)!r}.")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, but got {self.multiple}.")


class FromModel(Family):
    """The sub-networks of a module: widths, depth, kernels and ranks that its graph says are safe to change.

    | genes, in this order | choices | active |
    |---|---|---|
    | {branch}.keep | 0, 1: a residual branch stays | while the branches around it stay |
    | {layer}.width, .heads, .groups | how many channels, heads or groups stay | while its layers are there |
    | {layer}.kernel | sides of a depthwise kernel | while the layer is there |
    | {layer}.rank | share of the full rank; 1.0: not factorised | while the layer is there |

    Made by `space_from_model`.

    Args:
        captured: the module as a graph.
        options: what may change.
    """

    name = "from_model"
    has_weights = True
    examples_are_random = False
    """Whether the captured examples stand for any numbers of their shape."""

    def __init__(self, captured: Captured, options: SpaceOptions) -> None:
        self.captured, self.options = captured, options
        self.state: Walk = walk(captured, {**SHAPE_RULES, **LAYER_RULES})
        for producer in self.state.producers:
            if any(producer.name == f or producer.name.startswith(f"{f}.") for f in options.fixed):
                self.state.coupling.pin(producer.label, "is listed in `fixed`")
        self.units = self.state.coupling.solve()
        self.groups, self.fixed = width_groups(self.state, self.units, ratios=options.ratios, multiple=options.multiple)
        self.branches: list[Branch] = branches(captured) if options.depth else []
        live = live_nodes(captured, ())
        self._live = [n for n in captured.graph.nodes if n in live]
        self.branches = [b for b in self.branches if b.exit in live]
        self._kernels = self._kernel_choices() if options.kernels else {}
        self._ranked = self._ranked_layers() if options.ranks else {}
        self._holding = self._holders()
        self.space = SearchSpace(self._genes())
        self.input_shape = tuple(captured.example[0].shape[1:])
        self.calibration: list[tuple[Tensor, ...]] = []
        self._originals: Originals | None = None
        self._row_weights: tuple[Any, Mapping[str, Tensor]] | None = None
        self._repairable: dict[str, bool] | None = None
        self._selections: OrderedDict[str, Selection] = OrderedDict()
        self._factors: OrderedDict[tuple[Any, ...], nn.Sequential] = OrderedDict()
        self._label_sizes: dict[bytes, tuple[int, list[tuple[str, NDArray[np.int64]]]]] = {}
        self.order_by(importance(self, "group"))
        whole = rebuild(self.state, self.selection(self.space.largest()), name=self._class_name)
        self._names = dict(whole.names)
        first = _slots(whole.module)
        self._full_names = {name: first[place] for place, name in whole.names.items()}
        for layer in self._ranked:
            for leaf, part in (("weight", "reduce"), ("weight", "expand"), ("bias", "expand")):
                if f"{layer}.{leaf}" in self._names:
                    self._names[f"{layer}.{part}.{leaf}"] = self._names[f"{layer}.{leaf}"]
        self.transforms: Mapping[str, Transform] = dict.fromkeys(self._names, self._cut)

    @property
    def _class_name(self) -> str:
        return type(self.captured.module).__name__

    # -- what may change -----------------------------------------------------------------------------

    def _conditions(self, nodes: Sequence[fx.Node]) -> tuple[Condition, ...]:
        """Returns under which conditions any of these nodes is there: the branches that hold all of them."""
        holding = [set(self._holding.get(n, ())) for n in nodes]
        every = set[str]().union(*holding) if holding else set()
        names = [b.name for b in self.branches if b.name in every and all(b.name in h for h in holding)]
        return tuple(Condition(f"{name}.keep", (1,)) for name in names)

    def _genes(self) -> list[Gene]:
        genes = []
        ordered = sorted(self.branches, key=lambda b: -len(b.nodes))  # outer ones first: inner ones depend on them
        for branch in ordered:
            outer = [b for b in ordered if b is not branch and branch.nodes < b.nodes]
            genes.append(Gene(f"{branch.name}.keep", (0, 1), tuple(Condition(f"{b.name}.keep", (1,)) for b in outer)))
        readers: dict[int, list[fx.Node]] = {}
        for node in self._live:
            for argument in node.all_input_nodes:
                for label in self.state.parameters.get(self.captured.tensors.get(argument.name, ""), ()):
                    if label is not None and node.op == "call_function":
                        for unit in np.unique(self.units.of[label]):
                            readers.setdefault(int(unit), []).append(node)
        for group in self.groups:
            nodes = [n for unit in group.units for n in readers.get(int(unit), [])]
            genes.append(Gene(group.gene, group.counts, self._conditions(nodes)))
        for path, sides in self._kernels.items():
            genes.append(Gene(f"{path}.kernel", sides, self._conditions(self._nodes_of(path))))
        shares = tuple(sorted({*self.options.ranks, 1.0}))
        for path in self._ranked:
            genes.append(Gene(f"{path}.rank", shares, self._conditions(self._nodes_of(path))))
        if not genes:
            reasons = "; ".join(f"{f.layer}: {f.reason}" for f in self.fixed[:5])
            raise ValueError(f"the model must have something that can shrink, but everything is fixed ({reasons}).")
        return genes

    def _nodes_of(self, path: str) -> list[fx.Node]:
        return [n for n in self._live if self.captured.paths[n] == path and n.op == "call_function"]

    def _single(self, node: fx.Node) -> bool:
        """Whether a node is a layer that runs once and shares its weight with nobody."""
        weight = next((a for a in node.all_input_nodes if a.name in self.captured.tensors), None)
        return weight is not None and len(weight.users) == 1 and layer_of(self.captured, node) is not None

    def _kernel_choices(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for node in self._live:
            if node.op != "call_function" or operator_name(node) != "conv2d" or not self._single(node):
                continue
            args = arguments(node)
            layer = layer_of(self.captured, node)
            assert isinstance(layer, nn.Conv2d)
            side = layer.kernel_size[0]
            depthwise = int(args["groups"]) == self.state.shape(args["input"])[1] > 1
            square = layer.kernel_size == (side, side) and not isinstance(layer.padding, str)
            if depthwise and square and side % 2 and side > 3:
                found[self.captured.paths[node]] = tuple(range(3, side + 1, 2))
        return found

    def _ranked_layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        found = {}
        for node in self._live:
            if node.op != "call_function" or operator_name(node) not in {"linear", "conv2d"} or not self._single(node):
                continue
            layer = layer_of(self.captured, node)
            if not isinstance(layer, nn.Linear | nn.Conv2d) or isinstance(getattr(layer, "padding", 0), str):
                continue
            matrix = layer.weight.shape[0], layer.weight[0].numel()
            square = isinstance(layer, nn.Linear) or layer.kernel_size[0] == layer.kernel_size[1]
            if getattr(layer, "groups", 1) == 1 and square and min(matrix) >= SMALLEST_RANKED:
                found[self.captured.paths[node]] = layer
        return found

    # -- order of importance -------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Returns the floating parameters of the user's module that the graph reads, by name; live."""
        names = [name for name in self.state.parameters if self.captured.values[name].is_floating_point()]
        return {
            name: self.captured.values[name] for name in names if isinstance(self.captured.values[name], nn.Parameter)
        }

    def calibrate(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Orders the units by the criterion of the options and keeps the data for repair.

        Args:
            batches: calibration inputs, each as the model takes them; may be none where the criterion needs none.
        """
        self.calibration = list(batches)
        self.order_by(importance(self, self.options.importance, batches))

    def order_by(self, importance: NDArray[np.float64]) -> None:
        """Sorts the units of every width by descending importance, (entries,) by unit number."""
        self.groups = [group.ordered(importance) for group in self.groups]
        rank = np.zeros(self.state.coupling.count, dtype=np.int64)
        owner = np.full(self.state.coupling.count, -1, dtype=np.int64)
        for number, group in enumerate(self.groups):
            rank[group.units] = np.arange(len(group.units))
            owner[group.units] = number
        self._rank, self._owner = rank[self.units.of], owner[self.units.of]  # of every entry
        self._selections.clear()
        self._label_sizes.clear()

    def selection(self, arch: Architecture) -> Selection:
        """Returns what stays in an architecture."""
        if arch.key in self._selections:
            return self._selections[arch.key]
        counts = np.array([*(int(arch.get(g.gene, g.counts[0])) for g in self.groups), np.iinfo(np.int64).max])
        chosen = Selection(
            keep=self._rank < counts[self._owner],
            removed=tuple(b for b in self.branches if arch.get(f"{b.name}.keep", 1) == 0),
            kernels={p: arch.integer(f"{p}.kernel") for p in self._kernels if f"{p}.kernel" in arch},
            ranks=self._ranks(arch, self._rank < counts[self._owner]),
        )
        self._selections[arch.key] = chosen
        if len(self._selections) > CACHE:
            self._selections.popitem(last=False)
        return chosen

    def _ranks(self, arch: Architecture, keep: NDArray[np.bool_]) -> dict[str, int]:
        ranks = {}
        for path in self._ranked:
            share = float(arch.get(f"{path}.rank", 1.0))
            if share < 1.0:
                sizes = []
                weight = self._names[f"{path}.weight"]
                for label, full in zip(self.state.parameters[weight], self.captured.values[weight].shape, strict=True):
                    sizes.append(full if label is None else int(keep[label].sum()))
                ranks[path] = int(rank_of(share, sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1))
        return ranks

    # -- the contract --------------------------------------------------------------------------------

    def build(self, arch: Architecture) -> nn.Module:
        """Returns the plain module of an architecture: torch.nn layers under the names of the user's."""
        return rebuild(self.state, self.selection(arch), name=self._class_name).module

    def build_full(self) -> nn.Module:
        """Returns the module that owns the full weights: the user's."""
        module = self.build(self.space.largest())
        if torch.empty(0).is_meta:
            return module
        with torch.no_grad():
            for name, full in self._full_names.items():
                tensor = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
                tensor[full].copy_(self.captured.values[name])
        return module

    def _cut(self, full: Mapping[str, Tensor], name: str, shape: torch.Size, arch: Architecture) -> Tensor:
        """Cuts a subnet's tensor out of the full one by ascending indices; factors are of the cut weight."""
        selection = self.selection(arch)
        captured = self._names[name]
        tensor = full[self._full_names[captured]]
        for dim, label in enumerate(self.state.parameters.get(captured, ())):
            if label is not None and not selection.keep[label].all():
                at = torch.from_numpy(np.flatnonzero(selection.keep[label]))
                tensor = tensor.index_select(dim, at.to(tensor.device))
        layer, _, leaf = name.rpartition(".")
        owner, _, part = layer.rpartition(".")
        if leaf == "weight" and owner in selection.ranks and part in {"reduce", "expand"}:
            pair = self._factorised(owner, tensor, selection.ranks[owner], arch)
            return pair.get_submodule(part).get_parameter("weight")
        for dim in range(2, tensor.dim()):
            if tensor.shape[dim] != shape[dim]:  # a cropped kernel
                tensor = tensor.narrow(dim, (tensor.shape[dim] - shape[dim]) // 2, shape[dim])
        return tensor

    def _factorised(self, path: str, weight: Tensor, rank: int, arch: Architecture) -> nn.Sequential:
        key = (
            path,
            arch.key,
            weight._version,
            float(weight.detach().flatten()[:1].sum()),
            id(weight.untyped_storage()),
        )
        if key not in self._factors:
            old = self._ranked[path]
            if isinstance(old, nn.Linear):
                layer: nn.Linear | nn.Conv2d = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            else:
                layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=False)
            layer.weight = nn.Parameter(weight.detach().clone())
            self._factors[key] = factorise(layer, rank)
            if len(self._factors) > CACHE:
                self._factors.popitem(last=False)
        return self._factors[key]

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns all layers that any architecture can have, for the gene values (n,) of a population."""
        exists: dict[tuple[str, ...], Any] = {}
        n = len(next(iter(columns.values())))
        holders = self._holding

        def there(node: fx.Node) -> Any:
            names = holders.get(node, ())
            if not names:
                return True
            if names not in exists:
                active = np.ones(n, dtype=bool)
                for name in names:
                    active &= self._kept_branch(columns, name)
                exists[names] = active
            return exists[names]

        choices = Choices(
            size=lambda label: self._size(label, columns),
            kernel={p: columns[f"{p}.kernel"].astype(np.int64) for p in self._kernels},
            rank={p: columns[f"{p}.rank"].astype(np.float64) for p in self._ranked},
            exists=there,
            when=lambda node: tuple(Condition(f"{b}.keep", (1,)) for b in holders.get(node, ())),
        )
        return layer_specs(self.state, self.units, choices, self._live)

    def _kept_branch(self, columns: Columns, name: str) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = np.asarray(columns[f"{name}.keep"]) == 1
        return kept

    def _holders(self) -> dict[fx.Node, tuple[str, ...]]:
        """Returns node -> names of the branches without which it is not there."""
        found: dict[fx.Node, list[str]] = {}
        every = set(self._live)
        for branch in self.branches:
            for node in every - live_nodes(self.captured, (branch,)) | (branch.nodes & every):
                found.setdefault(node, []).append(branch.name)
        return {node: tuple(names) for node, names in found.items()}

    def _size(self, label: Label, columns: Columns) -> Size:
        key = label.tobytes()
        if key not in self._label_sizes:
            owner, rank = self._owner[label], self._rank[label]
            parts = [(self.groups[int(g)].gene, np.sort(rank[owner == g])) for g in np.unique(owner) if g >= 0]
            self._label_sizes[key] = int((owner < 0).sum()), parts
        fixed, parts = self._label_sizes[key]
        total: Size = fixed
        for gene, ranks in parts:
            total = total + np.searchsorted(ranks, columns[gene].astype(np.int64), side="left").astype(np.int64)
        return total

    # -- repair --------------------------------------------------------------------------------------

    def finish(self, module: nn.Module, arch: Architecture, batches: Sequence[Tensor | tuple[Tensor, ...]]) -> None:
        """Repairs an extracted subnet in place, as the options say; the full size is left as it is."""
        whole = self.space.largest()
        changed = any(arch.get(gene, 0) != value for gene, value in whole.items())
        if self.options.repair == "none" or not changed:
            return
        if self._originals is None:
            given = self.calibration or [b if isinstance(b, tuple) else (b,) for b in batches]
            if not given:
                return
            self._originals = originals(self, given)
        repair(self, module, self.selection(arch), self._originals, method=self.options.repair)

    def row_weights(self, batches: Sequence[tuple[Tensor, ...]]) -> Mapping[str, Tensor]:
        """Returns layer -> how much every row of its output matters, (rows,); remembered for the same data."""
        if self._row_weights is None or self._row_weights[0] is not batches[0][0]:
            self._row_weights = batches[0][0], sensitivities(self, batches)
        return self._row_weights[1]

    def repairable(self) -> Mapping[str, bool]:
        """Returns layers that can make up for what is missing -> whether a residual sum follows; in graph order."""
        if self._repairable is None:
            self._repairable = {}
            for node in self._live:
                if node.op == "call_function" and operator_name(node) in {"linear", "conv2d"} and self._single(node):
                    path = self.captured.paths[node]
                    label = self.state.parameters[f"{path}.weight"][1]
                    end = node
                    while len(end.users) == 1 and operator_name(next(iter(end.users))) == "dropout":
                        end = next(iter(end.users))
                    into_sum = len(end.users) == 1 and operator_name(next(iter(end.users))) == "add"
                    if into_sum or (label is not None and bool((self._owner[label] >= 0).any())):
                        self._repairable[path] = into_sum
        return self._repairable

    def repair_order(self, selection: Selection) -> list[str]:
        """Returns the layers to repair, in graph order: those behind the first change that can make up for it."""
        later = {self.captured.paths[node] for node in self._live[self._first_change(selection) :]}
        return [path for path in self.repairable() if path in later]

    def _first_change(self, selection: Selection) -> int:
        """Returns the position of the first node that a selection changes."""
        exits = {branch.exit for branch in selection.removed}
        for i, node in enumerate(self._live):
            names = [self.captured.tensors[n.name] for n in node.all_input_nodes if n.name in self.captured.tensors]
            labels = [label for name in names for label in self.state.parameters.get(name, ()) if label is not None]
            path = self.captured.paths[node]
            cut = any(not selection.keep[label].all() for label in labels)
            if node in exits or cut or path in selection.kernels or path in selection.ranks:
                return i
        return len(self._live)

    def first_output(self, output: Any) -> Tensor:
        """Returns the first floating tensor of what the user's module returns."""
        leaves = pytree.tree_leaves(dict(output.items()) if hasattr(output, "items") else output)
        return next(x for x in leaves if isinstance(x, Tensor) and x.is_floating_point())

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns none: widths are ordered by importance as they are, without moving weights."""
        return []

    def published_name(self, name: str) -> str | None:
        """Returns the user's name of a full tensor."""
        return name

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns examples drawn from the ones that the model was captured with."""
        if self.examples_are_random:
            return tuple(torch.randn(batch, *x.shape[1:], generator=generator) for x in self.captured.example)
        rows = torch.randint(0, len(self.captured.example[0]), (batch,), generator=generator)
        return tuple(x[rows].clone() for x in self.captured.example)


def space_from_model(
    module: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    *,
    options: SpaceOptions = SpaceOptions(),  # frozen
    output: str | None = None,
    calibration: Sequence[tuple[Tensor, ...]] = (),
) -> FromModel:
    """Returns the family of all sub-networks of a trained module; the module is not changed.

    Args:
        module: any that torch.export takes, with its weights.
        example_inputs: one tensor, positional ones, or keyword ones by name; dimension 0 of each is the batch.
        options: what may change.
        output: of a module that returns several: the one to keep.
        calibration: input batches for criteria and repairs that need data.

    Raises:
        CaptureError: torch cannot export the module; says why.
        ValueError: nothing in it can shrink; says why.
    """
    family = FromModel(capture(module, example_inputs, output=output), options)
    family.calibrate(calibration)
    return family
