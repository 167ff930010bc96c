from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwsearch.errors import RunFolderError
from hwsearch.results import Artifact, Measurement
from hwsearch.runfolder import FORMAT_VERSION, RunFolder, RunLock, to_json, write_atomic, write_json

ROOT = Path(__file__).resolve().parents[2]


def artifact(content: bytes = b"model", **changes: Any) -> Artifact:
    given: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "files": {"model.onnx": content, "extra.bin": b"\x00\x01"},
        "entry": "model.onnx",
        "costs": {"macs": 12.0},
        "input_shapes": {"input": (1, 8, 8)},
    }
    return Artifact(**{**given, **changes})


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf"), {"c": -float("inf")}], "p": Path("x"), "t": (1,)}
    assert json.loads(to_json(value), parse_constant=lambda name: pytest.fail(name)) == {
        "a": None,
        "b": [1.5, None, {"c": None}],
        "p": "x",
        "t": [1],
    }
    write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == to_json(value) + "\n"


# ---- the configuration in the folder -------------------------------------------------------------------------------


def test_config_carries_the_format_version(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.save_config({"name": "x", "seed": 3})
    assert folder.load_config() == {"format_version": FORMAT_VERSION, "name": "x", "seed": 3}
    assert folder.require() is folder


@pytest.mark.parametrize("version", [None, 0, FORMAT_VERSION + 1, "1"])
def test_other_format_versions(tmp_path: Path, version: object) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(yaml.safe_dump({"format_version": version, "name": "x"}))
    with pytest.raises(RunFolderError, match=f"must have format version {FORMAT_VERSION}, but got {version!r}"):
        folder.load_config()


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"- 1", b""])
def test_damaged_config(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"must be valid YAML, but it is damaged|must have format version 1"):
        folder.load_config()


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"a run folder must hold config\.yaml, but .*nowhere does not"):
        RunFolder(tmp_path / "nowhere").require()
    assert not (tmp_path / "nowhere").exists()


# ---- artifacts and reference values --------------------------------------------------------------------------------


def test_artifacts_come_back_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    digest = folder.store(artifact())
    assert digest == artifact().sha256
    assert folder.load_artifact(digest) == artifact()
    assert folder.store(artifact()) == digest
    assert folder.load_artifact(artifact(b"other").sha256) is None


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone", "no meta", "torn meta", "meta of nothing"])
def test_a_damaged_artifact_is_not_there_and_is_stored_again(tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    digest = folder.store(artifact())
    model, meta = folder.artifacts / digest / "model.onnx", folder.artifacts / digest / "artifact.json"
    if damage == "torn":
        model.write_bytes(b"mod")
    elif damage == "flipped":
        model.write_bytes(b"modem")
    elif damage == "gone":
        model.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "torn meta":
        meta.write_text(meta.read_text()[:20])
    else:
        meta.write_text("[]")
    assert folder.load_artifact(digest) is None
    assert folder.store(artifact()) == digest
    assert folder.load_artifact(digest) == artifact()


def test_reference_values_are_frozen_per_device(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.references() == {}
    plain = {"latency_ms": Measurement(3.0, 0.1, "ms")}
    timed = {"latency_ms": Measurement(3.0, 0.1, "ms", environment={"card_reference_ms": 0.25, "threads": 1})}
    assert folder.freeze_reference("costs", plain) == {}
    assert folder.freeze_reference("cpu", timed) == {"cpu": 0.25}
    (folder.devices / "torn.json").write_text("{")
    assert folder.references() == {"cpu": 0.25}


# ---- the lock ------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from hwsearch.runfolder import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_driver_is_told_who_drives_and_a_killed_one_is_recognised(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        with (
            pytest.raises(
                RunFolderError,
                match=rf"^a run must have one driver, but {tmp_path} is locked by process {holder.pid} on \S+ since ",
            ) as caught,
            RunLock(tmp_path),
        ):
            pytest.fail("two drivers")
        assert "\n" not in str(caught.value)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with RunLock(tmp_path) as lock:
        assert lock.stale_pid == holder.pid
    with RunLock(tmp_path) as lock:
        assert lock.stale_pid is None


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), RunLock(tmp_path) as lock:
            assert lock.stale_pid is None
            raise KeyboardInterrupt


def test_a_damaged_note_in_the_lock(tmp_path: Path) -> None:
    for content in ("{", "[1]", ""):
        (tmp_path / "lock").write_text(content)
        with RunLock(tmp_path) as lock:
            assert lock.stale_pid is None


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x"
    with pytest.raises(ValueError, match="stop"), RunLock(path):
        assert path.exists()
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []
    with RunLock(path):
        (path / "config.yaml").write_text("x")
    assert sorted(p.name for p in path.iterdir()) == ["config.yaml", "lock"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with RunLock(empty):
        pass
    assert empty.exists()


def test_no_folder_can_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(RunFolderError, match=r"must be a folder that can be written to, but: (File|Not a)"),
            RunLock(path),
        ):
            pytest.fail("locked a file")
