"""Small configurations for tests of the run path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def costs_only(**changes: Any) -> dict[str, Any]:
    """A search over exact costs: no data, no training, nothing measured; 1,296 architectures."""
    raw: dict[str, Any] = {
        "name": "costs",
        "seed": 3,
        "supernet": {
            "family": "mlp",
            "params": {"input_shape": [1, 8, 8], "n_classes": 10, "hidden": [[4, 8, 16, 24, 32, 40]] * 2},
        },
        "sparsity": {"choices": ["dense", "unstructured-0.5", "unstructured-0.8"]},
        "objectives": ["macs", "stored_bytes"],
        "limits": [{"metric": "parameters", "min": 400, "direction": "maximize"}],
        "search": {"engine": "nsga2", "trials": 30, "options": {"population": 8}},
        "executor": {"kind": "serial"},
    }
    return {**raw, **changes}


def digits(**changes: Any) -> dict[str, Any]:
    """A tiny network on real digits, timed by ONNX Runtime."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "supernet": {"family": "mlp", "params": {"hidden": [[8, 16, 32], [8, 16, 32]]}},
        "sparsity": {"choices": ["dense", "unstructured-0.5", "unstructured-0.8"]},
        "data": {"name": "digits", "size": 16},
        "training": {"epochs": 2, "batch_size": 32},
        "objectives": ["accuracy", "latency_ms@cpu", "stored_bytes"],
        "devices": {
            "cpu": {"runtime": "onnxruntime", "batch": 64, "warmup": 1, "repeats": 3, "max_seconds": 0.05},
        },
        "search": {"engine": "nsga2", "trials": 12, "options": {"population": 6}},
        "executor": {"kind": "serial"},
    }
    return {**raw, **changes}


class Silent:
    """Sees a run and keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def phase(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, progress: object) -> None:
        pass

    def search(self, progress: object) -> None:
        pass

    def validation(self, done: int, total: int) -> None:
        pass


def write(folder: Path, raw: Mapping[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(raw), sort_keys=False))
    return path
