"""`hwsearch fit`: from a table to a predictor that can be asked, and one line for tables that teach nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwsearch import build
from hwsearch.build import registry
from hwsearch.commands.fit import averaged, fit, of_labels
from hwsearch.commands.space_source import open_space
from hwsearch.errors import ConfigError, UserError
from hwsearch.importers.table import write_header, write_row
from predictors.base import Target
from predictors.diagnosis import label_noise
from predictors.files import load
from search_spaces.space import SearchSpace

GENES = {"genes": {"depth": [1, 2, 3], "wide": {"choices": [8, 16, 32], "active_when": {"depth": [2, 3]}}, "k": [3, 5]}}
NETWORK = {
    "name": "net",
    "supernet": {"family": "mlp", "params": {"input_shape": [8], "n_classes": 4, "hidden": [[4, 8, 16, 32]] * 3}},
    "objectives": ["macs"],
}
Cli = Callable[..., tuple[int, str, str]]


def space_file(folder: Path, raw: object) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


def truth(rows: np.ndarray) -> np.ndarray:
    return 1.0 + rows @ np.arange(1.0, rows.shape[1] + 1)


def write_table(path: Path, space: SearchSpace, *, n: int = 40, scale: float = 1.0, repeats: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.permutation(space.enumerate())[:n] if space.size() <= 500 else space.sample(n, rng)
    text = write_header(space, ["latency_ms", "note"])
    for row in np.repeat(rows, repeats, axis=0):
        value = scale * truth(row[None])[0] * (1 + 0.01 * rng.standard_normal())
        text += write_row(space, row, {"latency_ms": float(value), "note": "x"})
    path.write_text(text)
    return rows


def test_a_space_without_costs(tmp_path: Path, cli: Cli) -> None:
    name = space_file(tmp_path, GENES)
    space = open_space(name).space
    write_table(tmp_path / "t.csv", space, repeats=2)
    out = tmp_path / "p.safetensors"
    arguments = [
        "fit",
        tmp_path / "t.csv",
        "--space",
        name,
        "--target",
        "latency_ms",
        "--out",
        out,
        "--device",
        "phone",
    ]
    code, text, error = cli(*arguments, "--model", "ridge", "--figure", tmp_path / "p.png")
    assert (code, error) == (0, "")
    assert text.startswith("latency_ms on phone: 14 architectures (28 labels, averaged)\nmodel           ridge\n")
    for line in ("MAPE ", "RMSE ", "within 5 / 10 %", "Kendall tau", "Spearman rho", "regret of top", "intervals"):
        assert f"\n{line}" in text or line in text
    assert "noise of labels" in text and "14 architectures measured again, Kendall tau of two labels" in text
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    card = load(out, space=space, metric="latency_ms", unit="ms").card
    assert (card.device, card.n_rows) == ("phone", 14)
    assert "network" not in card.notes


def test_networks_give_costs_and_the_file_says_which(tmp_path: Path, cli: Cli) -> None:
    name = space_file(tmp_path, NETWORK)
    rows = write_table(tmp_path / "t.csv", open_space(name).space, n=60)
    out = tmp_path / "p.safetensors"
    base = ["fit", tmp_path / "t.csv", "--space", name, "--target", "latency_ms", "--out", out]
    code, text, _ = cli(*base, "--model", "ridge", "--log", "--json")
    answer = json.loads(text)
    assert code == 0
    assert answer["n_rows"] == len(rows) == answer["report"]["n"]
    assert [p["rows"] for p in answer["curve"]] == [10, 20]
    assert {line["stage"] for line in answer["stages"]} == {"layer1", "layer2", "layer3"}
    assert answer["noise"] is None
    # Whoever has the file alone can ask it: the network is made anew from its card.
    code, text, error = cli("predict", out, "--arch", "largest", "--arch", "smallest", "--json")
    assert (code, error) == (0, "")
    largest, smallest = json.loads(text)
    assert smallest["lower"] < smallest["mean"] < smallest["upper"] < largest["mean"]
    assert largest["metric"] == "latency_ms"
    code, text, _ = cli("query", out, "--prefer", "latency_ms", "--json")
    assert code == 0
    assert json.loads(text)["answers"][0]["label"] == "predicted"


def test_auto_says_what_it_is_made_of(tmp_path: Path) -> None:
    name = space_file(tmp_path, GENES)
    write_table(tmp_path / "t.csv", open_space(name).space)
    out = tmp_path / "p.safetensors"
    answer = fit(tmp_path / "t.csv", space=name, target="latency_ms", out=out, curve=False)
    assert sum(answer["parts"].values()) == pytest.approx(1)
    assert answer["report"]["mape"] < 10
    assert answer["curve"] == []


def test_another_device_helps(tmp_path: Path, cli: Cli) -> None:
    name = space_file(tmp_path, NETWORK)
    space = open_space(name).space
    write_table(tmp_path / "old.csv", space, n=60, scale=3.0)
    write_table(tmp_path / "new.csv", space, n=8)
    ridge = tmp_path / "tablet.safetensors"
    fit(tmp_path / "old.csv", space=name, target="latency_ms", out=ridge, model="ridge", device="tablet", curve=False)
    base = ["fit", tmp_path / "new.csv", "--space", name, "--target", "latency_ms", "--out", tmp_path / "p.safetensors"]
    code, text, error = cli(*base, "--from-devices", ridge, "--json")
    assert (code, error) == (0, "")
    answer = json.loads(text)
    assert answer["model"] == "transfer"
    assert answer["parts"] == {"tablet": pytest.approx(1.0)}
    assert answer["report"]["mape"] < 5
    code, text, _ = cli("predict", tmp_path / "p.safetensors", "--arch", "largest", "--json")
    assert code == 0
    assert json.loads(text)[0]["mean"] == pytest.approx(truth(space.row(space.largest())[None])[0], rel=0.1)
    for more, message in (
        (["--from-devices", ridge, "--from-devices", ridge], "different devices, but 'tablet' is given twice"),
        (["--log", "--rank"], "--log and --rank exclude one another"),
        (["--from-devices", ridge, "--log"], "--from-devices decides the model and its transform itself"),
    ):
        code, _, error = cli(*base, *more)
        assert code == 2
        assert message in error


def test_a_table_of_another_device(tmp_path: Path) -> None:
    name = space_file(tmp_path, GENES)
    space = open_space(name).space
    write_table(tmp_path / "old.csv", space, scale=2.0)
    write_table(tmp_path / "new.csv", space, n=6)
    given = {"space": name, "target": "latency_ms", "out": tmp_path / "p.safetensors", "curve": False}
    answer = fit(tmp_path / "new.csv", from_devices=[str(tmp_path / "old.csv")], **given)
    assert list(answer["parts"]) == ["old"]
    (tmp_path / "flat.csv").write_text("depth,wide,k,latency_ms\n1,,3,2\n1,,5,2\n")
    with pytest.raises(UserError, match=r"flat\.csv: values must differ for a predictor to learn from"):
        fit(tmp_path / "new.csv", from_devices=[str(tmp_path / "flat.csv")], **given)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1,,3,2\n", "t.csv: a predictor must be fitted on at least 2 rows, but got 1."),
        ("1,,3,2\n1,,3,3\n", "t.csv: a predictor must be fitted on at least 2 rows, but got 1."),
        ("1,,3,2\n1,,5,2\n2,8,5,2\n", "t.csv: values must differ for a predictor to learn from, but all 3 are 2."),
        ("1,,3,2\n1,,5,nan\n", "t.csv, line 3: latency_ms must be a finite number"),
        ("1,,3,2\n1,,7,2\n", "t.csv, line 3: gene 'k' must be one of [3, 5], but got '7'."),
    ],
)
def test_tables_that_teach_nothing(tmp_path: Path, cli: Cli, lines: str, message: str) -> None:
    (tmp_path / "t.csv").write_text("depth,wide,k,latency_ms\n" + lines)
    name, out = space_file(tmp_path, GENES), tmp_path / "p.safetensors"
    code, text, error = cli("fit", tmp_path / "t.csv", "--space", name, "--target", "latency_ms", "--out", out)
    assert (code, text) == (2, "")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_two_architectures_are_a_predictor_without_a_report(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "t.csv").write_text("depth,wide,k,latency_ms\n1,,3,2\n1,,5,3\n")
    name, out = space_file(tmp_path, GENES), tmp_path / "p.safetensors"
    base = ["fit", tmp_path / "t.csv", "--space", name, "--target", "latency_ms", "--out", out, "--model", "ridge"]
    code, text, error = cli(*base, "--figure", tmp_path / "p.png")
    assert (code, error) == (0, "")
    assert "held-out rows   - (cross-validation needs 4 architectures)" in text
    assert "noise of labels not known (no architecture was measured twice)" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "rigde"], "the model must be one of ['auto', "),
        (["--batch", "0"], "--batch must be at least 1, but got 0."),
        (["--out", "p.bin"], "--out must end in .safetensors, but got 'p.bin'."),
        (["--out", "."], "--out must be a file, but . is a folder."),
        (["--target", "latency"], "must have a column 'latency' (nearest: 'latency_ms')"),
        (["--space", "nothing.yaml"], "nothing.yaml does not exist"),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, cli: Cli, more: list[str], message: str) -> None:
    name = space_file(tmp_path, GENES)
    write_table(tmp_path / "t.csv", open_space(name).space)
    out = tmp_path / "p.safetensors"
    code, _, error = cli("fit", tmp_path / "t.csv", "--space", name, "--target", "latency_ms", "--out", out, *more)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_predictions_of_files_that_are_refused(tmp_path: Path, cli: Cli) -> None:
    name, out = space_file(tmp_path, GENES), tmp_path / "p.safetensors"
    write_table(tmp_path / "t.csv", open_space(name).space)
    fit(tmp_path / "t.csv", space=name, target="latency_ms", out=out, model="ridge", curve=False)
    for more, message in (
        (["--arch", "largest", "--metric", "energy_mj"], "the metric must be one of ['latency_ms']"),
        (["--arch", "largest", "--level", "1"], "--level must be between 0 and 1, but got 1.0."),
        (["--arch", '{"depth": 9}'], "gene 'depth' must be one of [1, 2, 3], but got 9."),
        (["--arch", "0123456789ab"], "--arch must be JSON"),
    ):
        code, _, error = cli("predict", out, *more)
        assert code == 2
        assert message in error
    code, text, _ = cli("predict", out, "--arch", "largest")
    assert code == 0
    assert "lower" in text


def test_repeated_labels_are_averaged() -> None:
    rows = np.array([[1, 0], [0, 0], [1, 0]], np.uint8)
    merged, values, stds = averaged(rows, np.array([1.0, 5.0, 3.0]), np.array([0.3, 0.2, 0.4]))
    np.testing.assert_array_equal(merged, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(values, [2.0, 5.0])
    assert stds is not None
    np.testing.assert_allclose(stds, [0.25, 0.2])
    assert averaged(rows, values=np.zeros(3), stds=None)[2] is None


def noisy_tables(folder: Path, space: SearchSpace, *, seed: int) -> dict[str, Path]:
    """Tables of the same networks: some labels are ten times as good as the others, because they were repeated."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(space.enumerate())[:40]
    noise = rng.standard_normal((len(rows), 25))
    made: dict[str, Path] = {}
    lines: dict[str, list[str]] = {"repeats": [], "means": [], "stds": []}
    for i, row in enumerate(rows):
        labels = 10 + truth(row[None])[0] + (noise[i] if i % 3 == 0 else noise[i, :1]) * 1.5
        mean, std = float(labels.mean()), 1.5 / np.sqrt(len(labels))
        lines["repeats"] += [write_row(space, row, {"latency_ms": float(v), "latency_ms_std": ""}) for v in labels]
        lines["means"].append(write_row(space, row, {"latency_ms": mean, "latency_ms_std": ""}))
        lines["stds"].append(write_row(space, row, {"latency_ms": mean, "latency_ms_std": std}))
    for name, text in lines.items():
        made[name] = folder / f"{name}.csv"
        made[name].write_text(write_header(space, ["latency_ms", "latency_ms_std"]) + "".join(text))
    return made


