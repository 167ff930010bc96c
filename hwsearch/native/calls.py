"""Calls: each node as the C statement that runs it, with its weights in the order that the kernel reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hwsearch.native.forms import FORMS, Choose, pack
from hwsearch.native.memory import Layout
from hwsearch.native.nodes import ACTIVATIONS, Network, Node
from hwsearch.native.packing import MOST_COLUMNS, pack_vector
from hwsearch.native.targets import Target, padded

SPARSE_VECTOR = 0.45
"""Density below which one position is multiplied by non-zeros only: then gathering costs less than all products."""


@dataclass
class Writer:
    """What the statements of a network are collected in: lines, forms of the matrices, weights as bytes."""

    network: Network
    target: Target
    choose: Choose
    strips: dict[int, int]
    layout: Layout
    lines: list[str] = field(default_factory=list)
    forms: list[dict[str, object]] = field(default_factory=list)
    blob: bytearray = field(default_factory=bytearray)

    def weights(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], kind: str = "float") -> str:
        """Adds a constant; returns the expression of its address."""
        self.blob += bytes(-len(self.blob) % 64)
        at = len(self.blob)
        self.blob += np.ascontiguousarray(array).tobytes()
        return f"(const {'int32_t' if kind == 'int' else 'float'} *)(w + {at})"

    def at(self, buffer: int) -> str:
        """Returns the expression of a buffer's address."""
        return f"in{-1 - buffer}" if buffer < 0 else f"s + {self.layout.offsets[buffer]}"

    def sizes(self, buffer: int) -> tuple[int, int, int]:
        """Returns rows, positions and floats per row of a buffer."""
        rows, n = self.network.buffers[buffer]
        return rows, n, padded(n, self.target.vector)

    def then(self, node: Node, bias: str, offset: str = "") -> str:
        """Returns the epilogue of a node."""
        residual = "NULL" if node.residual is None else f"{self.at(node.residual)}{offset}"
        return f"(hw_epilogue){{{bias}, {residual}, {act(node)}}}"

    def scratch(self, i: int) -> str:
        """Returns the expression of a node's own scratch."""
        return f"s + {self.layout.temporary[i]}"


def act(node: Node) -> str:
    """Returns the C name of a node's activation."""
    names = {"none": "HW_NONE", "hardswish": "HW_HSWISH", "hardsigmoid": "HW_HSIGMOID"}
    name = ACTIVATIONS[node.act]
    return names.get(name, f"HW_{name.upper()}")


def _matrix(w: Writer, i: int, node: Node) -> None:
    rows, n, stride = w.sizes(node.output)
    numbers = node.numbers
    patches, groups = bool(numbers.get("patches")), numbers.get("groups", 1)
    weight = node.weights["weight"]
    inputs = weight.shape[1]
    strip = w.strips.get(i, 0)
    in_stride = padded(strip * numbers["out_width"], w.target.vector) if patches else stride
    vectors = in_stride // w.target.vector if in_stride > 1 else 1
    if patches and numbers["plain"]:
        channel = numbers["height"] * numbers["width"]
    elif patches:
        channel = padded(numbers["height"] * numbers["width"], w.target.vector)
    bias = node.weights["bias"]
    per = rows // groups
    for g in range(groups):
        part = np.ascontiguousarray(weight[g * per : (g + 1) * per])
        form = w.choose(part, in_stride)
        stream = w.weights(pack(part, form, stride=in_stride, vector=w.target.vector), "int")
        address = w.weights(bias[g * per : (g + 1) * per])
        out = f"{w.at(node.output)} + {g * per * stride}" if g else w.at(node.output)
        residual = f" + {g * per * stride}" if g else ""
        density = np.count_nonzero(part) / max(part.size, 1)
        w.forms.append(
            {"outputs": per, "inputs": inputs, "positions": n, "density": round(float(density), 4), "form": form}
        )
        kernel = FORMS[form].kernel
        if not patches:
            source = f"{w.at(node.inputs[0])} + {g * inputs * stride}" if g else w.at(node.inputs[0])
            w.lines.append(
                f"{kernel}({source}, {out}, {stream}, {vectors}, {stride}, {w.then(node, address, residual)});"
            )
            continue
        channels = numbers["channels"] // groups
        first = f"{w.at(node.inputs[0])} + {g * channels * channel}" if g else w.at(node.inputs[0])
        shape = _map(node, channels=channels)
        step = strip * numbers["out_width"]
        w.lines.append(f"for (int r = 0; r < {numbers['out_height']}; r += {strip}) {{")
        w.lines.append(
            f"    hw_patches({first}, {channel}, {w.scratch(i)}, {in_stride}, {shape}, "
            f"{numbers['dilation']}, r, {strip});"
        )
        at = f" + r / {strip} * {step}"
        then = w.then(node, address, residual + at)
        w.lines.append(f"    {kernel}({w.scratch(i)}, {out}{at}, {stream}, {vectors}, {stride}, {then});")
        w.lines.append("}")


