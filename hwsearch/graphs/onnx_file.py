"""An ONNX file from nodes and arrays, with every weight copied once.

onnx.helper and SerializeToString copy all weights four times, which took half the time of an export. Protocol buffers
write a message as its fields one after another, so the weights are joined between the serialised rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

IR_VERSION = 8
# (field number << 3) | 2, "length-delimited": numbers of onnx.proto
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7 << 3 | 2, 5 << 3 | 2, 9 << 3 | 2


def onnx_file(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, NDArray[Any]],
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int,
) -> bytes:
    """Returns the bytes of a model; the same for the same arguments.

    Args:
        nodes: in an order in which they can run.
        tensors: constants by name.
        inputs: of the graph.
        outputs: of the graph.
        opset: of the default domain.
    """
    graph = helper.make_graph(nodes, "model", inputs, outputs)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="hwsearch")
    model.opset_import.append(helper.make_opsetid("", opset))
    parts = [graph.SerializeToString(deterministic=True)]
    for name, array in tensors.items():
        parts += _tensor(name, array)
    return b"".join([model.SerializeToString(deterministic=True), *_field(_MODEL_GRAPH, parts)])


def onnx_node(
    operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, int | float | Sequence[int]]
) -> onnx.NodeProto:
    """Returns a node with one output, named after it; attributes in the order of their names.

    As onnx.helper.make_node, whose tests of every attribute's type took a third of the time that writing a graph takes.
    """
    node = onnx.NodeProto(op_type=operator, input=inputs, output=[output], name=output)
    for name in sorted(attributes):
        value = attributes[name]
        if isinstance(value, int):
            node.attribute.add(name=name, type=onnx.AttributeProto.INT, i=value)
        elif isinstance(value, float):
            node.attribute.add(name=name, type=onnx.AttributeProto.FLOAT, f=value)
        else:
            node.attribute.add(name=name, type=onnx.AttributeProto.INTS, ints=value)
    return node


def _tensor(name: str, array: NDArray[Any]) -> list[bytes | memoryview]:
    header = onnx.TensorProto(
        name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
    ).SerializeToString(deterministic=True)
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return _field(_GRAPH_INITIALIZER, [header, *_field(_TENSOR_RAW_DATA, [raw])])


def _field(tag: int, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    return [_varint(tag) + _varint(sum(map(len, parts))), *parts]


def _varint(number: int) -> bytes:
    """Returns a whole number, 7 bits per byte, lowest first, the top bit set on all but the last."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
