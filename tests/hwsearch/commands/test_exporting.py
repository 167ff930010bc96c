"""Forms of a net: executed in their engines, held against the module, and told by the card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hwsearch.commands import exporting
from hwsearch.commands.choosing import Choice, export
from hwsearch.commands.forms import Form, known_forms, parse_form
from hwsearch.commands.run import run
from hwsearch.errors import DeviceError, UserError
from hwsearch.report.table import exports_table
from tests.hwsearch.runs import Silent, costs_only, digits, write

FAST = {"batch": 8, "warmup": 1, "repeats": 3, "max_seconds": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few trials, one device; not to be changed but for its models."""
    base = tmp_path_factory.mktemp("exporting")
    raw = digits(
        training={"epochs": 1, "batch_size": 64},
        devices={"cpu": {"runtime": "onnxruntime", **FAST}},
        search={"engine": "random", "trials": 2},
        export={"nets": 0, "license": "CC0-1.0"},
    )
    run(write(base, raw), run_dir=base / "run", observer=Silent())
    return base / "run"


def key_of(folder: Path) -> str:
    key: str = json.loads((folder / "front.json").read_text())["members"][0]["key"]
    return key


def test_every_form_is_run_by_its_engine_and_told_by_the_card(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    device = tmp_path / "other.yaml"
    device.write_text("runtime: torch\nwarmup: 1\nrepeats: 3\nmax_seconds: 0.05\n")
    forms = ["onnx", "onnx-int8", "openvino", "openvino-int8", "pt2"]
    answer = export(f"{folder}:{key_of(folder)}", Choice(), forms=forms, devices=[str(device)], out=tmp_path / "out")
    card = answer["card"]
    target = Path(answer["folder"])
    assert json.loads((target / "card.json").read_text())["exports"].keys() == card["exports"].keys()
    assert list(card["exports"]) == [*forms, "safetensors"]
    files = {name: entry["files"] for name, entry in card["exports"].items()}
    assert files["onnx-int8"] == ["model.int8.onnx"]
    assert files["openvino-int8"] == ["model.int8.bin", "model.int8.xml"]
    assert files["pt2"] == ["model.pt2"]
    for name, entry in card["exports"].items():
        assert entry["agreement"]["n_examples"] == 8 + 64
        assert entry["accuracy"]["n"] == 359
        assert 0 < entry["accuracy"]["std"] < 0.1
        if entry["precision"] == "fp32":
            assert entry["agreement"]["max_rel_error"] <= 1e-4
            assert entry["agreement"]["top1_agreement"] == 1.0
        else:
            assert entry["agreement"]["max_rel_error"] > 1e-4  # it is another network
        assert all((target / file).stat().st_size == card["files"][file]["bytes"] for file in entry["files"]), name
    assert card["exports"]["onnx-int8"]["accuracy"]["engine"] == "onnx"
    assert card["exports"]["onnx"]["latency"]["cpu"]["value"] == card["metrics"]["latency_ms@cpu"]["value"]
    assert card["exports"]["pt2"]["latency"]["other"]["half_width"] > 0
    # The run has no device that takes it, and the one that was asked for opens another format.
    refused = card["exports"]["openvino-int8"]["latency"]["other"]
    assert refused["value"] is None
    assert refused["error"] == "device other must be given torch artifacts, but got 'openvino'."
    assert card["license"] == "CC0-1.0"
    assert card["provenance"]["family"] == "mlp"


LOADED = """\
import sys, json
sys.path.insert(0, sys.argv[1])
import model, torch
out = model.load()(torch.linspace(-1, 1, 768).reshape(3, 1, 16, 16))
print(json.dumps([out.tolist(), sorted({m.split(".")[0] for m in sys.modules})]))
"""


def test_a_second_form_is_added_and_the_weights_load_without_us(folder: Path, tmp_path: Path) -> None:
    import onnxruntime
    import torch

    out = tmp_path / "out"
    export(str(folder), Choice(key=key_of(folder)), forms=["onnx"], out=out)
    answer = export(str(folder), Choice(key=key_of(folder)), forms=["safetensors"], out=out, license="MIT")
    assert list(answer["card"]["exports"]) == ["onnx", "safetensors"]
    assert answer["card"]["license"] == "MIT"
    target = Path(answer["folder"])
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(target)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    values, modules = json.loads(done.stdout)
    assert not {"hwsearch", "search_spaces", "predictors"} & set(modules)
    session = onnxruntime.InferenceSession(target / "model.onnx")
    (got,) = session.run(None, {"input": torch.linspace(-1, 1, 768).reshape(3, 1, 16, 16).numpy()})
    assert np.allclose(got, values, atol=1e-4)
    # A damaged file takes the earlier forms with it: nothing on a card is not there.
    (target / "model.onnx").write_bytes(b"")
    answer = export(str(folder), Choice(key=key_of(folder)), forms=["pt2"], out=out)
    assert list(answer["card"]["exports"]) == ["pt2", "safetensors"]


def test_names_of_forms() -> None:
    assert parse_form("pt2-bf16") == Form("torch", "bf16")
    assert parse_form("onnx-int8-dynamic") == Form("onnx", "int8-dynamic")
    assert all(form.name == name for name, form in known_forms().items())
    with pytest.raises(UserError, match=r"--format must be one of onnx, .*safetensors, but got 'tensorrt'\."):
        parse_form("tensorrt")


def test_a_form_that_disagrees_is_not_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(module: Any, **options: Any) -> str:
        text: str = real(module, **options)
        return text.replace("return ", "return 2 * ", 1)

    real = exporting.model_source
    monkeypatch.setattr(exporting, "model_source", other)
    with pytest.raises(DeviceError, match=r"model\.py must agree with its module, but differs by "):
        export(str(folder), Choice(key=key_of(folder)), forms=["onnx"], out=tmp_path)
    assert not list(tmp_path.iterdir())

    def unknown(module: Any, **options: Any) -> str:
        raise UserError("model.py cannot be written for Odd: layer Odd.")

    monkeypatch.setattr(exporting, "model_source", unknown)
    answer = export(str(folder), Choice(key=key_of(folder)), forms=["onnx"], out=tmp_path)
    assert answer["card"]["exports"]["safetensors"]["model_py"] == "model.py cannot be written for Odd: layer Odd."
    assert not (Path(answer["folder"]) / "model.py").exists()


def test_the_table_says_how_many_examples_a_time_is_for() -> None:
    one = {"format": "onnx", "entry": "model.onnx", "latency": {"cpu": {"value": 0.5, "environment": {"batch": 1}}}}
    many = {"format": "onnx", "entry": "model.onnx", "latency": {"cpu": {"value": 9.5, "environment": {"batch": 32}}}}
    console = Console(width=150, record=True)
    console.print(exports_table({"a": one, "b": many}))
    text = console.export_text()
    assert "cpu 0.5 " in text and "cpu 9.5 for 32 examples" in text


def test_int8_without_data_says_what_it_needs(tmp_path: Path) -> None:
    raw = costs_only(
        objectives=["macs", "latency_ms@cpu"],
        devices={"cpu": {"runtime": "onnxruntime", **FAST}},
        search={"engine": "random", "trials": 2},
        export={"nets": 0},
    )
    run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    with pytest.raises(
        UserError, match="--format onnx-int8 must have training data to calibrate on, but this run has none"
    ):
        export(str(tmp_path / "run"), Choice(key=key_of(tmp_path / "run")), forms=["onnx-int8"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
