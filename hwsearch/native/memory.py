"""Memory: where in the caller's scratch each buffer lies; buffers that are not needed together share their place."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.native.nodes import Network, Node
from hwsearch.native.targets import padded

ALIGNED = 16
"""Floats: 64 bytes."""
IN_PLACE = frozenset({"unary", "binary", "rows", "affine"})


@dataclass(frozen=True)
class Layout:
    """Places in floats from the start of the scratch memory.

    Args:
        offsets: of every buffer that is used. temporary: of every node that needs scratch of its own, by position.
        floats: in all.
    """

    offsets: dict[int, int]
    temporary: dict[int, int]
    floats: int


def plan_memory(network: Network, *, vector: int, strips: dict[int, int]) -> Layout:
    """Returns the places of all buffers.

    Args:
        network: its nodes run in order.
        vector: floats per vector.
        strips: rows of output pixels that a node with patches takes at a time, by position.
    """
    last: dict[int, int] = {network.output: len(network.nodes)}
    for i, node in enumerate(network.nodes):
        for buffer in node.reads:
            last[buffer] = max(last.get(buffer, i), i)
    offsets: dict[int, int] = {}
    temporary: dict[int, int] = {}
    alive: list[tuple[int, int, int]] = []  # offset, size, last node that reads it
    total = 0

    def place(size: int, until: int) -> int:
        nonlocal total
        size = -(-size // ALIGNED) * ALIGNED
        at = 0
        for begin, length, _ in sorted(alive):
            if begin - at >= size:
                break
            at = max(at, begin + length)
        alive.append((at, size, until))
        total = max(total, at + size)
        return at

    for i, node in enumerate(network.nodes):
        alive[:] = [entry for entry in alive if entry[2] >= i]
        for buffer in node.writes:
            until = last.get(buffer, i)
            first = node.inputs[0] if node.inputs else -1
            if buffer == node.output and node.kind in IN_PLACE and first >= 0 and last[first] == i:
                offsets[buffer] = offsets[first]
                alive[:] = [(a, s, until if a == offsets[first] else u) for a, s, u in alive]
                continue
            rows, n = network.buffers[buffer]
            # A depthwise convolution writes up to a vector behind its output, and reads two behind its input.
            offsets[buffer] = place(rows * padded(n, vector) + 2 * vector, until)
        need = node_scratch(node, network, vector=vector, strip=strips.get(i, 0))
        if need:
            temporary[i] = place(need, i)
    return Layout(offsets, temporary, total)


def node_scratch(node: Node, network: Network, *, vector: int, strip: int) -> int:
    """Returns the floats that a node needs while it runs."""
    numbers = node.numbers
    if node.kind == "depthwise":
        k, stride, p = numbers["kernel"], numbers["stride"], numbers["padding"]
        rows = max((numbers["out_height"] - 1) * stride + k, numbers["height"] + p)
        wide = numbers["width"] + 2 * p
        width = (wide if stride == 1 else (wide + 1) // 2) + vector + k
        return int(k * k * vector + stride * rows * width + vector)
    if node.kind == "matrix" and numbers.get("patches"):
        return int(numbers["channels"] * numbers["kernel"] ** 2 * padded(strip * numbers["out_width"], vector))
    if node.kind == "attention":
        queries, keys, size = numbers["queries"], numbers["keys"], numbers["size"]
        return int((size + keys) * vector if queries == 1 else keys * padded(queries, vector))
    return 0
