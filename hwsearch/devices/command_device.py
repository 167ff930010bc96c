"""Any device behind a command line: copies artifacts there, runs a benchmark, reads what it prints."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.devices.base import Device, DeviceSpec, Fingerprint
from hwsearch.devices.command_templates import TEMPLATES, CommandTemplate
from hwsearch.devices.reference import REFERENCE_VERSION, REFERENCES, FixedNet
from hwsearch.devices.timing import LEAST_ROUNDS, half_width
from hwsearch.errors import DeviceError, UserError, missing_extra
from hwsearch.results import Artifact, Measurement

HERE = Path(__file__).parent
REFERENCE_FILES: Mapping[str, tuple[Callable[[FixedNet], bytes], str]] = {
    "onnx": (FixedNet.onnx, ".onnx"),
    "litert": (FixedNet.litert, ".tflite"),
}
"""Format -> how a fixed net is written in it, and the suffix of its files."""
WEB_SCRIPT = HERE / "web_benchmark.mjs"
SCRIPTS = ("onnx_benchmark.py", "timing.py")
"""Copied with the artifacts: they measure ONNX files wherever Python, NumPy and onnxruntime are."""
OPTIONS = ("template", "prepare", "copy", "run", "clean", "format", "pattern", "scale")
SETTINGS: Mapping[str, str | float] = {
    "folder": "/tmp/hwsearch",
    "python": "python3",
    "ssh_options": "-o BatchMode=yes -o ConnectTimeout=10",
    "timeout_s": 600.0,
    "rounds": LEAST_ROUNDS,
    "reference": "",
    "modules": ".",
    "node": "node",
}


class CommandDevice(Device):
    """Measures through commands (see `CommandTemplate`). Without a shell: file names cannot become commands.

    A command that measures all files at once must print JSON on its last line, `samples_ms` with one list per file in
    the order given, the reference first, all of one length:

        {"samples_ms": [[0.41, 0.40], [3.2, 3.1]], "environment": {"runtime_version": "1.20", "cpu_model": "..."}}

    One that measures a single file prints `{"latency_ms": 3.1}` (and `environment` if it likes), or what `pattern`
    finds; it is called `rounds` times per file, in turns. `environment` goes into the fingerprint.

    Args:
        spec: `address` and options: `template` (one of `TEMPLATES`) and any of its fields to replace or, without a
            template, at least `run`; `folder` on the device, `python` there, `ssh_options`, `timeout_s` per command,
            `rounds` (at least 6), `reference` (path of the reference net, needed for formats other than onnx and
            litert), `node` and `modules` (for web engines: the program, and the folder of node_modules).
    """

    formats = ("onnx",)
    settings_hint = "any machine, once options say how: configs/devices/ssh.yaml, android.yaml, own_command.yaml"
    shipped: str | None = None
    """Name of the template where the spec gives none."""

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options((*OPTIONS, *SETTINGS))
        self._template = self._read_template()
        self.formats = (self._template.format,)
        self._reported: dict[str, Any] = {}
        self._timeout_s = self._positive("timeout_s")
        self._rounds = math.ceil(self._positive("rounds"))
        if self._rounds < LEAST_ROUNDS:
            raise UserError(
                f"device {spec.name}: option rounds must be at least {LEAST_ROUNDS}, but got {self._rounds}."
            )
        if self._template.format not in REFERENCE_FILES and not self._setting("reference"):
            raise UserError(
                f"device {spec.name}: option reference must name a {self._template.format} file that every measuring "
                "run is compared with, but it is missing."
            )
        for field in ("prepare", "copy", "run", "clean"):
            self._words(field, {}, [])  # unknown placeholders are found now

    @classmethod
    def occupies_host(cls, spec: DeviceSpec) -> bool:
        """Returns True for commands without an address: they compute here."""
        return not spec.address

    @classmethod
    def opens(cls, spec: DeviceSpec) -> tuple[str, ...]:
        """Returns the format of the spec's template."""
        return cls(spec).formats

    def _setting(self, key: str) -> str:
        return str(self.spec.options.get(key, SETTINGS[key]))

    def _positive(self, key: str) -> float:
        value = self.spec.options.get(key, SETTINGS[key])
        if isinstance(value, str) or value is None or not value > 0:
            raise UserError(f"device {self.spec.name}: option {key} must be a positive number, but got {value!r}.")
        return float(value)

    def _read_template(self) -> CommandTemplate:
        name, own = self.spec.options.get("template", self.shipped), self.spec.options
        if name is not None and name not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise UserError(f"device {self.spec.name}: option template must be one of {known}, but got {name!r}.")
        base = TEMPLATES[str(name)] if name is not None else CommandTemplate(run="")
        values = {f.name: own.get(f.name, getattr(base, f.name)) for f in fields(CommandTemplate)}
        if not values["run"]:
            raise UserError(f"device {self.spec.name}: option run (or template) must be given.")
        try:
            scale = float(values["scale"])
            if re.compile(str(values["pattern"])).groups != (1 if values["pattern"] else 0):
                raise ValueError("pattern must have one group")
        except (TypeError, ValueError, re.error) as error:
            raise UserError(f"device {self.spec.name}: option scale or pattern is not usable: {error}.") from error
        texts = {key: str(value) for key, value in values.items() if key != "scale"}
        return CommandTemplate(**texts, scale=scale)

    # ---- commands ----------------------------------------------------------------------------------------------

    def _words(self, field: str, own: Mapping[str, str], files: Sequence[Path]) -> list[str]:
        spec, folder = self.spec, self._setting("folder")
        lists = {
            "{files}": [str(file) for file in files],
            "{names}": [file.name for file in files],
            "{remote}": [f"{folder}/{file.name}" for file in files if file.suffix != ".py"],
            "{ssh_options}": shlex.split(self._setting("ssh_options")),
        }
        known: dict[str, object] = {
            "address": spec.address or "",
            "folder": folder,
            "python": self._setting("python"),
            "node": self._setting("node"),
            "modules": self._setting("modules"),
            "web_benchmark": WEB_SCRIPT,
            "threads": spec.threads,
            "batch": spec.batch,
            "clock": spec.clock,
            "warmup": spec.warmup,
            "repeats": spec.repeats,
            "max_seconds": spec.max_seconds,
            "target_ci": spec.target_ci if spec.protocol == "default" else 1e9,
            "file": "",
            "name": "",
            **own,
        }
        out: list[str] = []
        for word in shlex.split(str(getattr(self._template, field))):
            if word in lists:
                out += lists[word]
                continue
            try:
                out.append(word.format_map(known))
            except (KeyError, ValueError, IndexError) as error:
                names = ", ".join(sorted([*known, *(key.strip("{}") for key in lists)]))
                raise UserError(
                    f"device {spec.name}: command {field} has an unknown placeholder in {word!r}; known are {names}."
                ) from error
            if "{address}" in word and not spec.address:
                raise UserError(f"device {spec.name}: address must be given, because command {field} uses it.")
        return out

    def _execute(self, field: str, own: Mapping[str, str], files: Sequence[Path]) -> str:
        """Runs one command; returns what it prints.

        Raises:
            DeviceError: it cannot be started, ends with another status than 0, or does not end.
        """
        words = self._words(field, own, files)
        where = f"device {self.spec.name}: command {field} ({words[0]})"
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{where} cannot be started: {error.strerror or error}.") from error
        try:
            out, err = process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)  # whatever it has started too
            process.communicate()
            raise DeviceError(f"{where} must end within {self._timeout_s:g} s, but did not.") from error
        if process.returncode != 0:
            said = " ".join((err.strip() or out.strip()).split())[-300:] or "nothing was printed"
            raise DeviceError(f"{where} must end with status 0, but ended with {process.returncode}: {said}")
        return out

    def _uses(self, field: str, *names: str) -> bool:
        return any(f"{{{name}}}" in getattr(self._template, field) for name in names)

    # ---- measuring ---------------------------------------------------------------------------------------------

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns latency per artifact; see `Device.measure`."""
        for artifact in artifacts:
            self.check(artifact)
            if len(artifact.files) != 1:
                raise UserError(
                    f"device {self.spec.name} must be given artifacts of one file, but got {len(artifact.files)}."
                )
        if not artifacts:
            return []
        with tempfile.TemporaryDirectory() as folder:
            files = [self._write_reference(Path(folder))]
            for i, artifact in enumerate(artifacts):
                # The name says which one it is, and cannot clash with another run's on the device.
                file = Path(folder) / f"{i}_{artifact.sha256[:16]}{Path(artifact.entry).suffix}"
                file.write_bytes(artifact.content)
                files.append(file)
            try:
                samples = self._samples(files)
            finally:
                if self._template.clean:
                    self._tidy(files)
        return self._results(samples, artifacts)

    def _write_reference(self, folder: Path) -> Path:
        own = self._setting("reference")
        if own:
            source = Path(own)
            if not source.is_file():
                raise UserError(f"device {self.spec.name}: option reference must be a file, but {own} is not.")
            file = folder / f"reference{source.suffix}"
            file.write_bytes(source.read_bytes())
        else:
            make, suffix = REFERENCE_FILES[self._template.format]
            file = folder / f"reference{suffix}"
            try:
                file.write_bytes(make(REFERENCES[self.spec.reference]))
            except ImportError as error:
                raise missing_extra("ai-edge-litert", "litert", f"the reference net of {self.spec.name}") from error
        return file

    def _samples(self, files: list[Path]) -> list[list[float]]:
        """Returns times in ms, (1 + n artifacts) lists of one length, the reference first."""
        if self._template.prepare:
            self._execute("prepare", {}, files)
        if self._uses("copy", "file", "name"):
            for file in files:
                self._execute("copy", {"file": str(file), "name": file.name}, [file])
        elif self._template.copy:
            self._execute("copy", {}, [*files, *(HERE / script for script in SCRIPTS)])
        if not self._uses("run", "file", "name"):
            answer = self._json(self._execute("run", {}, files))
            found = answer.get("samples_ms")
            if not _are_samples(found, len(files)):
                raise DeviceError(
                    f"device {self.spec.name}: command run must print samples_ms with {len(files)} equally long lists "
                    f"of at least {LEAST_ROUNDS} positive numbers, but printed {str(found)[:120]}."
                )
            return found  # type: ignore[return-value]
        samples: list[list[float]] = [[] for _ in files]
        for _ in range(self._rounds):
            for file, found in zip(files, samples, strict=True):
                out = self._execute("run", {"file": str(file), "name": file.name}, [file])
                found.append(self._one_latency(out))
        return samples

    def _one_latency(self, out: str) -> float:
        if self._template.pattern:
            found = re.search(self._template.pattern, out)
            text = found[1] if found else None
        else:
            text = self._json(out).get("latency_ms")
        try:
            value = self._template.scale * float(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = math.nan
        if not 0 < value < math.inf:
            what = f"match {self._template.pattern!r}" if self._template.pattern else "hold a positive latency_ms"
            said = " ".join(out.split())[-120:] or "nothing"
            raise DeviceError(f"device {self.spec.name}: what command run prints must {what}, but it printed {said}.")
        return value

    def _json(self, out: str) -> dict[str, Any]:
        lines = [line for line in out.splitlines() if line.strip()]
        try:
            answer = json.loads(lines[-1])
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except (ValueError, IndexError) as error:
            said = " ".join(lines[-1].split())[:120] if lines else "nothing"
            raise DeviceError(
                f"device {self.spec.name}: command run must print a JSON object on its last line, but printed {said}."
            ) from error
        reported = answer.get("environment")
        if isinstance(reported, dict):
            plain = (str, int, float, bool, type(None))
            self._reported.update({str(k): v for k, v in reported.items() if isinstance(v, plain)})
        return answer

    def _tidy(self, files: Sequence[Path]) -> None:
        try:
            self._execute("clean", {}, files)
        except DeviceError:
            return  # what was measured is not lost because the device kept some files

    def _results(
        self, samples: Sequence[Sequence[float]], artifacts: Sequence[Artifact]
    ) -> list[Mapping[str, Measurement]]:
        reference = np.array(samples[0])
        if self.reference_ms is None:
            self.reference_ms = float(np.median(reference))
        out: list[Mapping[str, Measurement]] = []
        for artifact, own in zip(artifacts, samples[1:], strict=True):
            ratios = np.array(own) / reference
            width = half_width(ratios) * self.reference_ms
            environment = {
                **self.fingerprint(),
                "precision": artifact.precision,
                "half_width_ms": width,
                "target_reached": width <= self.spec.target_ci * float(np.median(ratios)) * self.reference_ms,
                "reference_ms": float(np.median(reference)),
                "card_reference_ms": self.reference_ms,
            }
            latency = Measurement(
                value=float(np.median(ratios)) * self.reference_ms,
                std=width / 1.96,
                unit="ms",
                repeats=len(own),
                raw=float(np.median(own)),
                environment=environment,
            )
            out.append({"latency_ms": latency})
        return out

    def fingerprint(self) -> Fingerprint:
        """Returns threads, batch, address, and what the command last reported of its environment."""
        spec = self.spec
        return {
            "clock": spec.clock if self._uses("run", "clock") else "wall",
            **self._reported,
            "runtime": spec.runtime,
            "template": str(name) if (name := spec.options.get("template", self.shipped)) is not None else None,
            "address": spec.address,
            "threads": spec.threads,
            "batch": spec.batch,
            "reference_net": f"{spec.reference} {REFERENCE_VERSION}",
        }


def _are_samples(found: object, n_files: int) -> bool:
    if not isinstance(found, list) or len(found) != n_files or not all(isinstance(row, list) for row in found):
        return False
    if len({len(row) for row in found}) != 1 or len(found[0]) < LEAST_ROUNDS:
        return False
    return all(isinstance(v, int | float) and 0 < v < math.inf for row in found for v in row)
