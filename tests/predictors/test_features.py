"""Features: every block by hand, scales, costs against the layers' own, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from predictors.base import Sources
from predictors.feature_blocks import Reading
from predictors.features import Features, reference_rows
from predictors.gene_features import count_blocks, gene_blocks, gene_kind, one_hot_blocks, ordinal_blocks
from search_spaces.genes import Condition, Gene
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.space import SearchSpace
from search_spaces.supernet import SparsityGenes, Supernet
from tests.contracts.predictor_contract import example_space


def small() -> SearchSpace:
    return SearchSpace(
        [
            Gene("depth", (1, 2)),
            Gene("kind", ("a", "b", "c"), aliases={"c": "b"}),
            Gene("kernel", (3, 5, 7), active_when=(Condition("depth", (2,)),)),
            Gene("fixed", (4,)),
        ]
    )


@pytest.fixture(scope="module")
def net() -> Supernet:
    family = MobileNet(input_shape=(3, 16, 16), n_classes=4, stages=[Stage((8, 16), se=True), Stage((16,))])
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5")), meta=True)


def test_one_hot_by_hand() -> None:
    (block,) = one_hot_blocks(small())
    assert block.columns == ("depth=1", "depth=2", "kind=a", "kind=b", "kernel=3", "kernel=5", "kernel=7")
    rows = np.array([[0, 2, 2, 0], [1, 0, 2, 0]], dtype=np.uint8)
    assert block.matrix(Reading(small(), rows)).tolist() == [[1, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 1]]


def test_ordinal_by_hand() -> None:
    (block,) = ordinal_blocks(small())
    assert block.columns == ("depth", "kind", "kernel", "kernel active")
    rows = np.array([[0, 1, 0, 0], [1, 0, 1, 0]], dtype=np.uint8)
    assert block.matrix(Reading(small(), rows)).tolist() == [[0, 0.5, 0, 0], [1, 0, 0.5, 1]]
    parts = gene_blocks(small())
    assert [b.columns for b in parts] == [("depth",), ("kind",), ("kernel", "kernel active")]
    assert parts[2].matrix(Reading(small(), rows)).tolist() == [[0, 0], [0.5, 1]]


def test_counts_by_hand() -> None:
    space = SearchSpace([Gene(f"s{s}.b{b}.op", ("x", "y")) for s in (1, 2) for b in (1, 2)])
    blocks = {block.name: block for block in count_blocks(space)}
    assert list(blocks) == ["counts.net", "counts.wide", "counts.stage", "one_hot"]
    reading = Reading(space, np.array([[0, 1, 1, 1]], dtype=np.uint8))
    assert blocks["counts.net"].columns == ("op=x in net", "op=y in net")
    assert blocks["counts.net"].matrix(reading).tolist() == [[1, 3]]
    assert blocks["counts.stage"].matrix(reading).tolist() == [[1, 1, 0, 2]]
    wide = dict(zip(blocks["counts.wide"].columns, blocks["counts.wide"].matrix(reading)[0], strict=True))
    assert wide["op=x in window 0.0+-1.0"] == 1.0  # the first gene is its centre
    assert wide["op=x in window 1.0+-1.0"] == pytest.approx(np.exp(-0.5))


def test_counts_group_like_genes_only() -> None:
    genes = [Gene("a.width", (8, 16)), Gene("b.width", (32, 64)), Gene("a.act", ("r", "s")), Gene("b.act", ("s", "t"))]
    net = count_blocks(SearchSpace(genes))[0]
    assert net.columns == ("width=8 in net", "width=16 in net")  # by rank; words that differ do not correspond
    assert gene_kind("stage2.block3.kernel") == gene_kind("kernel7") == "kernel"
    assert gene_kind("17") == "17"


def test_distinct_networks_have_distinct_features() -> None:
    space = example_space()
    rows = space.enumerate()
    for sets in (("one_hot",), ("ordinal",), ("genes",), ("counts",), ("ordinal", "products")):
        assert len(np.unique(Features(space, sets).matrix(rows).round(9), axis=0)) == len(rows), sets


def test_blocks_spread_by_one(net: Supernet) -> None:
    features = Features(net.space, ("counts", "ordinal", "products", "costs", "roofline"), layers=net.layers)
    x = features.matrix(reference_rows(net.space))
    assert x.shape == (512, len(features.columns)) and (x >= 0).all()
    edges = np.cumsum([0, *features.widths])
    spread = [x[:, a:b].var(axis=0).sum() for a, b in pairwise(edges)]
    np.testing.assert_allclose(spread, 1.0)


def test_costs_are_the_layers_own(net: Supernet) -> None:
    rows = reference_rows(net.space)[:50]
    features = Features(net.space, ("costs",), layers=net.layers)
    block, scale = features.blocks[0], features.scales[0]
    x = dict(zip(block.columns, (features.matrix(rows)[:, : len(scale)] * scale).T, strict=True))
    costs = net.costs(rows)
    dense = {c for c in x if not c.startswith(("net.unstructured", "net.linear"))}
    macs = sum(x[c] for c in dense if c.endswith(".macs"))
    linear = sum(
        layer.macs() for layer in net.layers(rows) if layer.name.startswith("classifier") or ".se." in layer.name
    )
    stem = sum(layer.macs() for layer in net.layers(rows) if layer.name.startswith("stem"))
    np.testing.assert_allclose(macs + linear + stem, costs.macs)  # the stem is the same in all nets: no column
    assert {"net.grouped3x3.macs", "net.grouped5x5.macs", "net.unstructured-0.5.macs"} <= set(x)
    kept = sum(np.asarray(layer.pattern == 1) * layer.nonzeros() for layer in net.layers(rows) if layer.may_be_sparse)
    np.testing.assert_allclose(x["net.unstructured-0.5.weights"], kept, rtol=0.05)  # with biases and rounding


def test_roofline_is_the_larger_of_two_times(net: Supernet) -> None:
    rows = reference_rows(net.space)[:5]
    for batch in (1, 8):
        features = Features(net.space, ("roofline",), layers=net.layers, batch=batch)
        x = dict(zip(features.columns, (features.matrix(rows) * features.scales[0]).T, strict=True))
        want = np.zeros(5)
        for layer in net.layers(rows):
            if layer.kind == "conv" and layer.name.endswith(("expand.conv", "project.conv", "head.conv")):
                moved = layer.inputs * layer.positions_in + layer.outputs * layer.positions
                time = np.maximum(batch * layer.macs() / 16, 4 * (batch * moved * layer.active + layer.weights()))
                want += time
        np.testing.assert_allclose(x["conv1x1 bytes at 16 MACs/byte"], want)


def test_digest_notices_other_layers(net: Supernet) -> None:
    settings = Features(net.space, ("costs",), layers=net.layers).settings()
    assert Features.restore(net.space, settings, sources=Sources(layers=net.layers)).settings() == settings
    other = Supernet(
        MobileNet(input_shape=(3, 32, 32), n_classes=4, stages=net.family.stages), sparsity=net.sparsity, meta=True
    )
    with pytest.raises(ValueError, match="layer costs must be those that the predictor was fitted with"):
        Features.restore(net.space, settings, sources=Sources(layers=other.layers))
    with pytest.raises(ValueError, match="features 'costs' must be given the layers"):
        Features.restore(net.space, settings, sources=Sources())


def test_refusals() -> None:
    for sets in (("one-hot",), (), ("counts", "counts")):
        with pytest.raises(ValueError, match="feature sets must be distinct and out of"):
            Features(small(), sets)
    with pytest.raises(ValueError, match="batch must be at least 1, but got 0"):
        Features(small(), batch=0)
    with pytest.raises(ValueError, match="must differ between architectures"):
        Features(SearchSpace([Gene("a", (1,))]), ("ordinal",))
