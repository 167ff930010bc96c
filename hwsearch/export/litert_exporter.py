"""LiteRT files (tflite), fp32, channels last, open batch; run by LiteRT with XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError, missing_extra
from hwsearch.export.base import Exporter, eval_mode
from hwsearch.graphs.layer_trace import Unsupported
from hwsearch.graphs.litert_graph import build_litert
from hwsearch.results import Artifact

ENTRY = "model.tflite"


class LiteRtExporter(Exporter):
    """Exports LiteRT files. Images go in as (batch, height, width, channels): `run` turns the module's round.

    Weights of which two thirds or more are zero are stored as their non-zeros: the file is smaller, and XNNPACK
    computes with them where it has the kernels (WebAssembly, ARM; not on x86).

    There is no converter to fall back on (the official one needs torchvision): what `litert_graph.py` does not know
    cannot be exported.
    """

    format = "litert"

    def __init__(self) -> None:
        self._opened: tuple[Artifact, Any] | None = None

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the file; `input_shapes` are the module's. See `Exporter.export`."""
        self.check_precision(precision)
        try:
            with eval_mode(module):
                content = build_litert(module, example, sparse=True)
        except ImportError as error:
            raise missing_extra("ai-edge-litert", "litert", "LiteRT") from error
        except Unsupported as error:
            raise UserError(f"module {type(module).__name__} cannot be exported to LiteRT: {error}.") from error
        return Artifact(
            format=self.format,
            precision=precision,
            files={ENTRY: content},
            entry=ENTRY,
            costs=dict(costs),
            input_shapes={f"input{i}": tuple(tensor.shape[1:]) for i, tensor in enumerate(example)},
        )

    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns LiteRT's output on one thread; see `Exporter.run`."""
        if self._opened is None or self._opened[0] is not artifact:
            self._opened = (artifact, interpreter(artifact.content))
        engine = self._opened[1]
        places = engine.get_input_details()
        if len(places) != len(inputs):
            raise UserError(f"inputs must be {len(places)} arrays, but got {len(inputs)}.")
        laid_out = [np.moveaxis(x, 1, -1) if x.ndim == 4 else x for x in inputs]
        try:
            for place, x in zip(places, laid_out, strict=True):
                engine.resize_tensor_input(place["index"], x.shape, strict=True)
            engine.allocate_tensors()
            for place, x in zip(places, laid_out, strict=True):
                engine.set_tensor(place["index"], np.ascontiguousarray(x))
            engine.invoke()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(f"litert cannot run the model: {' '.join(str(error).split())[:300]}") from error
        return np.array(engine.get_tensor(engine.get_output_details()[0]["index"]), dtype=np.float32)


def interpreter(content: bytes) -> Any:
    """Returns LiteRT's interpreter of a file, on one thread.

    Raises:
        DeviceError: LiteRT does not take the bytes.
        MissingExtraError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise missing_extra("ai-edge-litert", "litert", "LiteRT") from error
    try:
        return Interpreter(model_content=content, num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"litert cannot open the model: {' '.join(str(error).split())[:300]}") from error
