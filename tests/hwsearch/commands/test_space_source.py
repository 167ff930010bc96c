"""What `--space` may be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwsearch import build
from hwsearch.commands.network import network_of
from hwsearch.commands.space_source import open_space
from hwsearch.errors import ConfigError, UserError

CONFIG = """
name: tiny
supernet:
  family: mlp
  params: {input_shape: [4], n_classes: 3, hidden: [[8, 16], [8, 16]]}
objectives: [macs]
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return str(path)


def test_genes_alone(tmp_path: Path) -> None:
    source = open_space(
        write(
            tmp_path,
            """
genes:
  depth: [1, 2]
  kernel: {choices: [3, 5], active_when: {depth: [2]}}
  op: {choices: [skip, none, conv], aliases: {none: skip}}
""",
        )
    )
    assert source.space.size() == 3 * 2
    assert source.layers is None
    assert source.network() is None
    assert source.sources.layers is None


def test_a_family_by_its_name() -> None:
    source = open_space("ofa_mobilenet_v3")
    assert source.plan is not None and source.layers is not None
    network = source.network()
    assert network is not None
    assert build.load_raw(network, source="test").space == source.space


def test_networks_of_data_that_are_not_there_later() -> None:
    config = build.load(Path("configs/quickstart.yaml"))
    source = open_space("configs/quickstart.yaml")
    network = source.network()
    assert network is not None
    again = build.load_raw(network, source="test")
    assert again.space == config.space == source.space
    assert tuple(again.family.input_shape) == tuple(config.family.input_shape)
    assert "data" not in network


def test_precision_and_sparsity_are_genes_of_the_network() -> None:
    raw = yaml.safe_load(CONFIG)
    raw["sparsity"] = {"choices": ["dense", "unstructured-0.5"], "per": "model"}
    raw["precision"] = {"choices": ["fp32", "int8"]}
    plan = build.load_raw(raw, source="test")
    again = build.load_raw(network_of(plan), source="test")
    assert again.space == plan.space
    assert "precision" in plan.space.index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genes: {}", "genes must be a mapping of names to choices, but got dict"),
        ("genes: [a]", "genes must be a mapping of names to choices, but got list"),
        ("genes: {a: [1], b: 2}", r"genes\.b must be a list of choices, or a mapping with choices"),
        ("genes: {a: [1, 1]}", r"genes\.a: gene 'a' must have distinct choices"),
        ("genes: {a: [[1], [2]]}", r"genes\.a: unhashable"),
        ("genes: {a: {choices: [1, 2], when: 3}}", r"genes\.a\.when is not known"),
        ("genes: {a: {choices: [1, 2], active_when: 3}}", r"genes\.a\.active_when must map genes to lists"),
        ("genes: {a: {choices: [1, 2], aliases: 3}}", r"genes\.a\.aliases must map choices to choices"),
        ("genes: {a: {choices: [1], active_when: {b: [1]}}}", "gene 'a' must be conditioned on earlier genes"),
        ("genes: {a: [1, 2]}\nsupernet: {}", "must hold genes .* only, but has 'supernet'"),
    ],
)
def test_genes_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        open_space(write(tmp_path, text))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml does not exist"),
        ("runs/nowhere", "--space must be a YAML file, the folder of a run or a family's name, but got 'runs/nowhere'"),
        ("ofa_mobilnet", "supernet.family must be one of .*nearest: 'ofa_mobilenet_v3'|supernet.family must be one of"),
        ("mobilenet", "supernet.params.stages is missing"),
    ],
)
def test_what_leads_nowhere(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_space(text)
