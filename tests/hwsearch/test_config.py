from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hwsearch.config import RunConfig, absolute_paths, parse, raise_problems, read_yaml, set_path
from hwsearch.errors import ConfigError
from tests.hwsearch.runs import costs_only, digits


def test_what_is_stored_reads_back_the_same() -> None:
    for raw in (costs_only(), digits(export={"nets": 3}, storage="sqlite:///x.db")):
        parsed = parse(raw)
        assert parsed.problems == ()
        assert parsed.config is not None
        assert parse(parsed.config.to_dict()).config == parsed.config


def test_defaults_are_written_out() -> None:
    config = parse(costs_only()).config
    assert config is not None
    stored = config.to_dict()
    assert stored["executor"]["retries"] == 1
    assert stored["evaluation"]["calibration_images"] == 512
    assert stored["export"] == {"nets": "all", "license": None}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("nmae=x", "nmae is not known (nearest: 'name')."),
        ("search.trails=5", "search.trails is not known (nearest: 'trials')."),
        ("supernet.famly=x", "supernet.famly is not known (nearest: 'family')."),
        ("sparsity.choice=[dense]", "sparsity.choice is not known (nearest: 'choices')."),
        ("executor.worker=1", "executor.worker is not known (nearest: 'workers')."),
        ("evaluation.calibration=1", "evaluation.calibration is not known (nearest: 'calibration_batch')."),
        ("export.net=1", "export.net is not known (nearest: 'nets')."),
        ("objectives.0={metric: macs, maxx: 3}", "objectives.0.maxx is not known (nearest: 'max')."),
        ("search.trials=many", "search.trials must be a whole number, but got 'many'."),
        ("search.trials=1.5", "search.trials must be a whole number, but got 1.5."),
        ("search.trials=0", "search.trials must be at least 1, but got 0."),
        ("seed=-1", "seed must be at least 0, but got -1."),
        ("executor.timeout_s=0", "executor.timeout_s must be greater than 0, but got 0."),
        ("executor.timeout_s=soon", "executor.timeout_s must be a number, but got 'soon'."),
        ("executor.kind=rayy", "executor.kind must be 'ray' or 'serial', but got 'rayy' (nearest: 'ray')."),
        (
            "sparsity.per=stages",
            "sparsity.per must be 'stage', 'layer' or 'model', but got 'stages' (nearest: 'stage').",
        ),
        ("sparsity.choices=[]", "sparsity.choices must be a list of at least 1, but got []."),
        ("sparsity.choices=dense", "sparsity.choices must be a list, but got 'dense'."),
        ("objectives=[]", "objectives must be a list of at least 1, but got []."),
        ("objectives=macs", "objectives must be a list, but got 'macs'."),
        ("objectives=[macs, 5]", "objectives.1 must be a metric or a mapping, but got 5."),
        ("objectives=[{device: cpu}]", "objectives.0.metric is missing."),
        (
            "objectives=[{metric: macs, direction: up}]",
            "objectives.0.direction must be 'minimize' or 'maximize', but got 'up'.",
        ),
        ("limits=[{metric: macs, max: few}]", "limits.0.max must be a number, but got 'few'."),
        ("export.nets=al", "export.nets must be 'all' or a whole number of at least 0, but got 'al'."),
        ("export.nets=-1", "export.nets must be 'all' or a whole number of at least 0, but got -1."),
        ("export.nets=true", "export.nets must be 'all' or a whole number of at least 0, but got True."),
        ("name=..", "name must be letters, digits, '_', '-' and '.', not '.' first, but got '..'."),
        ("name=a/b", "name must be letters, digits, '_', '-' and '.', not '.' first, but got 'a/b'."),
        ("name=", "name must be a string, but got None."),
        ("supernet=mlp", "supernet must be a mapping, but got 'mlp'."),
        ("supernet={}", "supernet.family is missing."),
        ("devices=", "devices must be a mapping, but got None."),
        ("devices={cpu: onnxruntime}", "devices.cpu must be a mapping, but got 'onnxruntime'."),
        ("devices={3: {}}", "devices: keys must be strings, but got 3."),
        ("storage=5", "storage must be a string, but got 5."),
    ],
)
def test_one_problem_is_one_line(override: str, problem: str) -> None:
    raw = costs_only()
    set_path(raw, override)
    before = copy.deepcopy(raw)
    assert parse(raw).problems == (problem,)
    assert raw == before


def test_missing_sections() -> None:
    assert parse({}).problems == ("name is missing.", "supernet is missing.", "objectives is missing.")


def test_keys_that_are_no_strings() -> None:
    raw: dict[Any, Any] = {**costs_only(), 5: 6}
    assert parse(raw).problems == ("the configuration: keys must be strings, but got 5.",)


