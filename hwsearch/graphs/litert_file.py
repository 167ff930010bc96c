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
    "DENSIFY": "DensifyOptions",
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

    def sparse_constant(self, array: NDArray[np.float32]) -> int:
        """Adds a constant of which only the non-zeros are stored (compressed rows along the last axis); its number.

        A DENSIFY operator gives the dense tensor; XNNPACK takes the sparse one where it has a kernel for it.
        """
        rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
        kept = rows != 0
        made = self._schema.TensorT()
        made.shape = list(array.shape)
        made.type = self._schema.TensorType.FLOAT32
        self._arrays.append(rows[kept].tobytes())
        made.buffer = len(self._arrays)
        made.sparsity = self._schema.SparsityParametersT()
        made.sparsity.traversalOrder = list(range(array.ndim))
        made.sparsity.dimMetadata = [self._dense_axis(size) for size in array.shape[:-1]]
        segments = np.concatenate([[0], np.cumsum(kept.sum(1))])
        made.sparsity.dimMetadata.append(self._sparse_axis(segments, np.nonzero(kept)[1]))
        source = self._add(made)
        dense = self._schema.TensorT()
        dense.shape = list(array.shape)
        dense.type = self._schema.TensorType.FLOAT32
        dense.buffer = 0
        out = self._add(dense)
        self.operator("DENSIFY", [source], out, {})
        return out

    def _dense_axis(self, size: int) -> Any:
        made = self._schema.DimensionMetadataT()
        made.format, made.denseSize = self._schema.DimensionType.DENSE, size
        return made

    def _sparse_axis(self, segments: NDArray[np.int64], indices: NDArray[np.int64]) -> Any:
        made = self._schema.DimensionMetadataT()
        made.format = self._schema.DimensionType.SPARSE_CSR
        for field, values in (("arraySegments", segments), ("arrayIndices", indices)):
            top = int(values.max(initial=0))
            name = "Uint8Vector" if top < 2**8 else "Uint16Vector" if top < 2**16 else "Int32Vector"
            vector = getattr(self._schema, f"{name}T")()
            vector.values = values.astype(np.int32).tolist()
            setattr(made, field, vector)
            setattr(made, f"{field}Type", getattr(self._schema.SparseIndexVector, name))
        return made

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
