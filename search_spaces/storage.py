"""Storage formats: bytes of one weight in each of the usual encodings, exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from search_spaces.block_sparsity import Block
from search_spaces.pattern import FP32_BYTES, Pattern
from search_spaces.sparsity import NOfM

POINTER_BYTES = 4


def storage_bytes(pattern: Pattern, outputs: Any, inputs: Any, kernel: Any = 1) -> dict[str, Any]:
    """Returns format -> bytes of a weight with fp32 values under a pattern; sizes are ints or arrays (n,).

    dense: all values. bitmap: one bit per weight and the kept values. csr: kept values, a column index each (2
    bytes up to 65,536 columns, else 4) and 4 bytes per row and one more, with rows = outputs and columns = inputs *
    kernel^2. own: the pattern's compressed form (n:m positions, block bitmap, group supports), where it fits.
    `stored_bytes` of the costs is the smaller one of dense and own, which is what exports write.
    """
    kept = pattern.nonzeros(outputs, inputs, kernel)
    columns = np.asarray(inputs * kernel * kernel)
    weights = outputs * columns
    index_bytes = np.where(columns <= 2**16, 2, 4)
    formats = {
        "dense": FP32_BYTES * weights,
        "bitmap": FP32_BYTES * kept + (weights + 7) // 8,
        "csr": (FP32_BYTES + index_bytes) * kept + POINTER_BYTES * (outputs + 1),
    }
    if bool(np.all(pattern.fits(outputs, inputs, kernel))):
        name = "n:m" if isinstance(pattern, NOfM) else "block" if isinstance(pattern, Block) else "own"
        formats[name] = pattern.own_bytes(outputs, inputs, kernel)
    return formats
