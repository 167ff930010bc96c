"""HAT: teacher-forced logits against a restatement, incremental = full decoding, beams, a toy language learned."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.architecture import Architecture
from search_spaces.generation import beam, corpus_bleu, greedy
from search_spaces.hat import HatTransformer
from search_spaces.hat_modules import TranslationTransformer, sinusoidal_table
from search_spaces.published import CheckpointError, from_published, to_published
from search_spaces.supernet import Supernet
from tests.search_spaces.nets import equal_states, state, supernet

PAD, END = 1, 2


def small_hat(**changes) -> HatTransformer:
    values = {
        "vocab_size": 23,
        "source_tokens": 6,
        "target_tokens": 5,
        "max_tokens": 16,
        "dims": (20, 16),
        "encoder_hidden": (24, 12),
        "decoder_hidden": (28, 12),
        "heads": (4, 2),
        "encoder_layers": 3,
        "decoder_layers": (3, 2, 1),
        "inner": 12,
    }
    return HatTransformer(**(values | changes))


def archs(net: Supernet, n: int = 6) -> list[Architecture]:
    return [
        net.space.smallest(),
        net.space.largest(),
        *net.space.architectures(net.space.sample(n, np.random.default_rng(0))),
    ]


def sentences(*, left: bool) -> tuple[Tensor, Tensor]:
    """Returns three padded sources and three targets of equal length."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3, 23, (3, 6), generator=generator)
    for i, length in enumerate((6, 4, 1)):
        pad = slice(0, 6 - length) if left else slice(length, 6)
        source[i, pad] = PAD
    target = torch.randint(3, 23, (3, 5), generator=generator)
    target[:, 0] = END
    return source, target


# ---- the network ----------------------------------------------------------------------------------


def static_hat(state: dict[str, Tensor], arch: Architecture, source: Tensor, target: Tensor, *, inner: int) -> Tensor:
    """Teacher-forced logits restated as a function of a published state dict, one attention head after the other."""

    def table(ids: Tensor, dim: int) -> Tensor:
        half = 10  # of the full width, 20
        rows = torch.zeros(*ids.shape, 20)
        for b in range(len(ids)):
            place = PAD
            for t in range(ids.shape[1]):
                if ids[b, t] != PAD:
                    place += 1
                    rates = torch.tensor([place * 10000 ** (-i / (half - 1)) for i in range(half)])
                    rows[b, t] = torch.cat([rates.sin(), rates.cos()])
        return rows[..., :dim]

    def embed(ids: Tensor, dim: int) -> Tensor:
        return state["encoder.embed_tokens.weight"][ids][..., :dim] * math.sqrt(dim) + table(ids, dim)

    def norm(key: str, x: Tensor) -> Tensor:
        c = x.shape[-1]
        return F.layer_norm(x, (c,), state[f"{key}.weight"][:c], state[f"{key}.bias"][:c], eps=1e-5)

    def attention(key: str, x: Tensor, memory: Tensor, heads: int, hidden: Tensor) -> Tensor:
        """`hidden` (batch, queries or 1, keys) is True where nothing may be attended to."""
        weight, bias = state[f"{key}.in_proj_weight"], state[f"{key}.in_proj_bias"]
        inputs = (x, memory, memory)
        q, k, v = (
            F.linear(y, weight[i * inner : (i + 1) * inner, : y.shape[-1]], bias[i * inner : (i + 1) * inner])
            for i, y in enumerate(inputs)
        )
        size = inner // heads
        parts = []
        for h in range(heads):
            one = slice(h * size, (h + 1) * size)
            scores = (q[..., one] * size**-0.5) @ k[..., one].mT
            parts.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[..., one])
        dim = x.shape[-1]
        return F.linear(
            torch.cat(parts, -1), state[f"{key}.out_proj.weight"][:dim], state[f"{key}.out_proj.bias"][:dim]
        )

    def feed(key: str, x: Tensor, width: int) -> Tensor:
        dim = x.shape[-1]
        y = F.relu(F.linear(x, state[f"{key}.fc1.weight"][:width, :dim], state[f"{key}.fc1.bias"][:width]))
        return F.linear(y, state[f"{key}.fc2.weight"][:dim, :width], state[f"{key}.fc2.bias"][:dim])

    pad = (source == PAD)[:, None, :]
    x, outputs = embed(source, arch.integer("encoder.dim")), []
    for i in range(1, 4):
        key = f"encoder.layers.{i - 1}"
        heads = arch.integer(f"encoder.layer{i}.heads")
        x = norm(f"{key}.self_attn_layer_norm", x + attention(f"{key}.self_attn", x, x, heads, pad))
        x = norm(f"{key}.final_layer_norm", x + feed(key, x, arch.integer(f"encoder.layer{i}.hidden")))
        outputs.append(x)
    y = embed(target, arch.integer("decoder.dim"))
    future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)[None]
    for i in range(1, arch.integer("decoder.layers") + 1):
        key = f"decoder.layers.{i - 1}"
        attend = arch.integer(f"decoder.layer{i}.attend")
        memory, mask = outputs[-1], pad
        if attend >= 1:
            memory, mask = torch.cat([memory, outputs[-2]], 1), torch.cat([mask, pad], 2)
        if attend == 2:
            memory, mask = torch.cat([memory, outputs[-3]], 1), torch.cat([mask, pad], 2)
        heads = arch.integer(f"decoder.layer{i}.heads")
        y = norm(f"{key}.self_attn_layer_norm", y + attention(f"{key}.self_attn", y, y, heads, future))
        heads = arch.integer(f"decoder.layer{i}.source_heads")
        y = norm(f"{key}.encoder_attn_layer_norm", y + attention(f"{key}.encoder_attn", y, memory, heads, mask))
        y = norm(f"{key}.final_layer_norm", y + feed(key, y, arch.integer(f"decoder.layer{i}.hidden")))
    return y @ state["decoder.embed_tokens.weight"][:, : y.shape[-1]].T


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_teacher_forced_logits_equal_the_restatement(left: bool) -> None:
    net = supernet(small_hat())
    tensors = to_published(net)
    net.tensors()["positions"].copy_(sinusoidal_table(18, 20, PAD))  # random like all tensors before
    source, target = sentences(left=left)
    for arch in archs(net):
        expected = static_hat(tensors, arch, source, target, inner=12)
        torch.testing.assert_close(net.extract(arch)(source, target), expected, rtol=1e-5, atol=1e-5)