def test_the_rest_can_be_checked_without_the_bad_parts() -> None:
    raw = digits(nmae="x", export={"nets": "none"})
    raw["search"]["trials"] = "x"
    raw["objectives"] = ["accuracy", {"metric": 5}, "stored_bytes"]
    parsed = parse(raw)
    assert len(parsed.problems) == 4
    assert parsed.left_out == {"nmae", "export.nets", "search.trials", "objectives.1"}
    assert parsed.config is not None
    assert parsed.config.search.engine == digits()["search"]["engine"]
    assert [o.metric for o in parsed.config.objectives][::2] == ["accuracy", "stored_bytes"]


def test_limits_lie_on_the_worse_side() -> None:
    def objective(**section: Any) -> Any:
        config = RunConfig.model_validate(costs_only(objectives=[section]))
        return config.objectives[0].objective()

    assert objective(metric="latency_ms@cpu", max=2).limit == 2
    assert objective(metric="latency_ms@cpu", max=2).name == "latency_ms@cpu"
    assert objective(metric="accuracy", min=0.9).direction == "maximize"
    limits = RunConfig.model_validate(costs_only(limits=["latency_ms@cpu <= 20", "accuracy >= 0.9"])).limits
    assert [(o.metric, o.device, o.max, o.min) for o in limits] == [
        ("latency_ms", "cpu", 20.0, None),
        ("accuracy", None, None, 0.9),
    ]
    with pytest.raises(ValueError, match="must be as in 'latency_ms@cpu <= 20', but got 'macs <= few'"):
        RunConfig.model_validate(costs_only(limits=["macs <= few"]))
    with pytest.raises(ValueError, match="accuracy must have one limit, min or max, but got both"):
        objective(metric="accuracy", min=0.1, max=0.9)
    with pytest.raises(ValueError, match="accuracy is maximised: its limit must be min, but got max"):
        objective(metric="accuracy", max=0.9)
    with pytest.raises(ValueError, match="macs is minimised: its limit must be max, but got min"):
        objective(metric="macs", min=3)
    with pytest.raises(ValueError, match="limit of macs must be finite, but got inf"):
        objective(metric="macs", max=float("inf"))


def test_override_paths() -> None:
    raw: dict[str, Any] = {"a": {"b": [{"c": 1}, 2]}, "n": None}
    for override in ("a.b.0.c=[1, 2]", "a.b.1=x", "n.new.deep=1e-3", "top=", "a.d=k=v"):
        set_path(raw, override)
    assert raw == {"a": {"b": [{"c": [1, 2]}, "x"], "d": "k=v"}, "n": {"new": {"deep": "1e-3"}}, "top": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", r"--set must be key=value, but got 'search\.trials'\."),
        ("=5", r"--set must be key=value, but got '=5'\."),
        ("name.foo=5", "--set name.foo must lead through mappings, but 'name' is a plain value"),
        ("objectives.9=5", "--set objectives.9 must name an entry 0 to 1, but got '9'"),
        ("objectives.x.y=5", "--set objectives.x.y must name an entry 0 to 1, but got 'x'"),
        ("search.trials=[", r"--set search\.trials must have a YAML value, but got '\['"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_path(costs_only(), override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "must hold a mapping, but holds list"),
        ("", "must hold a mapping, but holds NoneType"),
        ("a: [1", "must be valid YAML, but: "),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "must be valid YAML, but: key 'c' is given twice, line 4"),
        ("a: !!python/object:os.system x\n", "must be valid YAML, but: could not determine a constructor"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="must be valid YAML"):
        read_yaml(path)
    with pytest.raises(ConfigError, match=r"a configuration must be a YAML file, but .*nowhere.yaml does not exist"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="must be a YAML file"):
        read_yaml(tmp_path)


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = costs_only(data={"name": "cifar10", "path": "data/cifar"})
    raw["supernet"]["weights"] = "~/w.safetensors"
    out = absolute_paths(raw)
    assert out["data"] == {"name": "cifar10", "path": str(tmp_path / "data/cifar")}
    assert out["supernet"]["weights"] == str(Path("~/w.safetensors").expanduser())
    assert raw["data"]["path"] == "data/cifar"
    assert absolute_paths({"data": 5, "name": "x"}) == {"data": 5, "name": "x"}


def test_problems_become_one_error() -> None:
    raise_problems([], "c.yaml")
    with pytest.raises(ConfigError, match=r"^c\.yaml: one\.$"):
        raise_problems(["one."], "c.yaml")
    with pytest.raises(ConfigError, match=r"^c\.yaml: 2 problems:\n  - one\.\n  - two\.$"):
        raise_problems(["one.", "two."], "c.yaml")
