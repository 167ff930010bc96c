"""LayerTrace: which layers and functions a plain module calls, in order, found by calling it with a symbol.

For writing a graph, torch.fx would do, at ten times the cost: exporting stands in the measuring loop. Anything that is
not in the small language below ends in `Unsupported`, so nothing is guessed: a symbol has no shape, no truth value and
no length, and cannot be iterated or compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar
from unittest import mock

import torch
from torch import nn

Writer = TypeVar("Writer")
"""What collects the graph in one format."""


class Unsupported(Exception):
    """The module does something that is not in the tables; another exporter must take it. One line."""


@dataclass(frozen=True)
class Step:
    """One call.

    Args:
        output: number of the value that it gives.
        kind: `layer`, or the name of the function (`add`, `mean`, `cat`, ...).
        inputs: numbers of values, constants (numbers) or tensors that the module owns.
        arguments: the remaining positional arguments. options: the keyword ones.
        path: of the layer, or of the module whose code calls the function; empty for the whole module.
        layer: what is called, of a layer.
    """

    output: int
    kind: str
    inputs: tuple[Any, ...]
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    layer: nn.Module | None = None


@dataclass(frozen=True)
class LayerTrace:
    """All calls of a forward pass; values 0 .. n_inputs - 1 are the inputs, `output` is the result.

    `owned` maps the identity of a tensor that belongs to the module to its name.
    """

    n_inputs: int
    steps: tuple[Step, ...]
    output: int
    owned: Mapping[int, str]


@dataclass(frozen=True)
class Value:
    """A reference to the value of an earlier step, in `Step.inputs`."""

    number: int


METHODS = frozenset({"mean", "flatten", "relu", "add", "mul", "matmul", "sigmoid"})
INPLACE = frozenset({"iadd", "imul"})


class Symbol:
    """Stands for a tensor while the module is called."""

    def __init__(self, recorder: _Recorder, number: int) -> None:
        self._recorder, self._number = recorder, number

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in METHODS:
            raise Unsupported(f"tensor attribute {name}")
        return lambda *args, **options: self._recorder.function(name, (self, *args), options)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), options: Any = None) -> Symbol:
        recorder = next(a._recorder for a in _flat(args) if isinstance(a, Symbol))
        return recorder.function(function.__name__, args, options or {})

    def _refuse(self, *args: object) -> NoReturn:
        raise Unsupported("control flow or arithmetic on a tensor's values or shape")

    __bool__ = __len__ = __iter__ = __getitem__ = __int__ = __float__ = __index__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __contains__ = __neg__ = __pow__ = _refuse
    __eq__ = _refuse
    __hash__ = object.__hash__


def _operator(name: str, *, swapped: bool = False) -> Callable[[Symbol, Any], Symbol]:
    def method(self: Symbol, other: Any) -> Symbol:
        operands = (other, self) if swapped else (self, other)
        return self._recorder.function(name, operands, {})

    return method


for _name in ("add", "sub", "mul", "truediv", "matmul"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
    setattr(Symbol, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("iadd", "imul"):
    setattr(Symbol, f"__{_name}__", _operator(_name))


class _Recorder:
    def __init__(self, module: nn.Module, n_inputs: int) -> None:
        self.steps: list[Step] = []
        self.n_inputs = n_inputs
        self.paths = {part: name for name, part in module.named_modules()}
        self.overwritten: dict[int, int] = {}
        self.place = ""
        self.failed_at: str | None = None

    def symbol(self) -> Symbol:
        return Symbol(self, self.n_inputs + len(self.steps))

    def operand(self, argument: Any) -> Any:
        if not isinstance(argument, Symbol):
            return argument
        number = argument._number
        while number in self.overwritten:
            number = self.overwritten[number]
        return Value(number)

    def layer(self, layer: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]) -> Symbol:
        if layer not in self.paths or options or len(args) != 1:
            raise Unsupported(f"layer {type(layer).__name__} called with {len(args)} inputs and {len(options)} options")
        out = self.symbol()
        step = Step(out._number, "layer", (self.operand(args[0]),), path=self.paths[layer], layer=layer)
        self.steps.append(step)
        if getattr(layer, "inplace", False):
            self.overwritten[step.inputs[0].number] = out._number
        return out

    def function(self, name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> Symbol:
        out = self.symbol()
        if name == "cat":
            operands, rest = tuple(args[0]), args[1:]
        else:
            count = 2 if name.lstrip("i") in {"add", "sub", "mul", "truediv", "div", "matmul"} else 1
            operands, rest = args[:count], args[count:]
        inputs = tuple(self.operand(argument) for argument in operands)
        if any(isinstance(argument, Symbol) for argument in _flat((*rest, *options.values()))):
            raise Unsupported(f"function {name} with a tensor as an option")
        self.steps.append(Step(out._number, name, inputs, tuple(rest), dict(options), path=self.place))
        if name in INPLACE and isinstance(inputs[0], Value):
            self.overwritten[inputs[0].number] = out._number
        return out


def placed(path: str | None) -> str:
    """Returns what a message about the layer `path` ends with; nothing for the whole module."""
    return f", in layer {path}" if path else ""


def trace_layers(module: nn.Module, n_inputs: int) -> LayerTrace:
    """Returns the calls of `module(x0, ..., x{n_inputs - 1})`; nothing is computed and the module is not changed.

    A layer is any module of torch.nn except containers; modules of other packages are looked into.

    Raises:
        Unsupported: control flow on tensors, an unknown operator, an output that is not one tensor.
    """
    recorder = _Recorder(module, n_inputs)
    inputs = [Symbol(recorder, i) for i in range(n_inputs)]
    with _calls_recorded(recorder):
        try:
            output = module(*inputs)
        except Unsupported as error:
            raise Unsupported(f"{error}{placed(recorder.failed_at)}") from error
        except Exception as error:  # whatever the module's own code raises when it is not given a tensor
            what = f"its code needs a tensor: {' '.join(str(error).split())[:200]}"
            raise Unsupported(f"{what}{placed(recorder.failed_at)}") from error
    if not isinstance(output, Symbol):
        raise Unsupported(f"an output of type {type(output).__name__}")
    owned = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return LayerTrace(n_inputs, tuple(recorder.steps), recorder.operand(output).number, owned)


@contextmanager
def _calls_recorded(recorder: _Recorder) -> Iterator[None]:
    """Calls of layers with a symbol are recorded; all others, also of other threads, run as ever."""
    original = nn.Module.__call__

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        if not any(isinstance(argument, Symbol) and argument._recorder is recorder for argument in args):
            return original(self, *args, **options)
        if isinstance(self, nn.Sequential) or not type(self).__module__.startswith("torch.nn"):
            outer, recorder.place = recorder.place, recorder.paths.get(self, "")
            try:
                return original(self, *args, **options)
            except Exception:
                recorder.failed_at = recorder.place if recorder.failed_at is None else recorder.failed_at
                raise
            finally:
                recorder.place = outer
        return recorder.layer(self, args, options)

    with mock.patch.object(nn.Module, "__call__", call), torch.no_grad():
        yield


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def write_step(
    writer: Writer,
    step: Step,
    layers: Mapping[type[nn.Module], Callable[[Writer, Step, Any], None]],
    functions: Mapping[str, Callable[[Writer, Step], None]],
) -> None:
    """Calls the handler that a step has in the tables of a format.

    Raises:
        Unsupported: it has none, or the handler cannot; says where in the module.
    """
    try:
        if step.layer is not None:
            if type(step.layer) not in layers:
                raise Unsupported(f"layer {type(step.layer).__name__}")
            layers[type(step.layer)](writer, step, step.layer)
            return
        if step.kind not in functions:
            raise Unsupported(f"function {step.kind}")
        functions[step.kind](writer, step)
    except Unsupported as error:
        raise Unsupported(f"{error}{placed(step.path)}") from error