def _map(node: Node, *, channels: int) -> str:
    names = ("height", "width", "kernel", "stride", "padding", "out_height", "out_width")
    return f"(hw_map){{{channels}, {', '.join(str(node.numbers[name]) for name in names)}}}"


def _vector(w: Writer, i: int, node: Node) -> None:
    weight = node.weights["weight"]
    rows, inputs = weight.shape
    density = np.count_nonzero(weight) / max(weight.size, 1)
    sparse = density < SPARSE_VECTOR and inputs <= MOST_COLUMNS
    form = "sparse" if sparse else "dense"
    w.forms.append(
        {"outputs": rows, "inputs": inputs, "positions": 1, "density": round(float(density), 4), "form": form}
    )
    x, y, then = w.at(node.inputs[0]), w.at(node.output), w.then(node, w.weights(node.weights["bias"]))
    if sparse:
        w.lines.append(f"hw_sparse_vector({x}, {y}, {w.weights(pack_vector(weight), 'int')}, {rows}, {then});")
    else:
        w.lines.append(f"hw_dense_vector({x}, {y}, {w.weights(weight)}, {rows}, {inputs}, {then});")


def _depthwise(w: Writer, i: int, node: Node) -> None:
    weight, then = w.weights(node.weights["weight"]), w.then(node, w.weights(node.weights["bias"]))
    means = "NULL" if node.means is None else w.at(node.means)
    x, y, shape = w.at(node.inputs[0]), w.at(node.output), _map(node, channels=node.numbers["channels"])
    w.lines.append(f"hw_depthwise({x}, {y}, {weight}, {shape}, {means}, {w.scratch(i)}, {then});")


def _pool(w: Writer, i: int, node: Node) -> None:
    shape = _map(node, channels=node.numbers["channels"])
    flags = f"{node.numbers['max']}, {node.numbers['counted']}"
    w.lines.append(f"hw_pool({w.at(node.inputs[0])}, {w.at(node.output)}, {shape}, {flags});")


def _means(w: Writer, i: int, node: Node) -> None:
    n = node.numbers["n"]
    sizes = f"{w.sizes(node.output)[0]}, {n}, {padded(n, w.target.vector)}"
    w.lines.append(f"hw_means({w.at(node.inputs[0])}, {w.at(node.output)}, {sizes});")


def _binary(w: Writer, i: int, node: Node) -> None:
    rows, n, stride = w.sizes(node.output)
    if "with" in node.weights:
        full = np.zeros((rows, stride), np.float32)
        full[:, :n] = node.weights["with"]
        if node.numbers["sign"] == "/":
            full[:, n:] = 1.0
        other = w.weights(full)
    else:
        other = w.at(node.inputs[1])
    x, y, sign = w.at(node.inputs[0]), w.at(node.output), node.numbers["sign"]
    w.lines.append(f"hw_binary({x}, {other}, {y}, '{sign}', {rows * stride}, {act(node)});")


def _rows(w: Writer, i: int, node: Node) -> None:
    rows, _, stride = w.sizes(node.output)
    x, gate, y = w.at(node.inputs[0]), w.at(node.inputs[1]), w.at(node.output)
    w.lines.append(f"hw_binary_rows({x}, {gate}, {y}, '{node.numbers['sign']}', {rows}, {stride}, 1, {act(node)});")


def _unary(w: Writer, i: int, node: Node) -> None:
    rows, _, stride = w.sizes(node.output)
    w.lines.append(f"hw_unary({w.at(node.inputs[0])}, {w.at(node.output)}, {rows * stride}, {act(node)});")


def _affine(w: Writer, i: int, node: Node) -> None:
    rows, _, stride = w.sizes(node.output)
    scale, shift = w.weights(node.weights["scale"]), w.weights(node.weights["shift"])
    x, y = w.at(node.inputs[0]), w.at(node.output)
    w.lines.append(f"hw_affine({x}, {y}, {scale}, {shift}, {rows}, {stride}, {act(node)});")


