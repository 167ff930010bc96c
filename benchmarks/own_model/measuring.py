"""How fast and how faithful are sentence encoders on onnxruntime with one thread, in fp32 and in int8?"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.export import onnx_int8
from hwsearch.export.onnx_exporter import cpu_session, trace
from hwsearch.own_model import agreement

RECIPES = Path(__file__).resolve().parents[2] / "configs/own_model"
NAME = "input"


def user_code(name: str) -> Any:
    """Returns the module configs/own_model/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sessions_of(module: nn.Module, example: Tensor, calibration: Tensor | None) -> dict[str, ort.InferenceSession]:
    """Returns precision -> session, as `hwsearch export` makes them; static int8 only with calibration ids."""
    made = {"fp32": trace(module, (example,), [NAME])}
    made["int8-dynamic"] = onnx_int8.dynamic(made["fp32"])
    if calibration is not None:
        made["int8"] = onnx_int8.static(made["fp32"], [NAME], [(b,) for b in calibration.split(32)])
    return {precision: cpu_session(content) for precision, content in made.items()}


def table(
    modules: Mapping[str, nn.Module], ids: Tensor, *, calibration: Tensor | None = None, rounds: int = 15
) -> list[dict[str, Any]]:
    """Returns a row per module and precision; all are timed in turn, batch 1, `modules` has an `original`.

    `speedup` is the median, over rounds, of the original's CPU time over the net's, both in the net's precision.

    Args:
        modules: name -> encoder.
        ids: hold-out sentences (n, tokens).
        calibration: for static int8, which is left out without.
        rounds: of the timing; the best of three calls counts in each.
    """
    opened = {
        (name, precision): session
        for name, module in modules.items()
        for precision, session in sessions_of(module, ids[:2], calibration).items()
    }
    wanted = embeddings(opened["original", "fp32"], ids)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
    one = ids[:1].numpy()
    for _ in range(rounds):
        for key, session in opened.items():
            times[key].append(min(_timed(session, one) for _ in range(3)))
    rows = []
    for (name, precision), session in opened.items():
        mine, original = np.array(times[name, precision]), np.array(times["original", precision])
        fidelity = agreement(wanted, embeddings(session, ids), kind="similarities")
        rows.append(
            {
                "net": name,
                "precision": precision,
                "fidelity": round(fidelity, 4),
                "ms": round(float(np.median(mine)) * 1e3, 2),
                "speedup": round(float(np.median(original / mine)), 3),
            }
        )
    return rows


def embeddings(session: ort.InferenceSession, ids: Tensor) -> Tensor:
    """Returns what a session makes of all sentences, (n, width)."""
    parts: list[NDArray[Any]] = [session.run(None, {NAME: part.numpy()})[0] for part in ids.split(50)]
    return torch.from_numpy(np.concatenate(parts))


def _timed(session: ort.InferenceSession, x: NDArray[Any]) -> float:
    """CPU seconds of one call in one thread: what other jobs take from the core is not counted."""
    start = time.process_time()
    session.run(None, {NAME: x})
    return time.process_time() - start
