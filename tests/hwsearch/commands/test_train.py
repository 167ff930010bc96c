"""`hwsearch train`: every example configuration is a training; it continues; mistakes are listed together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from sklearn.datasets import load_digits

from hwsearch.commands.train import plan, train
from hwsearch.errors import ConfigError, UserError
from hwsearch.training.progress import Progress

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "training").glob("*.yaml"))
SHORT = ("training.epochs=2", "data.limit=300", "training.batch_size=32")


class Quiet:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.steps = 0
        self.stop_at: int | None = None

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, progress: Progress) -> None:
        self.steps += 1
        if self.stop_at is not None and self.phases[-1] == "training" and progress.epoch == self.stop_at:
            raise KeyboardInterrupt


def short(path: Path) -> tuple[str, ...]:
    raw, more = yaml.safe_load(path.read_text()), []
    for key, value in (("pretrain_epochs", 1), ("guide_epochs", 1), ("soup", None)):
        if key in raw:
            more.append(f"{key}={value}" if value else "soup.epochs=1")
    return (*SHORT, *more)


def test_there_is_an_example_of_every_recipe() -> None:
    from hwsearch.build.registry import RECIPES

    used = {entry["name"] for path in CONFIGS for entry in yaml.safe_load(path.read_text()).get("recipes", [])}
    assert used == set(RECIPES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_example_is_right(path: Path) -> None:
    made = plan(path)
    assert made.keep_dense[-1] == "classifier"
    assert path.read_text().splitlines()[1].split()[-1] == f"configs/training/{path.name}"


@pytest.mark.parametrize("name", ["gradual", "soup", "distillation", "low_rank", "jackpots"])
def test_training_leaves_a_model_that_numpy_and_onnxruntime_score_alike(name: str, tmp_path: Path) -> None:
    path = next(p for p in CONFIGS if p.stem == name)
    outcome = train(path, overrides=short(path), folder=tmp_path, observer=Quiet())
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["metrics"] == json.loads(json.dumps(outcome.card["metrics"]))
    rows = np.array(card["data"]["holdout_rows"])
    x = (load_digits().images[rows][:, None] / 16 - 0.305) / 0.376
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    logits = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]
    assert (logits.argmax(1) == load_digits().target[rows]).mean() == pytest.approx(
        card["metrics"]["accuracy"]["value"]
    )
    wanted = {"gradual": 0.8, "soup": 0.8, "distillation": 0.8, "jackpots": 0.8, "low_rank": 0.0}[name]
    assert card["metrics"]["sparsity"]["value"] == pytest.approx(wanted, abs=1e-3)


def test_an_interrupted_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    path = next(p for p in CONFIGS if p.stem == "one_shot")
    overrides = (*short(path), "training.epochs=3")
    train(path, overrides=overrides, folder=tmp_path / "a", observer=Quiet())
    stopped = Quiet()
    stopped.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        train(path, overrides=overrides, folder=tmp_path / "b", observer=stopped)
    resumed = Quiet()
    train(path, overrides=overrides, folder=tmp_path / "b", observer=resumed)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"must be of this training .* but is of another"):
        train(path, overrides=(*overrides, "seed=5"), folder=tmp_path / "b", observer=Quiet())


def test_layers_that_stay_dense_are_told(tmp_path: Path) -> None:
    path = next(p for p in CONFIGS if p.stem == "sr_ste")
    quiet = Quiet()
    train(path, overrides=(*SHORT, "recipes.0.pattern='8:128'"), folder=tmp_path, observer=quiet)
    assert quiet.notes == ["straight_through: its pattern does not fit and leaves dense: layer1.weight"]


def test_a_soup_that_cannot_be_is_refused_before_its_pretraining(tmp_path: Path) -> None:
    path = next(p for p in CONFIGS if p.stem == "soup")
    quiet = Quiet()
    with pytest.raises(ConfigError, match="must leave at least one weight to each of 2 layers"):
        train(path, overrides=[*SHORT, "soup.sparsity=0.99999"], folder=tmp_path / "s", observer=quiet)
    assert not quiet.phases and not (tmp_path / "s").exists()


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    raw = {
        "name": "x",
        "data": {"name": "digits", "size": 20},
        "network": {"family": "mlp", "params": {"hidden": [[8]]}},
        "training": {"epoch": 3},
        "recipes": [{"name": "gradul", "sparsity": 0.5}, {"name": "dynamic", "sparcity": 0.5}, {"sparsity": 1}],
        "distillations": [{"kind": "logit"}],
    }
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as error:
        plan(path)
    text = str(error.value)
    for part in (
        "digits size must be a multiple of 8, but got 20",
        "training.epoch is not known (nearest: 'epochs')",
        "recipes.0.name must be one of",
        "(nearest: 'gradual')",
        "recipes.1.sparcity is not known (nearest: 'sparsity')",
        "recipes.2.name",
        "distillations.0.kind must be",
        "distillations and guide_epochs must be given together",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipes=[{name: gradual, sparsity: 0.5}, {name: dynamic, sparsity: 0.5}]", "must not contradict each other"),
        ("recipes=[{name: straight_through, pattern: '4:2'}]", r"n:m sparsity must have 1 <= n < m, but got 4:2"),
        ("recipes=[{name: straight_through, pattern: '3:100'}]", r"must fit at least one layer, but fits none of \["),
        ("recipes=[{name: gradual, sparsity: 0.99999}]", "must leave at least one weight to each of 2 layers"),
        ("recipes=[{name: trained_rank, ratio: 0.5}, {name: jackpots, sparsity: 0.5}]", "both decide which weights"),
        ("recipes=[{name: gradual, sparsity: 1.5}]", r"sparsity must be in \[0, 1\), but got 1.5"),
        ("soup={sparsity: 0.5}", "soup must come with pretrain_epochs and without recipes"),
        ("network.architecture={layer1.nodes: 7}", r"network.architecture: gene 'layer1.nodes' must be one of \[256\]"),
        ("network.family=mpl", r"network.family must be one of .*nearest: 'mlp'"),
        ("name=", r"name must be a string"),
    ],
)
def test_mistakes_are_one_clear_line(override: str, message: str) -> None:
    path = next(p for p in CONFIGS if p.stem == "gradual")
    with pytest.raises(ConfigError, match=message) as error:
        plan(path, [override])
    assert "\n" not in str(error.value)
