"""BERT and ViT: equal to the reference implementations with the same weights, exact costs, published names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.bert import Bert, BertClassifier
from search_spaces.published import from_published, published_names, to_published
from search_spaces.supernet import SparsityGenes, Supernet
from search_spaces.vit import ViT
from tests.search_spaces.nets import equal_states, randomise, state, supernet


def small_bert() -> Bert:
    return Bert(
        vocab_size=50, max_tokens=20, tokens=7, dim=24, head_size=4, layers=(1, 2, 3), heads=(2, 3, 6), hidden=(16, 32)
    )


def small_vit(layout: str = "published") -> ViT:
    return ViT(
        n_classes=5,
        side=12,
        patch=4,
        dim=24,
        head_size=4,
        layers=(1, 2, 3),
        heads=(2, 3, 6),
        hidden=(16, 32),
        layout=layout,  # type: ignore[arg-type]
    )


FAMILIES = {
    "bert": small_bert,
    "vit": small_vit,
    "vit torchvision": lambda: small_vit("torchvision"),
    "vit huggingface": lambda: small_vit("huggingface"),
}


def archs(net: Supernet, n: int = 4):
    return [
        net.space.smallest(),
        net.space.largest(),
        *net.space.architectures(net.space.sample(n, np.random.default_rng(0))),
    ]


# ---- all of them ----------------------------------------------------------------------------------


def test_attention_products_are_counted_by_hand() -> None:
    """Two products of 7 queries and 7 keys per head: 2 * 7 * 7 * (heads * 4) for every layer."""
    net = Supernet(small_bert(), meta=True)
    largest = net.layer_costs(net.space.largest())
    assert sum(int(np.sum(x.macs())) for x in largest.layers if x.kind == "matmul") == 3 * 2 * 7 * 7 * 24
    smallest = net.layer_costs(net.space.smallest())
    assert sum(int(np.sum(x.macs())) for x in smallest.layers if x.kind == "matmul") == 2 * 7 * 7 * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_sparsity_genes_attach(family: str) -> None:
    net = supernet(FAMILIES[family]())
    sparse = Supernet(FAMILIES[family](), sparsity=SparsityGenes(choices=("dense", "2:4")))
    arch = sparse.space.architecture(
        {g.name: "2:4" if g.name.endswith("sparsity") else max(g.choices) for g in sparse.space.genes}  # type: ignore[type-var]
    )
    subnet = sparse.extract(arch)
    zeros = sum(int((p == 0).sum()) for n, p in subnet.named_parameters() if n.endswith("feed.up.weight"))
    assert zeros == 3 * 24 * 32 // 2
    dense = net.layer_costs(net.space.largest()).metrics()
    assert sparse.layer_costs(arch).metrics()["nonzeros"] < 0.65 * dense["nonzeros"]


def test_gene_order_and_size() -> None:
    space = Bert().space
    assert [g.name for g in space.genes][:2] == ["layers", "layer1.heads"]
    assert space.genes[13].name == "layer1.hidden"
    assert space.n_genes == 25
    assert space.size() == sum(12**n for n in range(6, 13))
    assert ViT().space.size() == sum(12**n for n in (10, 11, 12))


def test_arguments_replace_values_of_a_preset() -> None:
    family = ViT(preset="tiny", layers=[2, 4], patch=8)
    assert family.depths == (2, 4)
    assert (family.side, family.patch, family.dim) == (16, 8, 64)
    assert family.space.genes[0].choices == (2, 4)


# ---- BERT -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_bert_at_full_size_equals_transformers() -> None:
    """All of BERT-base with random weights, with padding and both token types; only the vocabulary is cut."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    reference = transformers.BertModel(transformers.BertConfig(vocab_size=1000, attn_implementation="eager")).eval()
    net = Supernet(Bert(vocab_size=1000, n_classes=2), meta=True)
    tensors = {f"bert.{k}": t for k, t in reference.state_dict().items()}
    tensors |= {"classifier.weight": torch.randn(2, 768), "classifier.bias": torch.zeros(2)}
    from_published(net, tensors)
    subnet = net.extract(net.space.largest())
    assert isinstance(subnet, BertClassifier)
    ids, types = torch.randint(0, 1000, (2, 40)), torch.randint(0, 2, (2, 40))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 25:] = 0
    expected = reference(input_ids=ids, attention_mask=mask, token_type_ids=types)
    hidden = subnet.encode(ids, mask, types)
    torch.testing.assert_close(hidden[0], expected.last_hidden_state[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden[1, :25], expected.last_hidden_state[1, :25], rtol=0, atol=1e-5)
    torch.testing.assert_close(subnet.pool(hidden), expected.pooler_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        subnet(ids, mask, types), F.linear(expected.pooler_output, tensors["classifier.weight"]), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_bert_subnets_equal_sliced_reference_weights() -> None:
    """Fewer heads and hidden units are the first rows of query, key, value and up, the first columns of the others."""
    transformers = pytest.importorskip("transformers")
    net = supernet(small_bert())
    arch = net.space.architecture(
        {"layers": 2, "layer1.heads": 3, "layer2.heads": 2, "layer1.hidden": 16, "layer2.hidden": 32}
    )
    config = transformers.BertConfig(
        vocab_size=50,
        max_position_embeddings=20,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        intermediate_size=32,
        attn_implementation="eager",
    )
    reference = transformers.BertModel(config).eval()
    tensors = {k.removeprefix("bert."): t for k, t in to_published(net).items() if k.startswith("bert.")}
    reference.load_state_dict({k: t for k, t in tensors.items() if "layer.2." not in k})
    for layer, heads, hidden in zip(reference.encoder.layer, (3, 2), (16, 32), strict=True):
        # A head or unit that writes zeros is not there; values rather than queries, so that no softmax changes.
        layer.attention.output.dense.weight[:, heads * 4 :] = 0
        layer.output.dense.weight[:, hidden:] = 0
    subnet = net.extract(arch)
    assert isinstance(subnet, BertClassifier)
    ids = torch.randint(0, 50, (3, 7))
    torch.testing.assert_close(subnet.encode(ids), reference(ids).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_bert_key_variants() -> None:
    net, tensors = supernet(small_bert()), to_published(supernet(small_bert()))
    variants = [
        {k.removeprefix("bert."): t for k, t in tensors.items()},
        {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for k, t in tensors.items()
        },
        {**tensors, "bert.embeddings.position_ids": torch.arange(20)},
    ]
    for variant in variants:
        other = Supernet(small_bert(), seed=4)
        from_published(other, variant)
        assert equal_states(state(net), state(other))


@torch.no_grad()
def test_padding_does_not_matter() -> None:
    net = supernet(small_bert())
    subnet = net.extract(net.space.largest())
    ids = torch.randint(0, 50, (1, 5))
    padded = torch.cat([ids, torch.full((1, 2), 9)], dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 2])
    torch.testing.assert_close(subnet(ids), subnet(padded, mask), rtol=1e-5, atol=1e-6)


# ---- ViT ------------------------------------------------------------------------------------------


def static_published_vit(
    state: dict[str, Tensor], x: Tensor, layers: int, heads: list[int], hidden: list[int]
) -> Tensor:
    """The published elastic ViT restated as a function of its state dict; head size 4, patch 4, width 24."""

    def linear(key: str, x: Tensor, rows: int | None = None) -> Tensor:
        return F.linear(x, state[f"{key}.weight"][:rows, : x.shape[-1]], state[f"{key}.bias"][:rows])

    def norm(key: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (24,), state[f"{key}.weight"], state[f"{key}.bias"], eps=1e-6)

    x = F.conv2d(x, state["conv_proj.weight"], state["conv_proj.bias"], stride=4).flatten(2).mT
    x = torch.cat([state["class_token"].expand(len(x), 1, 24), x], dim=1)
    x = x + state["encoder.pos_embedding.weight"][torch.arange(x.shape[1])]
    for i in range(layers):
        key, h = f"encoder.layers.encoder_layer_{i}", heads[i]
        a = norm(f"{key}.ln_1", x)
        q, k, v = (
            linear(f"{key}.self_attention.{p}", a, 4 * h).unflatten(-1, (h, 4)).permute(0, 2, 1, 3)
            for p in ("query", "key", "value")
        )
        context = torch.softmax(q @ k.mT / 4**0.5, dim=-1) @ v
        a = linear(f"{key}.attention_output.dense", context.permute(0, 2, 1, 3).flatten(2))
        x = norm(f"{key}.attention_output.LayerNorm", a + x)
        m = F.gelu(linear(f"{key}.mlp.linear_1", norm(f"{key}.ln_2", x), hidden[i]))
        x = x + linear(f"{key}.mlp.linear_2", m)
    return linear("heads.head", norm("encoder.ln", x)[:, 0])


@torch.no_grad()
def test_published_vit_equals_the_restatement() -> None:
    net = supernet(small_vit())
    tensors = to_published(net)
    (x,) = net.family.example_inputs(batch=3, generator=torch.Generator().manual_seed(0))
    for arch in archs(net):
        n = arch.integer("layers")
        heads = [arch.integer(f"layer{i}.heads") for i in range(1, n + 1)]
        hidden = [arch.integer(f"layer{i}.hidden") for i in range(1, n + 1)]
        expected = static_published_vit(tensors, x, n, heads, hidden)
        torch.testing.assert_close(net.extract(arch)(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_hugging_face_vit_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    net = Supernet(small_vit("huggingface"), meta=True)
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=32,
        image_size=12,
        patch_size=4,
        num_labels=5,
        attn_implementation="eager",
    )
    reference = transformers.ViTForImageClassification(config).eval()
    from_published(net, reference.state_dict())  # in the names of the installed version
    randomise(net.full)
    from_published(Supernet(small_vit("huggingface")), to_published(net))  # in those of the files
    reference.load_state_dict({k: net.tensors()[n] for k, n in _names_in(reference, net).items()})
    (x,) = net.family.example_inputs(batch=3)
    torch.testing.assert_close(net.extract(net.space.largest())(x), reference(x).logits, rtol=1e-5, atol=1e-5)


def _names_in(reference: torch.nn.Module, net: Supernet) -> dict[str, str]:
    """Returns the reference's key -> our name, found by marking every one of its tensors."""
    marks = {k: torch.full_like(t, float(i)) for i, (k, t) in enumerate(reference.state_dict().items())}
    marked = Supernet(net.family, meta=True)
    from_published(marked, marks)
    keys = list(marks)
    return {keys[int(t.flatten()[0])]: name for name, t in marked.tensors().items()}


@torch.no_grad()
def test_torchvision_layout_fuses_query_key_and_value() -> None:
    """Checked against torch's own fused attention, which is what torchvision's block uses."""
    net = supernet(small_vit("torchvision"))
    tensors = to_published(net)
    key = "encoder.layers.encoder_layer_0.self_attention"
    assert tensors[f"{key}.in_proj_weight"].shape == (72, 24)
    reference = torch.nn.MultiheadAttention(24, 6, batch_first=True)
    reference.load_state_dict({k.removeprefix(f"{key}."): t for k, t in tensors.items() if k.startswith(f"{key}.")})
    x = torch.randn(2, 10, 24)
    ours = net.extract(net.space.largest()).get_submodule("layers.layer1.attention")
    torch.testing.assert_close(ours(x), reference(x, x, x, need_weights=False)[0], rtol=1e-5, atol=1e-5)
    names = set(tensors)
    assert {"encoder.pos_embedding", "class_token", "heads.head.bias", "encoder.ln.weight"} < names
    new = {k.replace("linear_1", "0").replace("linear_2", "3"): t for k, t in tensors.items()}
    other = Supernet(small_vit("torchvision"), seed=3)
    from_published(other, new)
    assert equal_states(state(net), state(other))


def test_published_names_of_vit() -> None:
    names = published_names(Supernet(ViT(), meta=True))
    assert names["positions"] == "encoder.pos_embedding.weight"
    assert (
        names["layers.layer12.sum_norm.weight"] == "encoder.layers.encoder_layer_11.attention_output.LayerNorm.weight"
    )
    assert names["layers.layer1.attention.key.bias"] == "encoder.layers.encoder_layer_0.self_attention.key.bias"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bert(preset="huge"), r"preset must be one of \['base', 'small', 'tiny'\], but got 'huge'"),
        (lambda: ViT(preset="huge"), r"preset must be one of \['base', 'small', 'tiny'\], but got 'huge'"),
        (lambda: Bert(n_classes=0), "n_classes must be at least 1, but got 0"),
        (lambda: Bert(tokens=600), r"tokens must be between 1 and max_tokens \(512\), but got 600"),
        (lambda: Bert(heads=()), r"heads must list at least one positive choice, but got \[\]"),
        (lambda: ViT(n_classes=0), "n_classes must be at least 1, but got 0"),
        (lambda: ViT(side=225), "side must be a multiple of patch, but got 225 and 16"),
        (lambda: ViT(layout="timm"), "layout must be one of .* but got 'timm'"),  # type: ignore[arg-type]
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
