"""Block sparsity: tiles of several outputs and inputs that are zero together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from search_spaces.pattern import FP32_BYTES, Pattern, kept, top_mask


@dataclass(frozen=True)
class Block(Pattern):
    """The weakest share `sparsity` of a layer's tiles is zero; a tile is `rows` outputs x `columns` inputs.

    Every kernel position has tiles of its own. A tile's score is the sum of its weights' scores. Encoding: one
    bit per tile, and the values of the kept ones.

    Args:
        rows: outputs per tile.
        columns: inputs per tile.
        sparsity: share of zero tiles.
    """

    rows: int
    columns: int
    sparsity: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.rows * self.columns < 2:
            raise ValueError(f"a block must have at least 2 weights, but got {self.rows}x{self.columns}.")
        if not 0.0 < self.sparsity < 1.0:
            raise ValueError(f"block sparsity must be between 0 and 1, but got {self.sparsity}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name that `parse_pattern` reads."""
        return f"block-{self.rows}x{self.columns}-{self.sparsity:g}"

    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns whether tiles cover the weight exactly and there are at least two."""
        divides = (outputs % self.rows == 0) & (inputs % self.columns == 0)
        return divides & (self.blocks(outputs, inputs, kernel) >= 2)

    def blocks(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the number of tiles of a weight that fits."""
        return (outputs // self.rows) * (inputs // self.columns) * kernel * kernel

    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return kept(self.blocks(outputs, inputs, kernel), self.sparsity) * (self.rows * self.columns)

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        bitmap = (self.blocks(outputs, inputs, kernel) + 7) // 8
        return FP32_BYTES * self._nonzeros(outputs, inputs, kernel) + bitmap

    def tiles(self, weight: Tensor) -> Tensor:
        """Returns the weight as (outputs / rows, inputs / columns, kernel positions, rows, columns)."""
        outputs, inputs = weight.shape[0], weight.shape[1]
        cut = weight.reshape(outputs // self.rows, self.rows, inputs // self.columns, self.columns, -1)
        return cut.permute(0, 2, 4, 1, 3)

    def _mask(self, scores: Tensor) -> Tensor:
        tiles = self.tiles(scores)
        strength = tiles.sum((3, 4))
        mask = top_mask(strength, int(kept(strength.numel(), self.sparsity)))
        whole = mask[..., None, None].expand(tiles.shape).permute(0, 3, 1, 4, 2)
        return whole.reshape(scores.shape)
