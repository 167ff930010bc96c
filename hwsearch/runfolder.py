"""The run folder: its layout, its lock, atomic writes and the artifact store."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from hwsearch.errors import RunFolderError
from hwsearch.results import Artifact, Measurement

FORMAT_VERSION = 1


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a kill at any moment, sees either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: object) -> None:
    """Writes JSON atomically, readable by people."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


class RunFolder:
    """Paths of one run. Makes nothing until asked to.

    `config.yaml`, `study.log`, `lock`, `artifacts/<sha256>/`, `supernet.safetensors`, `training/`, `devices/`,
    `predictors/`, `front.csv`, `front.json`, `front.png`, `models/<key>/`, `environment.json`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.journal = path / "study.log"
        self.supernet = path / "supernet.safetensors"
        self.supernet_card = path / "supernet.json"
        self.training = path / "training"
        self.artifacts = path / "artifacts"
        self.devices = path / "devices"
        self.predictors = path / "predictors"
        self.models = path / "models"
        self.front_csv = path / "front.csv"
        self.front_json = path / "front.json"
        self.front_png = path / "front.png"
        self.environment = path / "environment.json"

    def require(self) -> RunFolder:
        """Returns self if this is a run folder.

        Raises:
            RunFolderError: it is not, or of an unknown format version.
        """
        self.load_config()
        return self

    def load_config(self) -> dict[str, Any]:
        """Returns the resolved configuration of the run as plain data.

        Raises:
            RunFolderError: no run here, a damaged file, or an unknown format version.
        """
        if not self.config.is_file():
            raise RunFolderError(f"a run folder must hold config.yaml, but {self.path} does not.")
        try:
            stored = yaml.safe_load(self.config.read_text())
        except yaml.YAMLError as error:
            raise RunFolderError(f"{self.config} must be valid YAML, but it is damaged.") from error
        version = stored.get("format_version") if isinstance(stored, dict) else None
        if version != FORMAT_VERSION:
            raise RunFolderError(
                f"run folder {self.path} must have format version {FORMAT_VERSION}, but got {version!r}."
            )
        assert isinstance(stored, dict)
        return stored

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Writes the resolved configuration with the format version."""
        text = yaml.safe_dump({"format_version": FORMAT_VERSION, **config}, sort_keys=False, allow_unicode=True)
        write_atomic(self.config, text.encode())

    # -- reference values ----------------------------------------------------------------------------

    def references(self) -> dict[str, float]:
        """Returns device -> what its reference net counts as in ms, frozen by the run's first measuring."""
        found = {}
        for path in sorted(self.devices.glob("*.json")) if self.devices.is_dir() else []:
            try:
                found[path.stem] = float(json.loads(path.read_text())["reference_ms"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def freeze_reference(self, device: str, measurement: Mapping[str, Measurement]) -> dict[str, float]:
        """Freezes a device's reference value from its first measurement; returns it by device, or nothing."""
        for measured in measurement.values():
            value = measured.environment.get("card_reference_ms")
            if value is not None:
                card = {"reference_ms": float(value), "environment": dict(measured.environment)}
                write_json(self.devices / f"{device}.json", card)
                return {device: float(value)}
        return {}

    # -- artifacts -----------------------------------------------------------------------------------

    def store(self, artifact: Artifact) -> str:
        """Stores an artifact under its digest, if it is not there, and returns the digest."""
        digest = artifact.sha256
        folder = self.artifacts / digest
        if not (folder / "artifact.json").is_file():
            for name, content in artifact.files.items():
                write_atomic(folder / name, content)
            meta = {
                "format": artifact.format,
                "precision": artifact.precision,
                "entry": artifact.entry,
                "files": sorted(artifact.files),
                "costs": dict(artifact.costs),
                "input_shapes": {k: list(v) for k, v in artifact.input_shapes.items()},
            }
            write_json(folder / "artifact.json", meta)  # last: its presence says that the rest is whole
        return digest

    def load_artifact(self, digest: str) -> Artifact | None:
        """Returns a stored artifact, or None when it is not (wholly) there."""
        folder = self.artifacts / digest
        try:
            meta = json.loads((folder / "artifact.json").read_text())
            files = {name: (folder / name).read_bytes() for name in meta["files"]}
        except (OSError, ValueError):
            return None
        artifact = Artifact(
            format=meta["format"],
            precision=meta["precision"],
            files=files,
            entry=meta["entry"],
            costs=meta["costs"],
            input_shapes={k: tuple(v) for k, v in meta["input_shapes"].items()},
        )
        return artifact if artifact.sha256 == digest else None


class RunLock:
    """One driver per run folder. The operating system frees the lock of a killed driver; its note is then stale.

    Raises (on entering):
        RunFolderError: another process holds it; names the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "lock"
        self._file: Any = None
        self.stale_pid: int | None = None
        """The process that left the lock behind without freeing it, if one did."""

    def __enter__(self) -> RunLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _note(file.read())
            file.close()
            raise RunFolderError(
                f"a run must have one driver, but {self.path.parent} is locked by process {holder.get('pid')} on "
                f"{holder.get('host')} since {holder.get('since')}."
            ) from error
        file.seek(0)
        left = _note(file.read())
        self.stale_pid = left.get("pid")
        file.seek(0)
        file.truncate()
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(note))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.close()
        self._file = None


def _note(text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