@pytest.mark.parametrize("model", ["ridge", "gp"])
def test_good_labels_count_for_more(tmp_path: Path, model: str) -> None:
    """The same mean labels, alone and with what is known of their errors; equal answers would mean it was ignored."""
    name = space_file(tmp_path, {"genes": {g: [1, 2, 3, 4] for g in "abc"}})
    space = open_space(name).space
    others = space.enumerate()
    error: dict[str, list[float]] = {"repeats": [], "means": [], "stds": []}
    for seed in range(6 if model == "ridge" else 2):
        for kind, table in noisy_tables(tmp_path, space, seed=seed).items():
            out = tmp_path / "p.safetensors"
            fit(table, space=name, target="latency_ms", out=out, model=model, curve=False)
            mean = load(out, space=space).predictor.predict(others).mean
            error[kind].append(float(np.sqrt(np.mean((mean - 10 - truth(others)) ** 2))))
    ignored = np.mean(error["means"])
    assert np.mean(error["stds"]) < 0.85 * ignored
    assert np.mean(error["repeats"]) < 0.85 * ignored


def test_a_column_says_which_labels_were_measured_together(tmp_path: Path, cli: Cli) -> None:
    name = space_file(tmp_path, {"genes": {g: [1, 2, 3, 4] for g in "abc"}})
    space = open_space(name).space
    rng = np.random.default_rng(0)
    rows = rng.permutation(space.enumerate())[:40]
    shared = 0.1 * rng.standard_normal(10)
    said = {}
    for kind in ("together", "apart"):
        text = write_header(space, ["latency_ms", "run"])
        for i, row in enumerate(rows):
            value = (10 + truth(row[None])[0]) * (1 + shared[i // 4])
            run = f"monday {i // 4 if kind == 'together' else i % 10}"
            text += write_row(space, row, {"latency_ms": float(value), "run": run})
        (tmp_path / "t.csv").write_text(text)
        command = ["fit", tmp_path / "t.csv", "--space", name, "--target", "latency_ms", "--model", "ridge"]
        code, said[kind], _ = cli(*command, "--out", tmp_path / "p.safetensors", "--no-curve")
        assert code == 0
    (line,) = [line for line in said["together"].splitlines() if line.startswith("measuring runs")]
    share = float(line.split("share ")[1].split(" %")[0])
    assert 5 < share < 15
    assert line.startswith("measuring runs  10, labels of one share") and line.endswith(
        "intervals are of another session"
    )
    assert "measuring runs  10, labels of one are no more alike than others" in said["apart"]


def test_a_standard_error_comes_from_the_table_or_from_repeats() -> None:
    rows = np.array([[0], [0], [0], [0], [1], [2]], np.uint8)
    noise = label_noise(rows, np.array([1.0, 2.0, 3.0, 4.0, 9.0, 5.0]))
    assert noise is not None
    given = np.array([0.1, np.nan, 0.1, 0.1, np.nan, 0.2])
    np.testing.assert_allclose(of_labels(None, noise, 6), np.full(6, np.sqrt(5 / 3)))
    np.testing.assert_allclose(of_labels(given, noise, 6), np.where(np.isnan(given), np.sqrt(5 / 3), given))
    assert of_labels(None, None, 6) is None
    few = label_noise(rows[:2], np.array([1.0, 2.0]))  # two labels say too little of all others
    assert of_labels(None, few, 2) is None


@pytest.mark.parametrize("name", list(registry.PREDICTORS))
@pytest.mark.parametrize("target", ["raw", "log", "rank"])
def test_every_model_is_made_with_and_without_costs(name: str, target: Target) -> None:
    family = build.load_raw(NETWORK, source="test")
    for layers in (None, family.supernet(meta=True).layers):
        made = registry.predictor(name, family.space, layers=layers, target=target)
        assert made.kind == name


def test_an_unknown_model() -> None:
    space = build.load_raw(NETWORK, source="test").space
    with pytest.raises(ConfigError, match=r"the model must be one of .*, but got 'rigde' \(nearest: 'ridge'\)"):
        registry.predictor("rigde", space)