def test_published_parameter_formula() -> None:
    """Without embeddings: attention 512 q + 2 * 512 kv + 1536 + 512 q + q, feed-forward 2 e f + f + e, norms 2 e."""
    net = Supernet(HatTransformer(), meta=True)
    rows = net.space.sample(20, np.random.default_rng(0))
    costs = net.costs(rows)
    for i, arch in enumerate(net.space.architectures(rows)):
        e, d = arch.integer("encoder.dim"), arch.integer("decoder.dim")

        def attention(q: int, kv: int) -> int:
            return 512 * q + 2 * 512 * kv + 1536 + 512 * q + q

        total = 32768 * max(e, d)
        for j in range(1, 7):
            f = arch.integer(f"encoder.layer{j}.hidden")
            total += attention(e, e) + 2 * e * f + f + e + 2 * 2 * e
        for j in range(1, arch.integer("decoder.layers") + 1):
            f = arch.integer(f"decoder.layer{j}.hidden")
            total += attention(d, d) + attention(d, e) + 2 * d * f + f + d + 3 * 2 * d
        assert costs.parameters[i] == total


def test_space() -> None:
    space = HatTransformer().space
    assert space.n_genes == 39
    decoder = sum((3 * 2 * 2 * 3) ** n for n in range(1, 7))
    assert space.size() == 2 * 2 * (3 * 2) ** 6 * decoder
    largest = space.largest()
    assert (largest["decoder.layers"], largest["decoder.layer6.attend"]) == (6, 2)
    assert "decoder.layer2.heads" not in space.smallest()


def test_positions_are_those_of_the_full_width() -> None:
    table = sinusoidal_table(10, 6, PAD)
    assert table.shape == (10, 6)
    assert (table[PAD] == 0).all()
    expected = [math.sin(3), math.sin(3 * 10000**-0.5), math.sin(3 * 10000**-1), math.cos(3)]
    torch.testing.assert_close(table[3, :4], torch.tensor(expected))
    net = Supernet(small_hat())
    narrow = net.space.architecture({**net.space.smallest().to_dict()})
    assert torch.equal(net.weights(narrow)["positions"], net.tensors()["positions"][:, :16])


