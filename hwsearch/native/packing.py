"""Packing: weight matrices as the streams that the kernels read (`runtime/hw_pointwise.c` has their layout)."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
GROUP = 4
"""Outputs that share their inputs: HW_GROUP."""
BLOCK_BYTES = 28 * 1024
"""Of a tile of inputs: what stays in a first-level cache of 32 KiB beside the rest; blocks are about so large."""
MOST_COLUMNS = 1 << 16
TILE = 7
"""Vectors of positions that are computed at a time: HW_TILE."""


def pack_pairs(weight: FloatArray, *, stride: int, block: int | None = None, together: int = 1) -> IntArray:
    """Returns the stream of `hw_pairs`: the non-zeros of each row, rows with equally many of them side by side.

    Args:
        weight: (outputs, inputs).
        stride: floats per row of the input matrix.
        block: inputs that are used together before the next ones; all of them if None.
        together: tiles of positions that a pair of rows takes before the next pair.
    """
    inputs = weight.shape[1]
    block = inputs if block is None else block
    starts = range(0, max(inputs, 1), max(block, 1))
    parts = [np.array([together, len(starts)], np.int32)]
    for start in starts:
        last = start + block >= inputs
        parts.append(_block(weight[:, start : start + block], start, stride, first=start == 0, last=last))
    return np.concatenate(parts)


def _block(weight: FloatArray, start: int, stride: int, *, first: bool, last: bool) -> IntArray:
    counts = np.count_nonzero(weight, axis=1)
    order = np.argsort(-counts, kind="stable")
    if not (first or last):
        order = order[counts[order] > 0]  # nothing to add to a row: it is left as it is
    order = np.append(order, order[-1:]) if len(order) % 2 else order  # the last row is paired with itself
    heads, seconds = order[0::2], order[1::2]
    lengths = counts[heads]
    ends = np.cumsum(2 + 4 * lengths)
    body = np.zeros(int(ends[-1]) if len(ends) else 0, np.int32)
    places = np.r_[0, ends[:-1]].astype(np.int64) if len(ends) else np.zeros(0, np.int64)
    body[places] = heads
    body[places + 1] = seconds
    # Missing entries of the shorter row of a pair: weight 0 of the block's first input.
    position = np.arange(len(body))
    inside = np.ones(len(body), bool)
    inside[places] = inside[places + 1] = False
    offset = position - np.repeat(places, 2 + 4 * lengths) - 2
    body[inside & (offset % 4 < 2)] = start * stride
    for member, rows in enumerate((heads, seconds)):
        row, column = np.nonzero(weight[rows])
        nth = np.arange(len(row)) - np.searchsorted(row, row)
        at = places[row] + 2 + 4 * nth + member
        body[at] = (start + column) * stride
        body[at + 2] = weight[rows][row, column].view(np.int32)
    # Runs of pairs of equal length: header (length, pairs) before each.
    changes = np.flatnonzero(np.diff(lengths)) + 1
    firsts = np.r_[0, changes].astype(np.int64) if len(lengths) else np.zeros(0, np.int64)
    pairs = np.diff(np.r_[firsts, len(lengths)])
    headers = np.stack([lengths[firsts], pairs], axis=1).astype(np.int32).reshape(-1)
    stream = np.insert(body, np.repeat(places[firsts], 2), headers)
    return np.concatenate([np.array([len(firsts), first, last], np.int32), stream])


def pack_groups(weight: FloatArray, *, stride: int, dense: bool = True, together: int = 1) -> IntArray:
    """Returns the stream of `hw_groups`: groups of `GROUP` rows with their inputs.

    Args:
        weight: (outputs, inputs).
        stride: floats per row of the input matrix.
        dense: every input of every group; otherwise those with a non-zero in one of its rows.
        together: tiles of positions that a group takes before the next group.
    """
    outputs, inputs = weight.shape
    groups = -(-outputs // GROUP)
    padded = np.zeros((groups * GROUP, inputs), np.float32)
    padded[:outputs] = weight
    tiles = padded.reshape(groups, GROUP, inputs)
    used: NDArray[np.bool_] = np.ones((groups, inputs), np.bool_) if dense else (tiles != 0).any(axis=1)
    parts = [np.array([together, groups], np.int32)]
    for group in range(groups):
        columns = np.flatnonzero(used[group])
        entries = np.empty((len(columns), 1 + GROUP), np.int32)
        entries[:, 0] = columns * stride
        entries[:, 1:] = np.ascontiguousarray(tiles[group][:, columns].T).view(np.int32)
        rows = min(GROUP, outputs - group * GROUP)
        parts += [np.array([group * GROUP, rows, len(columns)], np.int32), entries.reshape(-1)]
    return np.concatenate(parts)


def pack_vector(weight: FloatArray) -> IntArray:
    """Returns the stream of `hw_sparse_vector`: per row the number of its non-zeros, their columns, their weights.

    Args:
        weight: (outputs, inputs), at most `MOST_COLUMNS` inputs.
    """
    row, column = np.nonzero(weight)
    counts = np.bincount(row, minlength=len(weight)).astype(np.int64)
    words = (counts + 1) // 2
    starts = np.r_[0, np.cumsum(1 + words + counts)[:-1]] if len(counts) else np.zeros(0, np.int64)
    stream = np.zeros(int((1 + words + counts).sum()), np.int32)
    stream[starts] = counts
    nth = np.arange(len(row)) - np.searchsorted(row, row)
    halves = stream.view(np.uint16)
    low = 0 if sys.byteorder == "little" else 1
    halves[2 * (starts[row] + 1 + nth // 2) + (nth % 2 ^ low)] = column
    stream[starts[row] + 1 + words[row] + nth] = weight[row, column].view(np.int32)
    return stream


def block_count(inputs: int, vector: int) -> int:
    """Returns into how many blocks inputs are cut. vector: floats per vector.

    To the nearest: sums that are stored and loaded again cost more than a block that is a third too large.
    """
    return max(1, round(inputs * 4 * vector * TILE / BLOCK_BYTES))
