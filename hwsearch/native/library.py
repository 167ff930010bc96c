"""Library: a compiled network opened with ctypes, and called with NumPy arrays."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import DeviceError
from hwsearch.native.scratch import scratch

DTYPES = {"float": np.float32, "int64_t": np.int64}


class Library:
    """A network in a shared library.

    Args:
        content: of the library.
        inputs: shape of one example and dtype (`float`, `int64_t`) of each input.
        output: shape of one example's result.
        scratch_bytes: that a call needs.
        what: for messages.

    Raises:
        DeviceError: the system does not load it.
    """

    def __init__(
        self,
        content: bytes,
        *,
        inputs: Sequence[tuple[tuple[int, ...], str]],
        output: tuple[int, ...],
        scratch_bytes: int,
        what: str = "the native library",
    ) -> None:
        self.inputs = [(tuple(shape), kind) for shape, kind in inputs]
        self.output = tuple(output)
        self._scratch = scratch(scratch_bytes)
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(content)
            file.flush()
            try:
                library = ctypes.CDLL(file.name)  # mapped: the file may go
                self._run = library.model_run
            except (OSError, AttributeError) as error:
                raise DeviceError(f"the system cannot open {what}: {' '.join(str(error).split())[:300]}") from error
        self._run.restype = None
        self._run.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * (len(self.inputs) + 2)]

    def check(self, arrays: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Returns the inputs as the library reads them.

        Raises:
            DeviceError: their number, shapes or batches are wrong.
        """
        if len(arrays) != len(self.inputs):
            raise DeviceError(f"the library cannot run the inputs: it takes {len(self.inputs)}, but got {len(arrays)}.")
        for array, (shape, _) in zip(arrays, self.inputs, strict=True):
            if array.shape[1:] != shape or array.shape[0] != arrays[0].shape[0]:
                raise DeviceError(
                    f"the library cannot run the inputs: one example must be {shape}, but got {array.shape[1:]}."
                )
        kinds = [DTYPES[kind] for _, kind in self.inputs]
        return [np.ascontiguousarray(a, dtype=kind) for a, kind in zip(arrays, kinds, strict=True)]

    def run(self, *arrays: NDArray[np.generic]) -> NDArray[np.float32]:
        """Returns (batch, ...) results."""
        ready = self.check(arrays)
        out = np.empty((len(ready[0]), *self.output), np.float32)
        self._call(ready, out)
        return out

    def bound(self, *arrays: NDArray[np.generic]) -> Call:
        """Returns a call without arguments that computes the same into memory of its own, for timing."""
        ready = self.check(arrays)
        return Call(self, ready, np.empty((len(ready[0]), *self.output), np.float32))

    def _call(self, ready: Sequence[NDArray[np.generic]], out: NDArray[np.float32]) -> None:
        addresses = [array.ctypes.data for array in (*ready, out, self._scratch)]
        self._run(len(out), *addresses)


class Call:
    """A bound call; see `Library.bound`."""

    def __init__(self, library: Library, ready: Sequence[NDArray[np.generic]], out: NDArray[np.float32]) -> None:
        self._kept = (library, ready, out)
        self._function = library._run
        self._arguments = (len(out), *(array.ctypes.data for array in (*ready, out, library._scratch)))

    def __call__(self) -> object:
        """Runs the network once."""
        self._function(*self._arguments)
        return self._kept