def test_published_names_and_variants() -> None:
    net = supernet(small_hat())
    tensors = to_published(net)
    assert tensors["decoder.layers.2.encoder_attn.in_proj_weight"].shape == (36, 20)
    assert torch.equal(tensors["decoder.embed_tokens.weight"], tensors["encoder.embed_tokens.weight"])
    assert {"encoder.layers.0.fc1.bias", "decoder.layers.0.self_attn.out_proj.weight"} < set(tensors)
    assert not any("position" in key for key in tensors)
    with_rest = {
        **tensors,
        "encoder.version": torch.tensor([3.0]),
        "decoder.embed_positions._float_tensor": torch.zeros(1),
    }
    other = Supernet(small_hat(), seed=3)
    from_published(other, with_rest)
    own = {k: t for k, t in state(net).items() if k != "full.positions"}
    assert equal_states(own, {k: t for k, t in state(other).items() if k != "full.positions"})
    assert torch.equal(other.tensors()["positions"], sinusoidal_table(18, 20, PAD))
    meta = Supernet(small_hat(), meta=True)
    from_published(meta, tensors)
    assert equal_states(state(meta), state(other))
    tensors["decoder.embed_tokens.weight"] = tensors["decoder.embed_tokens.weight"] + 1
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight, which differs from"):
        from_published(other, tensors)
    with pytest.raises(CheckpointError, match=r"another number of classes or vocabulary"):
        from_published(Supernet(small_hat(vocab_size=24), meta=True), to_published(net))


# ---- generation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_incremental_decoding_equals_full_decoding(left: bool) -> None:
    net = supernet(small_hat())
    source, target = sentences(left=left)
    for arch in archs(net, 3):
        model = net.extract(arch)
        assert isinstance(model, TranslationTransformer)
        full = model(source, target)
        state = model.start(source)
        for t in range(target.shape[1]):
            before = state
            logits, state = model.step(target[:, t], state)
            torch.testing.assert_close(logits, full[:, t], rtol=1e-5, atol=1e-5)
            assert before.position == t  # a state is not changed: hypotheses may branch from it


