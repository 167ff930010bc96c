"""A LiteRT file from operators and arrays: one graph, weights behind the flatbuffer, aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
VERSIONS: Mapping[str, int] = {"FULLY_CONNECTED": 5, "DEPTHWISE_CONV_2D": 2, "RSQRT": 1}
"""Of operators whose first version lacks what is used; all others are version 1."""
OPTIONS: Mapping[str, str] = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MEAN": "ReducerOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "GELU": "GeluOptions",
    "GATHER": "GatherOptions",
    "HARD_SWISH": "HardSwishOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
}
"""Operator -> table of its options, also where none is set."""


def schema() -> Any:
    """Returns the generated schema of the format.

    Raises:
        ImportError: LiteRT is not installed.
    """
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


class LiteRtFile:
    """Collects tensors and operators of one graph; `inputs` and `outputs` are numbers of tensors."""

    def __init__(self) -> None:
        self._schema = schema()
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._arrays: list[bytes] = []
        self._known: dict[tuple[bytes, str, tuple[int, ...]], int] = {}
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def tensor(self, shape: Sequence[int], *, dtype: str = "float32") -> int:
        """Adds an activation of this shape without batch, which is open; returns its number."""
        made = self._schema.TensorT()
        made.shape = [1, *shape]
        made.shapeSignature = [-1, *shape]
        made.type = getattr(self._schema.TensorType, dtype.upper())
        made.buffer = 0
        return self._add(made)

    def constant(self, array: NDArray[Any]) -> int:
        """Adds a constant; returns its number. Equal ones are stored once."""
        array = np.ascontiguousarray(array)
        content = array.tobytes()
        key = (content, str(array.dtype), array.shape)
        if key not in self._known:
            made = self._schema.TensorT()
            made.shape = list(array.shape)
            made.type = getattr(self._schema.TensorType, str(array.dtype).upper())
            self._arrays.append(content)
            made.buffer = len(self._arrays)
            self._known[key] = self._add(made)
        return self._known[key]

    def _add(self, tensor: Any) -> int:
        tensor.name = f"t{len(self._tensors)}"
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, options: Mapping[str, Any]) -> None:
        """Adds an operator; `options` are fields of its table."""
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(name, len(self._codes))
        made.inputs, made.outputs = list(inputs), [output]
        if name in OPTIONS:
            made.builtinOptions = getattr(self._schema, f"{OPTIONS[name]}T")()
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, OPTIONS[name])
            for key, value in options.items():
                if not hasattr(made.builtinOptions, key):
                    raise ValueError(f"operator {name} has no option {key}.")
                setattr(made.builtinOptions, key, value)
        elif options:
            raise ValueError(f"operator {name} has no options, but got {sorted(options)}.")
        self._operators.append(made)

    def content(self) -> bytes:
        """Returns the file's bytes; the same for the same calls."""
        graph = self._schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = self.inputs, self.outputs
        graph.name = "main"
        model = self._schema.ModelT()
        model.version = 3
        model.subgraphs = [graph]
        model.operatorCodes = [self._code(name) for name in self._codes]
        model.description = "hwsearch"
        # The first buffer is empty by definition. The others say where their bytes lie behind the flatbuffer: its size
        # does not depend on these numbers as long as none of them is zero.
        offsets, end = [], 0
        for array in self._arrays:
            offsets.append(end)
            end += -(-len(array) // ALIGNMENT) * ALIGNMENT
        head = self._packed(model, [2 + offset for offset in offsets])
        start = -(-len(head) // ALIGNMENT) * ALIGNMENT
        head = self._packed(model, [start + offset for offset in offsets])
        parts = [head, bytes(start - len(head))]
        for array in self._arrays:
            parts += [array, bytes(-len(array) % ALIGNMENT)]
        return b"".join(parts)

    def _packed(self, model: Any, offsets: Sequence[int]) -> bytes:
        import flatbuffers

        empty = self._schema.BufferT()
        model.buffers = [empty]
        for offset, array in zip(offsets, self._arrays, strict=True):
            buffer = self._schema.BufferT()
            buffer.offset, buffer.size = offset, len(array)
            model.buffers.append(buffer)
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, name: str) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = VERSIONS.get(name, 1)
        return code