def _layernorm(w: Writer, i: int, node: Node) -> None:
    rows, n, _ = w.sizes(node.output)
    weight, bias = w.weights(node.weights["weight"]), w.weights(node.weights["bias"])
    x, y, eps = w.at(node.inputs[0]), w.at(node.output), f"{node.numbers['eps']!r}f".replace("e-", "e-")
    w.lines.append(f"hw_layernorm({x}, {y}, {weight}, {bias}, {eps}, {rows}, {n});")


def _attention(w: Writer, i: int, node: Node) -> None:
    numbers = node.numbers
    q, k, v, *mask = (w.at(buffer) for buffer in node.inputs)
    sizes = ", ".join(str(numbers[name]) for name in ("heads", "size", "queries", "keys"))
    scale, seen = f"{numbers['scale']!r}f", mask[0] if mask else "NULL"
    w.lines.append(f"hw_attention({q}, {k}, {v}, {w.at(node.output)}, {sizes}, {scale}, {seen}, {w.scratch(i)});")


def _conversion(function: str, *, positions_first: bool) -> Callable[[Writer, int, Node], None]:
    def write(w: Writer, i: int, node: Node) -> None:
        rows, n = node.numbers["rows"], node.numbers["n"]
        sizes = f"{n}, {rows}" if positions_first else f"{rows}, {n}"
        w.lines.append(f"{function}({w.at(node.inputs[0])}, {w.at(node.output)}, {sizes});")

    return write


def _embed(w: Writer, i: int, node: Node) -> None:
    table = node.weights["table"]
    sizes = f"{node.numbers['n']}, {table.shape[1]}, {node.numbers['entries']}"
    w.lines.append(f"hw_embed({w.at(node.inputs[0])}, {w.weights(table)}, {w.at(node.output)}, {sizes});")


def _mask(w: Writer, i: int, node: Node) -> None:
    w.lines.append(f"hw_mask({w.at(node.inputs[0])}, {w.at(node.output)}, {w.sizes(node.output)[0]});")


def _columns(w: Writer, i: int, node: Node) -> None:
    rows, n, stride = w.sizes(node.output)
    given = padded(node.numbers["n"], w.target.vector)
    x, y, first = w.at(node.inputs[0]), w.at(node.output), node.numbers["first"]
    w.lines.append(f"hw_columns({x}, {y}, {rows}, {first}, {n}, {given}, 0, {stride});")
    _clear(w, y, rows, n, stride)


def _clear(w: Writer, y: str, rows: int, n: int, stride: int) -> None:
    """What stands behind the last position must be finite."""
    if stride > n:
        w.lines.append(f"for (int r = 0; r < {rows}; r++)")
        w.lines.append(f"    for (int c = {n}; c < {stride}; c++)")
        w.lines.append(f"        ({y})[r * {stride} + c] = 0.0f;")


def _stack(w: Writer, i: int, node: Node) -> None:
    _, _, stride = w.sizes(node.output)
    at = 0
    for buffer, rows in zip(node.inputs, node.numbers["rows"], strict=True):
        size = f"sizeof(float) * {rows * stride}"
        w.lines.append(f"memcpy({w.at(node.output)} + {at}, {w.at(buffer)}, {size});")
        at += rows * stride


def _join(w: Writer, i: int, node: Node) -> None:
    rows, n, stride = w.sizes(node.output)
    inputs, at = iter(node.inputs), 0
    for k, (size, constant) in enumerate(zip(node.numbers["sizes"], node.numbers["constant"], strict=True)):
        source = w.weights(node.weights[f"part{k}"]) if constant else w.at(next(inputs))
        given = size if constant else padded(size, w.target.vector)
        w.lines.append(f"hw_columns({source}, {w.at(node.output)}, {rows}, 0, {size}, {given}, {at}, {stride});")
        at += size
    _clear(w, w.at(node.output), rows, n, stride)


WRITERS: dict[str, Callable[[Writer, int, Node], None]] = {
    "matrix": _matrix,
    "vector": _vector,
    "depthwise": _depthwise,
    "pool": _pool,
    "means": _means,
    "binary": _binary,
    "rows": _rows,
    "unary": _unary,
    "affine": _affine,
    "layernorm": _layernorm,
    "attention": _attention,
    "pad": _conversion("hw_pad_rows", positions_first=False),
    "strip": _conversion("hw_strip_rows", positions_first=False),
    "from_rows": _conversion("hw_from_rows", positions_first=True),
    "to_rows": _conversion("hw_to_rows", positions_first=True),
    "embed": _embed,
    "mask": _mask,
    "columns": _columns,
    "stack": _stack,
    "join": _join,
}
