"""`hwsearch devices` and `hwsearch profile`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.commands.devices import devices, profile
from hwsearch.devices.card import CapabilityCard
from hwsearch.errors import UserError


def test_every_runtime_is_listed_with_what_is_missing() -> None:
    rows = {row["runtime"]: row for row in devices()}
    assert rows["onnxruntime"]["available"]
    assert rows["onnxruntime"]["metrics"] == ["latency_ms"]
    assert rows["analytic"]["available"]
    assert not rows["command"]["available"]
    assert "must be given" in rows["command"]["detail"]


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
