"""NetScores: scores of untrained networks as features of predictors, stored, loaded, and asked for by a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hwsearch import net_scores
from hwsearch.commands.fit import fit
from hwsearch.commands.query_service import predict_files
from hwsearch.commands.space_source import open_space
from hwsearch.errors import UserError
from hwsearch.importers.table import write_header, write_row
from hwsearch.net_scores import NetScores
from hwsearch.zero_cost import SCORES, scores
from predictors.auto import Auto
from predictors.base import Sources
from predictors.features import Features
from predictors.files import Card, load, save
from predictors.gaussian_process import GaussianProcess
from predictors.ridge import Ridge
from search_spaces.bert import Bert
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.space import Population, SearchSpace
from search_spaces.supernet import Supernet


def net(n_classes: int = 4) -> Supernet:
    family = MobileNet(input_shape=(3, 16, 16), n_classes=n_classes, stages=[Stage((8, 16)), Stage((16, 24))])
    return Supernet(family, meta=True)


def test_scores_do_not_depend_on_the_object_or_on_the_other_rows() -> None:
    rows = net().space.sample(4, np.random.default_rng(0))
    both = NetScores(net()), NetScores(net())
    whole = both[0](rows)
    assert whole.shape == (4, len(SCORES))
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(both[1](rows[2:]), whole[2:], rtol=1e-9)
    assert both[0](rows[:0]).shape == (0, 4)
    assert both[0].digest == both[1].digest
    assert len({NetScores(net()).digest, NetScores(net(), seed=1).digest, NetScores(net(5)).digest}) == 3
    np.testing.assert_allclose(whole, [by_hand(net(), row) for row in rows], rtol=1e-4)


def by_hand(supernet: Supernet, row: Population) -> list[float]:
    """The scores of one extracted network, each computed on its own."""
    weighted = Supernet(supernet.family, seed=0)
    arch = supernet.space.architecture(row)
    generator = torch.Generator().manual_seed(0)
    supernet.family.example_inputs(batch=2, generator=generator, arch=arch)
    x, targets = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 4
    return [scores(weighted.extract(arch), x, targets=targets, only=[name])[name] for name in SCORES]


def test_only_what_is_asked_for_is_computed_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def spy(module: Any, inputs: Any, *, targets: Any, only: Any) -> dict[str, float]:
        asked.append(tuple(only))
        return dict.fromkeys(only, 1.0)

    monkeypatch.setattr(net_scores, "scores", spy)
    rows = np.repeat(net().space.sample(1, np.random.default_rng(0)), 3, axis=0)
    one = NetScores(net(), columns=("naswot",))
    assert one(rows).shape == (3, 1)
    both = one.only(("naswot", "synflow"))
    assert both(rows).shape == (3, 2)
    one(rows)
    assert asked == [("naswot",), ("synflow",)]
    assert one.digest == both.digest
    monkeypatch.setattr(net_scores, "MOST_KEPT", 1)
    one(net().space.enumerate()[:3])
    assert len(one._shared.known) == 1


def test_images_are_small_where_networks_take_any() -> None:
    family = MobileNet(input_shape=(3, 128, 128), n_classes=4, stages=[Stage((8, 16))], resolutions=(32, 64, 128))
    supernet = Supernet(family, meta=True)
    of_nets = NetScores(supernet)
    sides = {}
    for row in supernet.space.enumerate():
        arch = supernet.space.architecture(row)
        sides[arch.integer("resolution")] = tuple(of_nets._inputs(arch).shape)
    assert sides == {32: (8, 3, 16, 16), 64: (8, 3, 32, 32), 128: (8, 3, 64, 64)}
    flat = NetScores(Supernet(MLP(input_shape=(128,), n_classes=4, hidden=[(4, 8)]), meta=True))
    assert of_nets(supernet.space.enumerate()[:2]).shape == flat(flat.supernet.space.enumerate()).shape == (2, 4)


def test_a_predictor_reads_scores_and_asks_for_the_same_when_loaded(tmp_path: Path) -> None:
    supernet = net()
    of_nets = NetScores(supernet, columns=("synflow", "naswot"))
    rows = supernet.space.sample(30, np.random.default_rng(0))
    values = of_nets(rows)[:, 0]  # what only the scores tell exactly
    model = GaussianProcess(supernet.space, features=Features(supernet.space, ("scores",), scores=of_nets))
    model.fit(rows[:24], values[:24])
    assert np.abs(model.predict(rows[24:]).mean - values[24:]).max() < 0.05 * np.ptp(values)
    save(model, tmp_path / "p", card=Card("accuracy", ""))
    again = load(tmp_path / "p", sources=Sources(scores=NetScores(supernet))).predictor
    np.testing.assert_allclose(again.predict(rows[:4]).mean, model.predict(rows[:4]).mean, rtol=1e-9)
    with pytest.raises(ValueError, match="features 'scores' must be given the scores of the space's networks"):
        load(tmp_path / "p")
    with pytest.raises(ValueError, match="the scores must be those that the predictor was fitted with"):
        load(tmp_path / "p", sources=Sources(scores=NetScores(supernet, seed=1)))


def test_auto_may_use_scores_where_it_is_given_them() -> None:
    supernet = net()
    names = [c.name for c in Auto(supernet.space, scores=NetScores(supernet)).candidates]
    assert "gp scores" in names
    assert "gp costs scores" not in names
    assert not any("scores" in c.name for c in Auto(supernet.space).candidates)


class Broken(NetScores):
    """Scores with a hole."""

    def __call__(self, population: Any) -> Any:
        return np.full((len(population), 4), np.nan)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at least 2, but got 1"):
        NetScores(net(), batch=1)
    with pytest.raises(ValueError, match="side must be at least 16, but got 8"):
        NetScores(net(), side=8)
    with pytest.raises(ValueError, match=r"scores must be distinct and out of synflow, .*, but got naswot, snip"):
        NetScores(net(), columns=("naswot", "snip"))
    words = NetScores(Supernet(Bert(preset="tiny", vocab_size=10), meta=True))
    with pytest.raises(ValueError, match="must be of networks with one input of numbers, but these take others"):
        words(words.supernet.space.sample(1, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="scores must be finite, but synflow of row 0 is nan"):
        Features(net().space, ("scores",), scores=Broken(net()))


def write_table(path: Path, space: SearchSpace, rows: Population) -> None:
    lines = [write_row(space, row, {"accuracy": 0.5 + 0.01 * float(row.sum())}) for row in rows]
    path.write_text(write_header(space, ["accuracy"]) + "".join(lines))


def test_fit_with_zero_cost_scores_and_predict_from_the_file(tmp_path: Path) -> None:
    config = tmp_path / "net.yaml"
    params = {"input_shape": [8], "n_classes": 4, "hidden": [[4, 8, 16]] * 3}
    config.write_text(
        yaml.safe_dump({"name": "net", "supernet": {"family": "mlp", "params": params}, "objectives": ["macs"]})
    )
    space = open_space(str(config))
    rows = space.space.sample(24, np.random.default_rng(0))
    table = tmp_path / "t.csv"
    write_table(table, space.space, rows)
    out = tmp_path / "p.safetensors"
    answer = fit(table, space=space.text, target="accuracy", out=out, model="ridge", zero_cost=["naswot"], curve=False)
    assert answer["n_rows"] == len(np.unique(rows, axis=0))
    (row,) = predict_files([out], ["largest"])  # the file asks for its scores, as it says which networks it is of
    assert np.isfinite(row["mean"])
    found = load(out, sources=space.sources).predictor
    assert isinstance(found, Ridge)
    assert found.features.columns[-1] == "naswot"
    genes = tmp_path / "genes.yaml"
    genes.write_text("genes: {a: [1, 2], b: [1, 2]}\n")
    write_table(tmp_path / "g.csv", open_space(str(genes)).space, open_space(str(genes)).space.enumerate())
    with pytest.raises(UserError, match="--zero-cost must be used with a space that has networks"):
        fit(tmp_path / "g.csv", space=str(genes), target="accuracy", out=out, zero_cost=["all"])
    with pytest.raises(UserError, match=r"--zero-cost: scores must be distinct and out of .*, but got snip"):
        fit(table, space=space.text, target="accuracy", out=out, zero_cost=["snip"])
    with pytest.raises(UserError, match="--from-devices decides the features itself: leave out --zero-cost"):
        fit(table, space=space.text, target="accuracy", out=out, zero_cost=["all"], from_devices=[str(table)])
