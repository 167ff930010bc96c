"""`hwsearch init`: every combination that it offers can be run, and it asks, refuses and overwrites as it says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hwsearch import build
from hwsearch.cli import app
from hwsearch.commands.starting import (
    DATA,
    DEVICES,
    GOALS,
    SCHEMA,
    SPARSITY,
    Answers,
    Question,
    answers,
    configuration,
    families,
    init,
)
from hwsearch.config import RunConfig
from hwsearch.data.digits import DigitsSpec
from hwsearch.errors import UserError

ASKED = {"name": "first", "data": "digits", "family": "mlp", "goal": "both", "device": "simulated"}
ALL = {**ASKED, "sparsity": "none", "trials": "7"}


def small_data(root: Path) -> dict[str, str]:
    """Writes a few made-up images in the form of every data set; returns their folders."""
    rng = np.random.default_rng(0)
    for classes, names in ((10, [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]), (100, ["train", "test"])):
        folder = root / f"cifar{classes}"
        folder.mkdir()
        for name in names:
            rows = rng.integers(0, 10, (200, 3073 + (classes == 100)), dtype=np.uint8)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    for label, part in itertools.product("ab", ("train", "val")):
        folder = root / "image_folder" / part / label
        folder.mkdir(parents=True)
        for i in range(90):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return {"digits": "", **{name: str(root / name) for name in ("cifar10", "cifar100", "image_folder")}}


def accepted(told: Answers) -> None:
    text = configuration(told)
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
    raw = yaml.safe_load(text)
    assert raw.get("sparsity", {}).get("choices", []) == list(SPARSITY[told.sparsity])  # no 2:4 read as a number
    plan = build.load_raw(raw, source="init")
    assert not plan.unavailable and [o.name for o in plan.objectives] == ["accuracy", *GOALS[told.goal]]
    assert plan.space.size() > 1 and plan.config.search.trials == told.trials


def test_every_combination_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    digits = DigitsSpec().open()
    monkeypatch.setattr(DigitsSpec, "open", lambda self: digits)  # read once
    folders = small_data(tmp_path)
    # Goal and device stand in sections of their own, and so do data; a pattern must fit a family's layers.
    for goal, device in itertools.product(GOALS, DEVICES):
        accepted(Answers("first", "digits", "", "mlp", goal, device, "unstructured", 7))
    for data in DATA:
        for family in families(data):
            for sparsity in SPARSITY if data in ("digits", "cifar10") else ["unstructured"]:
                accepted(Answers("first", data, folders[data], family, "both", "onnxruntime", sparsity, 7))


def test_a_file_and_its_schema_are_written_and_never_overwritten(tmp_path: Path) -> None:
    told = answers(ALL, None)
    file = tmp_path / "first.yaml"
    assert init(file, told) == [file, tmp_path / SCHEMA]
    jsonschema = pytest.importorskip("jsonschema")
    raw = yaml.safe_load(file.read_text())
    assert not list(jsonschema.Draft202012Validator(json.loads((tmp_path / SCHEMA).read_text())).iter_errors(raw))
    RunConfig.model_validate(raw)
    with pytest.raises(UserError, match=r"init must write a new file, but .*first.yaml exists\."):
        init(file, told)
    assert init(tmp_path / "second.yaml", told) == [tmp_path / "second.yaml"]  # the schema is there
    away = answers({**ALL, "data": "cifar10", "path": str(tmp_path / "nowhere")}, None)
    with pytest.raises(UserError, match=r"these answers make no configuration that can run: .*nowhere"):
        init(tmp_path / "third.yaml", away)
    assert not (tmp_path / "third.yaml").exists()


def test_only_what_is_missing_is_asked_and_in_order() -> None:
    seen: list[Question] = []

    def ask(question: Question) -> str:
        seen.append(question)
        return question.default

    told = answers({"data": "cifar10", "goal": "fast"}, ask)
    assert [q.key for q in seen] == ["name", "path", "family", "device", "sparsity", "trials"]
    assert told.path == "data/cifar10" and told.goal == "fast" and told.trials == 100
    assert "vit" in next(q for q in seen if q.key == "family").choices
    seen.clear()
    answers({"data": "digits"}, ask)
    assert "path" not in [q.key for q in seen]
    assert "vit" not in next(q for q in seen if q.key == "family").choices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "mnist"}, r"--data must be one of \['digits', .*\], but got 'mnist'"),
        ({"family": "vit"}, r"--family must be one of \['mobilenet', 'mlp'\], but got 'vit'"),
        ({"path": "x"}, r"--path must be left out with --data digits, but got 'x'\."),
        ({"trials": "0"}, r"--trials must be a whole number of at least 1, but got '0'\."),
        ({"name": "a/b"}, r"--name must be letters, digits, .*, but got 'a/b'\."),
        (
            {"goal": None, "trials": None},
            r"init must be given --goal, --trials where there is no terminal to ask on; --yes takes the defaults\.",
        ),
    ],
)
def test_bad_answers_are_one_line(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        answers({**ALL, **changes}, None)


def test_the_command_needs_a_terminal_or_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    bare = runner.invoke(app, ["init"])
    assert isinstance(bare.exception, UserError) and "there is no terminal to ask on" in str(bare.exception)
    done = runner.invoke(app, ["init", "--yes", "--family", "mlp", "--name", "mine", "--json"])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout) == {"files": ["mine.yaml", SCHEMA]}
    assert yaml.safe_load(Path("mine.yaml").read_text())["supernet"]["family"] == "mlp"
