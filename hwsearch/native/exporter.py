"""NativeExporter: a plain module to a C library with its source, header, card and examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter, eval_mode
from hwsearch.native import examples
from hwsearch.native.compiler import COMMON, build_library, compiler, digest, runtime_files
from hwsearch.native.functions import lower
from hwsearch.native.library import Library
from hwsearch.native.source import Source, write_source
from hwsearch.native.targets import Target, best_target, runs_here, target_named
from hwsearch.native.trace import Unsupported, trace_module
from hwsearch.native.tuning import Tuner
from hwsearch.results import Artifact

ENTRY, CARD = "model.so", "card.json"


class NativeExporter(Exporter):
    """Exports native libraries: `model.so`, its C source with the kernels, `model.h`, `card.json`, examples.

    Sizes of inputs are fixed; any batch runs, one example after another. The same module gives the same bytes on the
    same machine.

    Args:
        target: instruction set, a name of `targets.TARGETS`; the best that this machine has by default.
    """

    format = "native"
    precisions = ("fp32",)

    def __init__(self, target: str | None = None) -> None:
        self.target = best_target() if target is None else target_named(target)
        self._opened: tuple[Artifact, Library] | None = None

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the library and its source; see `Exporter.export`.

        Raises:
            DeviceError: there is no C compiler.
        """
        self.check_precision(precision)
        try:
            with eval_mode(module):
                trace = trace_module(module, tuple(tensor[:1] for tensor in example))
            network = lower(trace, [tensor.dtype for tensor in example])
        except Unsupported as error:
            raise UserError(f"module {type(module).__name__} cannot be exported to native code: {error}.") from error
        source = write_source(network, target=self.target, choose=_tuner(self.target))
        library = build_library(source.files, target=self.target)
        shapes = [{"shape": list(shape), "type": kind} for shape, kind in network.inputs]
        files = {
            ENTRY: library,
            **source.files,
            **runtime_files(),
            CARD: _card(source, library, shapes, network.output_shape, self.target),
            "example.py": examples.python(network).encode(),
            "example.c": examples.c(network).encode(),
        }
        names = ["input"] if len(example) == 1 else [f"input{i}" for i in range(len(example))]
        return Artifact(
            format=self.format,
            precision=precision,
            files=files,
            entry=ENTRY,
            costs=dict(costs),
            input_shapes={name: tuple(tensor.shape[1:]) for name, tensor in zip(names, example, strict=True)},
        )

    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns the library's output; see `Exporter.run`."""
        if self._opened is None or self._opened[0] is not artifact:
            self._opened = (artifact, open_artifact(artifact))
        return self._opened[1].run(*inputs)


@cache
def _tuner(target: Target) -> Tuner:
    return Tuner(target)


def _card(
    source: Source, library: bytes, inputs: Sequence[Mapping[str, object]], output: Sequence[int], target: Target
) -> bytes:
    card = {
        "format_version": 1,
        "inputs": inputs,
        "output": list(output),
        "outputs": prod(output),
        "scratch_bytes": source.scratch_bytes,
        "target": target.name,
        "compiler": compiler()[1],
        "build": " ".join(["cc", *target.flags, *COMMON, "-shared model.c hw_*.c -o model.so"]),
        "library_sha256_32": digest(library),
        "matrices": source.forms,
    }
    return (json.dumps(card, indent=1) + "\n").encode()


def open_artifact(artifact: Artifact, *, what: str = "the native library") -> Library:
    """Returns the library of an artifact. Loading it runs its code: open what you made or trust.

    Raises:
        DeviceError: its files are damaged, this CPU lacks its instructions, or the system does not load it.
    """
    try:
        card = json.loads(artifact.files[CARD])
        inputs = [(tuple(entry["shape"]), str(entry["type"])) for entry in card["inputs"]]
        output, scratch, name = tuple(card["output"]), int(card["scratch_bytes"]), str(card["target"])
        intact = card["library_sha256_32"] == digest(artifact.content)
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(f"the system cannot open {what}: its {CARD} is damaged.") from error
    if not intact:  # a library that was cut off can end the process when it is mapped
        raise DeviceError(f"the system cannot open {what}: it is not the one that its {CARD} names.")
    if not runs_here(target_named(name)):
        raise DeviceError(f"the system cannot open {what}: it needs {name} instructions, which this CPU does not have.")
    return Library(artifact.content, inputs=inputs, output=output, scratch_bytes=scratch, what=what)
