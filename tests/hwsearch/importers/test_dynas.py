"""Result files of DyNAS-T: zeros, shifted columns, every family's dictionaries, one line for what is foreign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsearch.importers.dynas import DynasError, parse_dynas
from search_spaces.bert import Bert
from search_spaces.hat import HatTransformer
from search_spaces.mlp import MLP
from search_spaces.ofa_networks import OfaMobilenetV3, OfaProxyless
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.supernet import Family, Supernet
from search_spaces.vit import ViT

IMAGES = "Sub-network,Date,Model Parameters,Latency (ms),MACs,Top-1 Acc (%)"
SMALL = {"wid": None, "ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": [224]}
LARGE = {"wid": None, "ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": [224]}
# One row of the published old translation file: parameters are under MACs, MACs under latency.
HAT = {
    "encoder_embed_dim": [640],
    "decoder_embed_dim": [640],
    "encoder_ffn_embed_dim": [1024, 2048, 3072, 3072, 3072, 1024],
    "decoder_ffn_embed_dim": [3072, 1024, 1024, 1024, 3072, 1024],
    "decoder_layer_num": [3],
    "encoder_self_attention_heads": [8, 8, 8, 8, 8, 8],
    "decoder_self_attention_heads": [8, 4, 8, 4, 4, 8],
    "decoder_ende_attention_heads": [8, 4, 4, 4, 8, 8],
    "decoder_arbitrary_ende_attn": [1, -1, -1, 1, -1, 1],
}


def write(tmp_path: Path, header: str, *rows: tuple[object, ...]) -> Path:
    path = tmp_path / "results.csv"
    lines = [header, *(",".join([f'"{row[0]}"', *(str(v) for v in row[1:])]) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_zero_means_missing_and_accuracy_becomes_a_share(tmp_path: Path) -> None:
    family = OfaMobilenetV3()
    path = write(
        tmp_path, IMAGES, (SMALL, "2022-11-01 10:00:00", 3410792, 0, 121278672, 69.5), (LARGE, "x", 0, 12.5, 0, 0)
    )
    results = parse_dynas(path, family)
    space = family.space
    assert np.array_equal(results.population, [space.row(space.smallest()), space.row(space.largest())])
    assert results.metrics["parameters"][0] == 3410792
    assert results.metrics["accuracy"][0] == pytest.approx(0.695)
    assert np.isnan([results.metrics[m][1] for m in ("parameters", "macs", "accuracy")]).all()
    assert np.isnan(results.metrics["latency_ms"]).tolist() == [True, False]
    assert results.dates == ("2022-11-01 10:00:00", "x")
    assert not results.shifted
    population, values = results.training_set("latency_ms")
    assert (len(population), values.tolist()) == (1, [12.5])


def test_repeats_become_one_evaluation_with_their_mean(tmp_path: Path) -> None:
    other = {**SMALL, "ks": [3, 3, 7, 7] * 5}  # differs in blocks only that do not exist
    path = write(tmp_path, IMAGES, (SMALL, "", 1, 10, 5, 70), (LARGE, "", 1, 20, 5, 75), (other, "", 1, 0, 5, 71))
    rows, evaluations = parse_dynas(path, OfaMobilenetV3()).evaluations(device="xeon")
    assert len(rows) == 2
    assert evaluations[0].metrics == {
        "parameters": 1.0,
        "macs": 5.0,
        "accuracy": pytest.approx(0.705),
        "latency_ms@xeon": 10.0,
    }
    assert evaluations[0].attributes == {"imported": "dynas", "n_rows": 2}
    assert evaluations[0].error is None
    assert "latency_ms@xeon" not in parse_dynas(path, OfaMobilenetV3()).evaluations()[1][0].metrics


def test_shifted_translation_files_are_put_right(tmp_path: Path) -> None:
    header = "Sub-network,Date,Model Parameters,Latency (ms),MACs,BLEU Score"
    family = HatTransformer()
    results = parse_dynas(write(tmp_path, header, (HAT, "2023-02-17", 0, 1841061216, 39398784, 26.04)), family)
    assert results.shifted
    assert results.metrics["macs"].tolist() == [1841061216]
    assert results.metrics["parameters"].tolist() == [39398784]
    assert np.isnan(results.metrics["latency_ms"]).all()
    # The published number counts no embeddings: our count agrees.
    costs = Supernet(family, meta=True).costs(results.population)
    assert costs.parameters.tolist() == [39398784 + 32768 * 640]
    straight = parse_dynas(write(tmp_path, header, (HAT, "", 39398784, 210.5, 1841061216, 26.04)), family)
    assert not straight.shifted
    assert straight.metrics["latency_ms"].tolist() == [210.5]


PROXYLESS = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": [224]}
RESNET = {"d": [2, 0, 1, 2, 0], "e": [0.2, 0.25, 0.35] * 6, "w": [0, 1, 2, 0, 1, 2]}
BERT = {"num_layers": [7], "num_attention_heads": [12, 10, 8, 6] * 3, "intermediate_size": [1024, 2048, 3072] * 4}
VIT = {"num_layers": [10], "num_attention_heads": [12, 10, 8, 6] * 3, "vit_intermediate_sizes": [1024, 2048, 3072] * 4}


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        (OfaProxyless(), PROXYLESS, {"stage5.block2.kernel": 3, "stage6.block1.kernel": 7, "stage6.block1.expand": 6}),
        (OfaProxyless(elastic_last=False), PROXYLESS, {"stage6.block1.kernel": 7}),
        (OfaMobilenetV3(resolutions=(192, 224)), {**SMALL, "r": [192]}, {"resolution": 192}),
        (
            OfaResNet50(),
            RESNET,
            {"stem.depth": 2, "stage3.depth": 2, "stage2.block1.expand": 0.25, "stem.mid": 0.65, "stage4.width": 1.0},
        ),
        (HatTransformer(), HAT, {"decoder.layers": 3, "decoder.layer1.attend": 1, "encoder.layer6.hidden": 1024}),
        (Bert(), BERT, {"layers": 7, "layer7.heads": 8, "layer2.hidden": 2048}),
        (ViT(), VIT, {"layers": 10, "layer10.heads": 10}),
    ],
)
def test_every_family(family: Family, config: dict[str, object], expected: dict[str, object], tmp_path: Path) -> None:
    results = parse_dynas(write(tmp_path, IMAGES, (config, "", 1, 1, 1, 1)), family)
    arch = family.space.architecture(results.population[0])
    assert {name: arch[name] for name in expected} == expected


@pytest.mark.parametrize("values", [(0.91, 0.92), (91, 92)])
def test_accuracy_of_sst2_is_a_share_either_way(values: tuple[float, float], tmp_path: Path) -> None:
    header = "Sub-network,Date,Model Parameters,Latency (ms),MACs,SST-2 Acc"
    results = parse_dynas(write(tmp_path, header, *((BERT, "", 1, 1, 1, v) for v in values)), Bert())
    assert results.metrics["accuracy"].tolist() == pytest.approx([0.91, 0.92])


def test_old_files_write_null(tmp_path: Path) -> None:
    text = str(SMALL).replace("None", "null")
    assert len(parse_dynas(write(tmp_path, IMAGES, (text, "", 1, 1, 1, 1)), OfaMobilenetV3())) == 1


def test_a_file_without_rows(tmp_path: Path) -> None:
    results = parse_dynas(write(tmp_path, IMAGES), OfaMobilenetV3())
    assert results.population.shape == (0, 45)
    assert results.evaluations()[1] == []


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "a,b,c",
            ("1", 2, 3),
            r"must have the column 'Sub-network' and one of .* but its first line is \['a', 'b', 'c'\]",
        ),
        (IMAGES, (SMALL, "", 1), "line 2 must have 6 values, but got 3"),
        (IMAGES, ("hello", "", 1, 1, 1, 1), "line 2: 'Sub-network' must be a dictionary of lists, but got 'hello'"),
        (IMAGES, ("[1]", "", 1, 1, 1, 1), "line 2: 'Sub-network' must be a dictionary of lists"),
        (IMAGES, ("__import__('os').getcwd()", "", 1, 1, 1, 1), "must be a dictionary of lists, but got .__import__"),
        (IMAGES, (SMALL, "", "many", 1, 1, 1), "line 2: 'Model Parameters' must be a number, but got 'many'"),
        (IMAGES, ({**SMALL, "ks": [9] * 20}, "", 1, 1, 1, 1), "not a sub-network of ofa_mobilenet_v3: .* but got 9"),
        (IMAGES, ({**SMALL, "d": [2]}, "", 1, 1, 1, 1), "'d' must be a list of at least 5 values, but got"),
        (IMAGES, ({**SMALL, "r": [192]}, "", 1, 1, 1, 1), "'r' must be the family's 224, but got 192"),
        (IMAGES, ({**SMALL, "q_bits": [8, 32]}, "", 1, 1, 1, 1), "must not be quantised, but got 'q_bits'"),
    ],
)
def test_foreign_files_are_one_clear_line(header: str, row: tuple[object, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DynasError, match=message) as error:
        parse_dynas(write(tmp_path, header, row), OfaMobilenetV3())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**RESNET, "w": [0, 1, 2, 3, 0, 0]}, "'w' must hold indices below 3, but got 3"),
        ({**RESNET, "e": "x"}, "'e' must be a list of at least 18 values, but got 'x'"),
    ],
)
def test_messages_of_resnet50(config: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DynasError, match=message):
        parse_dynas(write(tmp_path, IMAGES, (config, "", 1, 1, 1, 1)), OfaResNet50())


def test_other_messages(tmp_path: Path) -> None:
    with pytest.raises(DynasError, match="must be a readable CSV file, but: "):
        parse_dynas(tmp_path / "gone.csv", OfaMobilenetV3())
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DynasError, match="must be a readable CSV file, but: "):
        parse_dynas(tmp_path / "binary.csv", OfaMobilenetV3())
    path = write(tmp_path, IMAGES, (SMALL, "", 1, 1, 1, 1))
    with pytest.raises(DynasError, match=r"must be of one of .* but the family is 'mlp'"):
        parse_dynas(path, MLP(input_shape=(4,), n_classes=2, hidden=[(2, 4)]))
    with pytest.raises(DynasError, match=r"metric must be one of .* but got 'bleu'"):
        parse_dynas(path, OfaMobilenetV3()).training_set("bleu")
    with pytest.raises(DynasError, match="'num_layers' must be a whole number, alone or in a list, but got None"):
        parse_dynas(path, Bert())
