"""Predictor files: what is asked for is what is loaded, and anything else is one clear line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from predictors.analytic import Analytic
from predictors.files import (
    KEY,
    Card,
    PredictorFileError,
    _digest,
    genes_to_json,
    load,
    save,
    space_from_json,
    training_digest,
)
from predictors.ridge import Ridge
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import example_space, example_values


@pytest.fixture
def path(tmp_path):
    space = example_space()
    rows = space.enumerate()[::7]
    values = example_values(space, rows)
    card = Card(
        "latency_ms",
        "ms",
        device="phone",
        device_fingerprint={"cpu": "A78", "threads": 1},
        training_digest=training_digest(rows, values),
        n_rows=len(rows),
        report={"mape": 1.5},
        notes={"run": "x"},
    )
    save(Ridge(space).fit(rows, values), tmp_path / "p.predictor", card=card)
    return tmp_path / "p.predictor"


def one_line(error: pytest.ExceptionInfo[PredictorFileError]) -> bool:
    return "\n" not in str(error.value)


def test_card_and_stored_space(path) -> None:
    loaded = load(path, metric="latency_ms", unit="ms", device_fingerprint={"threads": 1, "cpu": "A78"})
    assert loaded.predictor.space == example_space()
    assert loaded.card.report == {"mape": 1.5} and loaded.card.notes == {"run": "x"}
    assert loaded.card.device == "phone" and len(loaded.card.training_digest) == 16
    assert not list(path.parent.glob(".*"))  # no temporary file is left


def test_training_digest_sees_rows_values_and_order() -> None:
    rows = example_space().enumerate()[:3]
    values = np.arange(3.0)
    digests = {
        training_digest(rows, values),
        training_digest(rows[::-1], values[::-1]),
        training_digest(rows, values + 1),
        training_digest(rows[:2], values[:2]),
    }
    assert len(digests) == 4 and training_digest(rows, values) in digests


def test_space_round_trip() -> None:
    space = SearchSpace([*example_space().genes, Gene("alias", ("x", "y"), aliases={"y": "x"}), Gene("f", (0.5, 1))])
    assert space_from_json(json.loads(json.dumps(genes_to_json(space)))) == space


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"space": SearchSpace([Gene("other", (1, 2))])}, "must be of this search space"),
        ({"unit": "s"}, "must have the unit 's', but it has 'ms'"),
        ({"metric": "energy_mj"}, "must have the metric 'energy_mj', but it has 'latency_ms'"),
        ({"device_fingerprint": {"cpu": "A78", "threads": 4}}, "fitted on another: threads was 1, is 4"),
        ({"device_fingerprint": {"cpu": "A78"}}, "fitted on another: threads was 1, is None"),
    ],
)
def test_another_than_asked_for(path, asked, message) -> None:
    with pytest.raises(PredictorFileError, match=message) as error:
        load(path, **asked)
    assert one_line(error)


def test_truncated_at_any_length(path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(PredictorFileError, match="must be") as error:
            load(path)
        assert one_line(error)


def test_any_changed_byte_is_noticed(path) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(content), 60, replace=False):
        changed = bytearray(content)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        try:
            loaded = load(path)
        except PredictorFileError as error:
            assert "\n" not in str(error)
        else:  # a change that means nothing, such as another space in JSON, must leave everything as it was
            assert loaded.card.metric == "latency_ms"
            rows = example_space().enumerate()[::7]
            np.testing.assert_allclose(
                loaded.predictor.predict(rows).mean, example_values(example_space(), rows), rtol=0.1
            )


def rewrite(path, change) -> None:
    """Writes the file again with a changed description and a digest that fits it."""
    arrays = load_file(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head = json.loads(json.loads(file.read(size))["__metadata__"][KEY])
    change(head, arrays)
    text = json.dumps(head)
    save_file(arrays, path, metadata={KEY: text, "sha256": _digest(text, arrays)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: h.update(format=2), "must have the format version 1, but got 2"),
        (lambda h, a: h.update(kind="os.system"), "must hold a model out of .*, but it holds 'os.system'"),
        (lambda h, a: h.pop("card"), "its description is incomplete"),
        (lambda h, a: h["space"]["genes"].pop(), "its description is incomplete|genes of its fingerprint"),
        (lambda h, a: a.pop("weights"), "must hold a whole ridge model"),
        (lambda h, a: h["settings"].pop("features"), "must hold a whole ridge model"),
    ],
)
def test_wrong_descriptions(path, change, message) -> None:
    rewrite(path, change)
    with pytest.raises(PredictorFileError, match=message) as error:
        load(path)
    assert one_line(error)


def test_other_files(tmp_path) -> None:
    with pytest.raises(PredictorFileError, match="there is no such file"):
        load(tmp_path / "none")
    save_file({"a": np.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(PredictorFileError, match="holds something else"):
        load(tmp_path / "weights.safetensors")


def test_pickles_are_not_run(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "run").touch, ()

    (tmp_path / "bad").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PredictorFileError, match="cannot be read"):
        load(tmp_path / "bad")
    assert not (tmp_path / "run").exists()


def test_unfitted_writes_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="must be fitted"):
        save(Ridge(example_space()), tmp_path / "p", card=Card("m", "ms"))
    assert not list(tmp_path.iterdir())


def test_missing_source_is_named(tmp_path) -> None:
    space = example_space()
    save(Analytic(space, costs=lambda p: np.zeros(len(p))), tmp_path / "p", card=Card("macs", "MACs"))
    with pytest.raises(ValueError, match="must be loaded with the cost function"):
        load(tmp_path / "p")
