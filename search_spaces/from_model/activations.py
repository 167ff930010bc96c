"""Activations of the original on calibration data: what repairs aim at, and how much every row of them matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search_spaces.from_model.layers_of import layer_of
from search_spaces.from_model.walk import operator_name

if TYPE_CHECKING:
    from search_spaces.from_model.family import FromModel

Batch = tuple[Tensor, ...]
ROWS = 16384
"""Rows (tokens, pixels) per layer that are kept, of those that matter: ten times the inputs of a large layer."""
EXAMPLES = 64
"""In one backward pass."""


@dataclass(frozen=True)
class Originals:
    """What the original does on calibration data.

    Args:
        batch: all calibration examples.
        outputs: layer -> its output, (rows, channels).
        sums: layer -> its input, where that is a sum, (rows, channels).
        weights: layer -> how much an error in each row of its output moves the model's output, (rows,).
        kept: which rows of all these are, see `Kept`.
    """

    batch: Batch
    outputs: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    kept: Kept


class Kept:
    """Which rows of a value are kept, the same ones of all values with as many rows.

    Rows without weight in every layer, such as padding that the model masks, are left out, so that they take no room
    from others; of the rest all are kept or `ROWS` at random.

    Args:
        weights: layer -> of all rows of its output, (rows,).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        matters: dict[int, Tensor] = {}
        for w in weights.values():
            matters[len(w)] = matters.get(len(w), torch.zeros(len(w), dtype=torch.bool)) | (w > 0)
        self._rows = {count: chosen(mask.nonzero()[:, 0]) for count, mask in matters.items()}

    def of(self, flat: Tensor) -> Tensor:
        """Returns the kept rows of a value (rows, channels), a copy."""
        count = len(flat)
        if count not in self._rows:
            self._rows[count] = chosen(torch.arange(count))
        return flat[self._rows[count]]

    def out(self, x: Tensor, *, of: nn.Module) -> Tensor:
        """Returns the kept rows of a layer's output, (rows, channels); `of` says where its channels are."""
        return self.of(_flat(x.detach(), of=of))


def originals(family: FromModel, batches: Sequence[Batch]) -> Originals:
    """Returns activations of all layers that a repair may look at, in one pass.

    Args:
        family: of the original.
        batches: calibration inputs, as the model takes them.
    """
    captured = family.captured
    of_rows = family.row_weights(batches)
    kept = Kept(of_rows)
    layers = {p: m for p, m in captured.module.named_modules() if fitted(m)}
    sums: dict[str, None] = {}
    for node in captured.graph.nodes:
        if node.op == "call_function" and operator_name(node) == "add":
            for user in node.users:
                if user.args[0] is node and layer_of(captured, user) is not None:
                    sums[captured.paths[user]] = None
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    handles = []
    for path, layer in layers.items():
        if path in family.repairable():

            def after(module: nn.Module, args: Batch, output: Tensor, path: str = path) -> None:
                outputs[path] = kept.out(output, of=module)

            handles.append(layer.register_forward_hook(after))
    for path in sums:
        layer = captured.module.get_submodule(path)

        def before(module: nn.Module, args: Batch, path: str = path) -> None:
            inputs[path] = kept.out(args[0], of=module)

        handles.append(layer.register_forward_pre_hook(before))
    batch = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    try:
        with torch.no_grad():
            captured.module(*batch)
    finally:
        for handle in handles:
            handle.remove()
    weights = {p: kept.of(w) for p, w in of_rows.items() if p in outputs}
    return Originals(batch, outputs, inputs, weights, kept)


def sensitivities(family: FromModel, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Returns layer -> size of the gradient of a random projection of the model's output, (rows,), mean 1.

    Its square is the diagonal of the Gauss-Newton matrix, averaged over channels; the root is taken because one
    projection is a noisy estimate. A padding token that the model masks has weight 0, without anybody saying so. Ones
    where nothing can be differentiated.

    Args:
        family: of the original.
        batches: calibration inputs.
    """
    module = family.captured.module
    layers = {p: m for p, m in module.named_modules() if fitted(m)}
    found: dict[str, list[Tensor]] = {}
    needed = [(p, p.requires_grad) for p in module.parameters()]
    generator = torch.Generator().manual_seed(0)
    try:
        for p, _ in needed:
            p.requires_grad_(False)  # gradients of activations only: half the work
        for whole in batches:
            for part in zip(*(torch.split(x, EXAMPLES) for x in whole), strict=True):
                for path, squares in _squared(family, layers, part, generator).items():
                    found.setdefault(path, []).append(squares)
    finally:
        for p, before in needed:
            p.requires_grad_(before)
    out = {}
    for path, parts in found.items():
        total = torch.cat(parts)
        out[path] = total / total.mean() if float(total.mean()) > 0 else torch.ones_like(total)
    return out


def _squared(
    family: FromModel, layers: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns layer -> squared gradients by row, (rows,), of one batch; a layer that runs twice counts once."""
    found: dict[str, Tensor] = {}
    handles = []
    for path, layer in layers.items():

        def after(module: nn.Module, args: Batch, output: Tensor, path: str = path) -> None:
            if path in found:
                return
            if not output.requires_grad:
                output.requires_grad_()
            found[path] = output.new_ones(output.numel() // output.shape[_channels(module)])

            def note(gradient: Tensor) -> None:
                found[path] = _flat(gradient, of=module).square().mean(1).sqrt()

            output.register_hook(note)  # type: ignore[no-untyped-call]

        handles.append(layer.register_forward_hook(after))
    try:
        with torch.enable_grad():
            out = family.first_output(family.captured.module(*batch))
            if out.requires_grad:
                projected = (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
                projected.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return found


def fitted(layer: nn.Module) -> bool:
    """Whether a layer is one that closed forms fit: linear, or a convolution of one group."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.groups == 1 and not isinstance(layer.padding, str)
    )


def _channels(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm) else -1


def _flat(x: Tensor, *, of: nn.Module) -> Tensor:
    return x.movedim(_channels(of), -1).reshape(-1, x.shape[_channels(of)])


def unfolded(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns what a linear layer or convolution multiplies by its weight, (rows, inputs * kernel)."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        columns = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])
    return x.reshape(-1, x.shape[-1])


def chosen(candidates: Tensor) -> Tensor:
    """Returns which of some rows (k,) are kept, ascending: all of them or `ROWS` at random, the same at every call."""
    if len(candidates) <= ROWS:
        return candidates
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(len(candidates)))
    return candidates[order[:ROWS].sort().values]
