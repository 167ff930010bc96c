"""`hwsearch devices` and `hwsearch profile`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.build import registry
from hwsearch.commands.devices import devices, profile
from hwsearch.commands.query import device_spec
from hwsearch.devices.card import CapabilityCard
from hwsearch.errors import DeviceError, MissingExtraError, UserError


def test_every_runtime_is_listed_with_what_is_missing() -> None:
    rows = {row["runtime"]: row for row in devices()}
    assert rows["onnxruntime"]["available"]
    assert rows["onnxruntime"]["metrics"] == ["latency_ms"]
    assert rows["analytic"]["available"]
    assert rows["command"]["available"] and "configs/devices/ssh.yaml" in rows["command"]["detail"]
    # The web engines go through commands too, but need a package.
    assert "configs/" not in rows["onnxruntime_web"]["detail"]


def test_a_simulated_device_gets_a_card_that_can_be_read(tmp_path: Path) -> None:
    steps = []
    card, path = profile("simulated", out=tmp_path, observe=lambda subject, done, total: steps.append((done, total)))
    assert CapabilityCard.from_json(path.read_text()) == card
    assert path.with_suffix(".md").read_text().startswith("# simulated")
    assert steps == [(i, 4) for i in range(4)]


def test_an_unknown_device_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a device must be a YAML file or one of .*'onnxruntime'.*but got 'phone'"):
        profile("phone", out=tmp_path)
    assert not list(tmp_path.iterdir())


EXAMPLES = sorted((Path(__file__).parents[3] / "configs" / "devices").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_files_describe_devices(path: Path) -> None:
    spec = device_spec(str(path), None)
    assert spec.name == path.stem
    assert path.read_text().startswith("# ")
    try:
        registry.named("devices", spec.runtime, "runtime")(spec)
    except (DeviceError, MissingExtraError) as error:  # an engine or GPU that is not here; the description is right
        assert "\n" not in str(error)


def test_every_runtime_has_an_example_file() -> None:
    assert {device_spec(str(path), None).runtime for path in EXAMPLES} == set(registry.DEVICES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "runtime: onnxruntime\nthread: 2\nbatches: 1\n",
            r"thread is not known \(nearest: 'threads'\)\.\n.*batches is not known",
        ),
        ("runtime: onnxruntime\noptions: {provder: cpu}\n", "no option 'provder'; did you mean 'provider'"),
        ("runtime: onnxruntime\nclock: moon\n", r"clock.*'running', 'wall' or 'cpu'"),
        ("runtime: onnxrunntime\n", "runtime must be one of .* but got 'onnxrunntime'"),
        ("[1, 2]\n", "must hold a mapping, but holds list"),
        ("a: [\n", "must be valid YAML"),
    ],
)
def test_bad_device_files_are_refused_with_every_problem(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        profile(str(path), out=tmp_path / "cards")
    assert not (tmp_path / "cards").exists()
