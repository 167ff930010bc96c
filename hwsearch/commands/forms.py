"""Forms of a net: the formats and precisions that it can be exported in, and the files that they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from hwsearch.build import registry
from hwsearch.errors import UserError
from hwsearch.export.base import Exporter
from hwsearch.results import Artifact

ALIASES = {"pt2": "torch"}
"""What users call a format -> what it is called here."""
WEIGHTS_FORM = "safetensors"
"""Weights with a readable model.py; written with every net."""
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch", "litert": "litert", "native": "native"}
"""Format -> the runtime that times it where no device of the run does."""


@dataclass(frozen=True)
class Form:
    """A format at a precision: `onnx`, `onnx-int8`, `openvino-bf16`, `pt2`, ..."""

    format: str
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """As users write it."""
        shown = next((alias for alias, meant in ALIASES.items() if meant == self.format), self.format)
        return shown if self.precision == "fp32" else f"{shown}-{self.precision}"

    def exporter(self) -> Exporter:
        """Returns the exporter of the format."""
        made: Exporter = registry.named("exporters", self.format, "--format")()
        return made


def known_forms() -> dict[str, Form]:
    """Returns name -> form of all that an exporter makes."""
    forms = [
        Form(name, precision)
        for name in registry.EXPORTERS
        for precision in registry.named("exporters", name, "--format").precisions
    ]
    return {form.name: form for form in forms}


def parse_form(text: str) -> Form:
    """Returns the form of a name.

    Raises:
        UserError: another name.
    """
    forms = known_forms()
    if text not in forms:
        known = ", ".join([*forms, WEIGHTS_FORM])
        raise UserError(f"--format must be one of {known}, but got {text!r}.")
    return forms[text]


def file_names(artifact: Artifact) -> Mapping[str, str]:
    """Returns the artifact's file name -> name in the folder of the net: `model.int8.onnx` for `model.onnx`."""
    if artifact.format == "native":  # many files that belong together
        return {name: f"model.native/{name}" for name in artifact.files}
    if artifact.precision == "fp32":
        return {name: name for name in artifact.files}
    return {name: f"{PurePath(name).stem}.{artifact.precision}{PurePath(name).suffix}" for name in artifact.files}