@torch.no_grad()
def test_states_follow_their_hypotheses() -> None:
    net = supernet(small_hat())
    model = net.extract(net.space.largest())
    assert isinstance(model, TranslationTransformer)
    source, target = sentences(left=False)
    order = torch.tensor([2, 0, 0])
    state = model.start(source)
    for t in range(3):
        _, state = model.step(target[:, t], state)
    logits, _ = model.step(target[order, 3], state.reordered(order))
    torch.testing.assert_close(logits, model(source[order], target[order])[:, 3], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all_sentences() -> None:
    """Vocabulary of 6, at most 3 tokens: the beam is wide enough to be exhaustive."""
    net = supernet(small_hat(vocab_size=6, source_tokens=3, target_tokens=3), seed=3)
    model = net.extract(net.space.largest())
    assert isinstance(model, TranslationTransformer)
    source = torch.tensor([[3, 4, 5], [5, 5, 3]])
    words = [0, 3, 4, 5]
    candidates = [[], *[[a] for a in words], *[[a, b] for a in words for b in words]]
    for i in range(2):
        scores = []
        for c in candidates:
            target = torch.tensor([[END, *c]])
            logits = model(source[i : i + 1], target)[0]
            logits[:, PAD] = -torch.inf
            steps = torch.log_softmax(logits, 1)[range(len(c) + 1), [*c, END]]
            scores.append(float(steps.sum()) / (len(c) + 1))
        found = beam(model, source[i : i + 1], end=END, size=60, max_tokens=3)[0]
        assert found == candidates[int(np.argmax(scores))]


@torch.no_grad()
def test_a_beam_of_one_is_greedy_and_batches_do_not_matter() -> None:
    net = supernet(small_hat(), seed=1)
    model = net.extract(net.space.largest())
    assert isinstance(model, TranslationTransformer)
    source, _ = sentences(left=False)
    rows = greedy(model, source, end=END, max_tokens=10)
    assert rows == [greedy(model, source[i : i + 1], end=END, max_tokens=10)[0] for i in range(3)]
    assert rows == beam(model, source, end=END, size=1, max_tokens=10)
    wide = beam(model, source, end=END, size=4, max_tokens=10)
    assert wide == [beam(model, source[i : i + 1], end=END, size=4, max_tokens=10)[0] for i in range(3)]
    assert all(PAD not in row and END not in row for row in rows + wide)
    assert greedy(model, source, end=END, max_tokens=0) == [[], [], []]
    assert all(len(row) <= 16 for row in greedy(model, source, end=END) + beam(model, source, end=END))


# A toy language: every noun and verb has a translation, and the verb goes to the end of the sentence.
NOUNS = {"cat": "gato", "dog": "perro", "bird": "pajaro", "fish": "pez", "cow": "vaca", "horse": "caballo"}
VERBS = {"sees": "ve", "hears": "oye", "likes": "quiere", "follows": "sigue"}
ADJECTIVES = {"big": "grande", "small": "chico", "red": "rojo"}
WORDS = [
    "<s>",
    "<pad>",
    "</s>",
    "the",
    "el",
    *(w for d in (NOUNS, VERBS, ADJECTIVES) for pair in d.items() for w in pair),
]


def toy_corpus(n: int, seed: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        source, target = [], []
        for _ in range(2):
            noun, adjective = str(rng.choice(list(NOUNS))), str(rng.choice(list(ADJECTIVES)))
            has = rng.random() < 0.5
            source.append(["the", *([adjective] if has else []), noun])
            target.append(["el", NOUNS[noun], *([ADJECTIVES[adjective]] if has else [])])
        verb = str(rng.choice(list(VERBS)))
        pairs.append((" ".join([*source[0], verb, *source[1]]), " ".join([*target[0], *target[1], VERBS[verb]])))
    return pairs


def encode(texts: list[str], *, begin: bool) -> Tensor:
    rows = [[*([END] if begin else []), *(WORDS.index(w) for w in t.split()), *([] if begin else [END])] for t in texts]
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def test_a_toy_language_is_learned() -> None:
    family = HatTransformer(
        vocab_size=len(WORDS),
        source_tokens=8,
        target_tokens=8,
        max_tokens=16,
        dims=(48, 32),
        encoder_hidden=(64, 32),
        decoder_hidden=(64, 32),
        heads=(4, 2),
        encoder_layers=3,
        decoder_layers=(2, 1),
        inner=32,
        dropout=0.0,
        attention_dropout=0.0,
    )
    net = Supernet(family, seed=0).train()
    rng = np.random.default_rng(0)
    pairs = toy_corpus(500, seed=1)
    unseen = [p for p in toy_corpus(120, seed=2) if p not in pairs]
    steps = 200
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    largest, smallest = net.space.largest(), net.space.smallest()
    for step in range(steps):
        batch = [pairs[i] for i in rng.integers(0, len(pairs), 48)]
        source = encode([s for s, _ in batch], begin=False)
        target, wanted = encode([t for _, t in batch], begin=True), encode([t for _, t in batch], begin=False)
        arch = (largest, smallest, largest, net.space.architecture(net.space.sample(1, rng)[0]))[step % 4]
        loss = F.cross_entropy(net((source, target), arch).flatten(0, 1), wanted.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert len(unseen) > 50
    source = encode([s for s, _ in unseen], begin=False)
    for arch, least in ((largest, 90), (smallest, 30)):
        model = net.extract(arch)
        assert isinstance(model, TranslationTransformer)
        for rows in (greedy(model, source, end=END), beam(model, source, end=END, size=3)):
            texts = [" ".join(WORDS[i] for i in row) for row in rows]
            assert corpus_bleu(texts, [t for _, t in unseen]) > least, arch


def test_corpus_bleu() -> None:
    pytest.importorskip("sacrebleu")
    assert corpus_bleu(["the cat sat on the mat today"], ["the cat sat on the mat today"]) == pytest.approx(100)
    assert corpus_bleu(["a b c d e"], ["v w x y z"]) < 20


def test_without_sacrebleu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"BLEU needs sacrebleu, .* pip install 'hwsearch\[translation\]'"):
        corpus_bleu(["a"], ["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_hat(preset="huge"), r"preset must be one of .* but got 'huge'"),
        (lambda: small_hat(encoder_layers=2), "encoder_layers must be at least 3, but got 2"),
        (lambda: small_hat(heads=(5,)), r"heads must divide inner \(12\), but got \[5\]"),
        (
            lambda: small_hat(source_tokens=17),
            r"source_tokens and target_tokens must be at most max_tokens \(16\), but got 17 and 5",
        ),
        (lambda: small_hat(end=1), r"padding and end must be two ids below vocab_size \(23\), but got 1 and 1"),
        (lambda: beam(None, torch.zeros(1, 1), end=2, size=0), "size must be at least 1, but got 0"),  # type: ignore[arg-type]
        (lambda: corpus_bleu(["a"], []), "every hypothesis must have a reference, but got 1 and 0 sentences"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
