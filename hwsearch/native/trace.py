"""Trace: the functions that a plain module calls on its inputs, in order, with every shape.

Not the layer trace that the ONNX writer uses: a symbol has no shape, while generated code needs all of them, and
encoders split and join heads. Here the module runs once on an example of batch 1, and what it calls is noted, so
ordinary Python (`x.shape`, `if`, loops) is followed. A value that would decide what is called is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from hwsearch.errors import UserError


class Unsupported(UserError):
    """The module does something that no native kernel does. One line, without the module's name."""


VALUES_READ = frozenset(
    {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "equal", "allclose", "is_nonzero"}
)


@dataclass(frozen=True)
class Value:
    """A traced tensor: the result of a call, or an input."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call. Tensors that depend on an input stand as `Value`, all other tensors as they are.

    Args:
        name: of the function or method: `conv2d`, `add`, `__getitem__`.
        args: positional arguments.
        options: keyword arguments.
        outputs: several for functions that give a tuple.
        layer: path of the module that makes the call; empty for the outermost.
    """

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    outputs: tuple[Value, ...]
    layer: str = ""


@dataclass(frozen=True)
class Trace:
    """All calls; `output` is what the module returns."""

    inputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    output: Value


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, Value, int]] = {}  # by identity: tensor (kept alive), value, version
        self.calls: list[Call] = []
        self.count = 0
        self.paths: list[str] = []

    def value(self, tensor: Tensor) -> Value:
        value = Value(self.count, tuple(tensor.shape))
        self.count += 1
        self.known[id(tensor)] = (tensor, value, tensor._version)
        return value

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), options: Any = None) -> Any:
        options = options or {}
        name = getattr(function, "__name__", str(function))
        traced = any(self._known(a) for a in _flat((*args, *options.values())))
        if traced and name in VALUES_READ:
            raise Unsupported(f"its code reads the values of a tensor ({name})")
        noted = (tuple(map(self._note, args)), {key: self._note(a) for key, a in options.items()}) if traced else None
        result = function(*args, **options)
        if noted is None:
            return result
        results = result if isinstance(result, tuple | list) else (result,)
        if all(isinstance(r, Tensor) for r in results):
            outputs = tuple(map(self.value, results))
            self.calls.append(Call(name, *noted, outputs, self.paths[-1] if self.paths else ""))
        elif any(isinstance(r, Tensor) for r in results):
            raise Unsupported(f"function {name}, which gives more than tensors")
        return result

    def _known(self, argument: Any) -> bool:
        return isinstance(argument, Tensor) and id(argument) in self.known

    def _note(self, argument: Any) -> Any:
        if isinstance(argument, tuple | list):
            return tuple(map(self._note, argument))
        if not self._known(argument):
            return argument
        tensor, value, version = self.known[id(argument)]
        if tensor._version != version:
            raise Unsupported("a tensor that was changed in place through another one")
        return value


def trace_module(module: nn.Module, example: Sequence[Tensor]) -> Trace:
    """Returns what `module(*example)` calls; the module, in eval mode, is not changed.

    Args:
        module: plain module on the CPU, in eval mode.
        example: inputs, each of batch 1.

    Raises:
        Unsupported: the module reads values, or does not return one tensor that depends on its inputs.
    """
    recorder = _Recorder()
    inputs = [tensor.clone() for tensor in example]
    values = tuple(map(recorder.value, inputs))
    try:
        with torch.no_grad(), recorder, _paths_known(module, recorder):
            output = module(*inputs)
    except Unsupported:
        raise
    except Exception as error:  # whatever the module's own code raises
        raise Unsupported(f"its code fails on one example: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(output, Tensor):
        raise Unsupported(f"an output of type {type(output).__name__}")
    if id(output) not in recorder.known:
        raise Unsupported("an output that does not depend on the inputs")
    return Trace(values, tuple(recorder.calls), recorder.known[id(output)][1])


@contextmanager
def _paths_known(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Keeps the path of the part of `module` that runs in the recorder."""
    names = {part: name for name, part in module.named_modules()}

    def enter(part: nn.Module, inputs: Any) -> None:
        if part in names:
            recorder.paths.append(names[part])

    def leave(part: nn.Module, inputs: Any, output: Any) -> None:
        if part in names:
            recorder.paths.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
