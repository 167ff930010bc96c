"""The run folder: its layout, its lock, atomic writes and the artifact store."""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from hwsearch.errors import RecordError, RunFolderError
from hwsearch.results import Artifact, Measurement

FORMAT_VERSION = 1


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a kill at any moment, sees either the old content or the new.

    Raises:
        RecordError: a full disk, say; the old content is still there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise RecordError(str(path), error.strerror or error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def to_json(value: object) -> str:
    """Returns JSON, readable by people. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def write_json(path: Path, value: object) -> None:
    """Writes `to_json` atomically."""
    write_atomic(path, (to_json(value) + "\n").encode())


class RunFolder:
    """Paths of one run. Makes nothing until asked to.

    `config.yaml`, `study.log`, `lock`, `artifacts/<sha256>/`, `supernet.safetensors`, `training/`, `devices/`,
    `predictors/`, `front.csv`, `front.json`, `front.png`, `report.html`, `models/<key>/`, `environment.json`.
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
        self.report = path / "report.html"
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
        except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        """Stores an artifact under its digest, if it is not (wholly) there, and returns the digest."""
        digest = artifact.sha256
        folder = self.artifacts / digest
        if self.load_artifact(digest) is None:
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
            artifact = Artifact(
                format=meta["format"],
                precision=meta["precision"],
                files={name: (folder / name).read_bytes() for name in meta["files"]},
                entry=meta["entry"],
                costs=meta["costs"],
                input_shapes={k: tuple(v) for k, v in meta["input_shapes"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return artifact if artifact.sha256 == digest else None


class RunLock:
    """One driver per run folder. The operating system frees the lock of a killed driver; its note is then stale.

    A folder that was made for the lock, and in which nothing was written while it was held, is removed again.

    Raises (on entering):
        RunFolderError: another process holds it; names the process. Or there can be no such folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "lock"
        self._file: Any = None
        self._made: list[Path] = []
        self.stale_pid: int | None = None
        """The process that left the lock behind without freeing it, if one did."""

    def __enter__(self) -> RunLock:
        folder = self.path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")
        except OSError as error:
            self._remove()
            raise RunFolderError(f"{folder} must be a folder that can be written to, but: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = _note(file.read())
            file.close()
            raise RunFolderError(
                f"a run must have one driver, but {folder} is locked by process {holder.get('pid')} on "
                f"{holder.get('host')} since {holder.get('since')}."
            ) from error
        file.seek(0)
        left = _note(file.read())
        self.stale_pid = left.get("pid")
        file.seek(0)
        file.truncate()
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._file = file
        try:
            file.write(json.dumps(note))
            file.flush()
        except OSError as error:  # a full disk
            with suppress(OSError):  # what is left to be written
                file.close()
            if self._made:
                self.path.unlink()
            self._remove()
            raise RecordError(str(self.path), error.strerror or error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.seek(0)
        self._file.truncate()
        if self._made and [path.name for path in self.path.parent.iterdir()] == [self.path.name]:
            self.path.unlink()
        self._remove()
        self._file.close()
        self._file = None

    def _remove(self) -> None:
        """Removes what was made for the lock, as far as it is empty."""
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                break


def holder(folder: Path) -> dict[str, Any] | None:
    """Returns who works in a run folder (`pid`, `host`, `since`); None if nobody does."""
    try:
        with (folder / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _note((folder / "lock").read_text())
    except OSError:
        return None
    return None


def _note(text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
